package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// holder is the master that holds a run directory, seen from another process of
// the same service: it is in this process's control group, and has the lock file
// open with the lock on it, which no file with a number in it could prove.
type holder struct {
	pid int
	// handle is a pidfd: what is signalled by it is this process and no other.
	handle int
}

// findHolder looks for the holder; nil: whoever holds the lock is no part of
// this service, or may not be looked at, or has gone.
func findHolder(lockFile string) *holder {
	lock, err := os.Stat(lockFile)
	if err != nil {
		return nil
	}
	mine, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || len(mine) == 0 {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found *holder
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || !sameCgroup(pid, mine) {
			continue
		}
		// The handle first: what is then found to be true of the number is true of it.
		handle, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !holdsLock(pid, lock) || !sameCgroup(pid, mine) {
			_ = unix.Close(handle)
			continue
		}
		// In the middle of an upgrade there are two. The younger one is who stays:
		// the elder is about to leave, or the younger will fail and be waited for.
		if found != nil {
			found.close()
		}
		found = &holder{pid: pid, handle: handle}
	}
	return found
}

func sameCgroup(pid int, mine []byte) bool {
	its, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	return err == nil && bytes.Equal(its, mine)
}

// holdsLock reports whether a process has the lock file open with the lock on it.
func holdsLock(pid int, lock os.FileInfo) bool {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	open, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return false
	}
	for _, fd := range open {
		file, err := os.Stat(filepath.Join(dir, "fd", fd.Name()))
		if err != nil || !os.SameFile(file, lock) {
			continue
		}
		info, err := os.ReadFile(filepath.Join(dir, "fdinfo", fd.Name())) //nolint:gosec // the kernel's names
		if err == nil && bytes.Contains(info, []byte("FLOCK")) {
			return true
		}
	}
	return false
}

func (h *holder) close() { _ = unix.Close(h.handle) }

// signal sends sig to it; an error says that it has gone.
func (h *holder) signal(sig unix.Signal) error { return unix.PidfdSendSignal(h.handle, sig, nil, 0) }

// ended waits for its end, for d at most.
func (h *holder) ended(d time.Duration) bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.handle), Events: unix.POLLIN}}, int(d.Milliseconds()))
	return err == nil && n == 1
}

// askLimit bounds one question to a master.
const askLimit = time.Second

// state is what the master at the admin socket says of itself, if it is this one.
func (h *holder) state(ctx context.Context, socket string) string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://stoker/status", nil)
	if err != nil {
		return ""
	}
	resp, err := client.Do(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	var s status
	if json.NewDecoder(resp.Body).Decode(&s) != nil || s.PID != h.pid {
		return ""
	}
	return s.State
}
