//go:build keeperv1

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is one line of the kernel's list, as /proc/PID/stat had it. Pid and
// start name it for as long as the machine is up.
type process struct {
	pid, ppid, group, session int
	start                     uint64
	// zombie: all of it has ended. A process whose first thread alone has ended
	// also shows as Z, and lives.
	zombie bool
}

// bootID is the kernel's name for this boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// readProcess looks one process up.
func readProcess(pid int) (process, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) // not os.ReadFile: thousands are read, in a process that stays small
	if err != nil {
		return process{}, fmt.Errorf("%s: %w", path, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read
	var buf [1024]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return process{}, fmt.Errorf("%s: %w", path, err)
	}
	return parseStat(buf[:n])
}

// parseStat reads proc_pid_stat(5). The command's name, in parentheses, may
// itself hold spaces and parentheses, so fields are counted from the last one.
func parseStat(b []byte) (process, error) {
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 1 || shut < open {
		return process{}, fmt.Errorf("stat of a process: no name in %.60q", b)
	}
	fields := strings.Fields(string(b[shut+1:]))
	if len(fields) < 20 {
		return process{}, fmt.Errorf("stat of a process: %d fields", len(fields))
	}
	var p process
	var err error
	number := func(s string) int {
		n, e := strconv.Atoi(s)
		err = errors.Join(err, e)
		return n
	}
	p.pid = number(strings.TrimSpace(string(b[:open])))
	p.ppid, p.group, p.session = number(fields[1]), number(fields[2]), number(fields[3])
	p.zombie = (fields[0] == "Z" || fields[0] == "X") && number(fields[17]) <= 1
	start, e := strconv.ParseUint(fields[19], 10, 64)
	p.start = start
	return p, errors.Join(err, e)
}

// listProcesses reads them all. One that ends meanwhile is left out, one that
// begins may be.
func listProcesses() ([]process, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer d.Close() //nolint:errcheck // only read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	all := make([]process, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, err := readProcess(pid); err == nil {
			all = append(all, p)
		}
	}
	return all, nil
}

// below returns the processes of all, zombies left out, that descend from root.
func below(all []process, root int) []process {
	children := make(map[int][]process)
	for _, p := range all {
		children[p.ppid] = append(children[p.ppid], p)
	}
	var found []process
	seen := map[int]bool{root: true}
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		for _, p := range children[queue[0]] {
			if seen[p.pid] {
				continue // a list read while pids change hands may hold a circle
			}
			seen[p.pid] = true
			queue = append(queue, p.pid)
			if !p.zombie {
				found = append(found, p)
			}
		}
	}
	return found
}

// send signals exactly p and says whether it was there to be signalled. The
// pidfd is opened first and p looked up again after: either it is still p, or
// the signal goes to nobody.
func (p process) send(sigs ...syscall.Signal) (bool, error) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("pidfd of %d: %w", p.pid, err)
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	now, err := readProcess(p.pid)
	if err != nil || now.start != p.start || now.zombie {
		return false, nil // it has ended: that is the answer
	}
	for _, sig := range sigs {
		err := unix.PidfdSendSignal(fd, sig, nil, 0)
		if errors.Is(err, unix.ESRCH) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("signal %d to %d: %w", sig, p.pid, err)
		}
	}
	return true, nil
}

// hasEnv says whether p was executed with the entry (KEY=VALUE) in its environment.
func (p process) hasEnv(entry string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid) + "/environ")
	if err != nil {
		return false
	}
	for e := range bytes.SplitSeq(b, []byte{0}) {
		if string(e) == entry {
			return true
		}
	}
	return false
}

// writesTo says whether stdout or stderr of p is one of the pipes.
func (p process) writesTo(pipes []uint64) bool {
	for _, fd := range []string{"1", "2"} {
		target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(p.pid), "fd", fd))
		if err != nil {
			continue
		}
		for _, inode := range pipes {
			if target == "pipe:["+strconv.FormatUint(inode, 10)+"]" {
				return true
			}
		}
	}
	return false
}
