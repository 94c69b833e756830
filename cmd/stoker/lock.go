package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"stoker/config"
)

// lock is the run directory, held by one master. The kernel drops it when the
// master ends, however it ends: there is no stale lock.
type lock struct{ file *os.File }

// errHeld: a master that lives has the run directory.
var errHeld = errors.New("is held by another stoker")

// takeRunDir makes the run directory and locks it.
func takeRunDir(cfg *config.Config) (*lock, error) {
	// Engines that run as other users must reach their sockets below it.
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil { //nolint:gosec // nobody can list it or write to it; what is inside has modes of its own
		return nil, fmt.Errorf("make run directory: %w; choose another one with --run-dir or run_dir", err)
	}
	held, err := holdRunDir(cfg.RunDir, cfg.LockFile())
	if err != nil {
		return nil, fmt.Errorf("%w, or choose another one with --run-dir or run_dir", err)
	}
	// An earlier master's; this one has not been asked to stop.
	if err := os.Remove(cfg.StopMark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		held.release()
		return nil, fmt.Errorf("clear run directory: %w", err)
	}
	return held, nil
}

// holdRunDir locks a run directory that exists.
func holdRunDir(runDir, lockFile string) (*lock, error) {
	file, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's choice
	if err != nil {
		return nil, fmt.Errorf("lock run directory: %w", err)
	}
	l := &lock{file: file}
	if err := l.take(runDir); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

// take locks the file and writes our pid into it, for who comes later.
func (l *lock) take(runDir string) error {
	err := syscall.Flock(int(l.file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("run directory %s %w%s: stop that one first", runDir, errHeld, readHolder(l.file))
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", l.file.Name(), err)
	}
	if err := writeHolder(l.file); err != nil {
		return fmt.Errorf("write %s: %w", l.file.Name(), err)
	}
	return nil
}

// markStop notes in the run directory that this master was asked to stop: if it
// is killed before it is done, its engines must not wait for another.
func markStop(cfg *config.Config) error {
	if err := os.WriteFile(cfg.StopMark(), nil, 0o600); err != nil {
		return fmt.Errorf("note the stop: %w", err)
	}
	return nil
}

// sign writes our pid into the file, for who comes later.
func (l *lock) sign() error { return writeHolder(l.file) }

// release lets the directory go. The file stays: removing it would let two
// masters lock two files of one name.
func (l *lock) release() { _ = l.file.Close() }

func writeHolder(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// readHolder is " (pid N)", or nothing if the file does not say.
func readHolder(f *os.File) string {
	b, err := io.ReadAll(io.LimitReader(f, 32))
	if err != nil {
		return ""
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d)", pid)
}
