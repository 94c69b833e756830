package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"stoker/config"
)

// lock is the run directory, held by one master. The kernel drops it when the
// master ends, however it ends: there is no stale lock.
type lock struct {
	file *os.File
	// made are the directories that were made for it, the innermost last.
	made []string
}

// errHeld: a master that lives has the run directory.
var errHeld = errors.New("is held by another stoker")

// errLeft: whoever held the lock has taken the file away with it.
var errLeft = errors.New("the lock's file was removed")

// takeRunDir makes the run directory and locks it.
func takeRunDir(cfg *config.Config) (*lock, error) {
	var made []string
	held, err := (*lock)(nil), errLeft
	for try := 0; errors.Is(err, errLeft) && try < 10; try++ {
		more, cannot := makeRunDir(cfg.RunDir)
		made = append(made, more...)
		if cannot != nil {
			return nil, fmt.Errorf("make run directory: %w; choose another one with --run-dir or run_dir", cannot)
		}
		held, err = holdRunDir(cfg.RunDir, cfg.LockFile())
	}
	if err != nil {
		return nil, fmt.Errorf("%w, or choose another one with --run-dir or run_dir", err)
	}
	held.made = made
	// An earlier master's; this one has not been asked to stop.
	if err := os.Remove(cfg.StopMark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		held.release()
		return nil, fmt.Errorf("clear run directory: %w", err)
	}
	return held, nil
}

// makeRunDir makes the run directory and those above it, and says which were
// not there. Engines that run as other users must reach their sockets below it;
// nobody can list it or write to it, and what is inside has modes of its own.
func makeRunDir(dir string) (made []string, err error) {
	for missing := dir; ; missing = filepath.Dir(missing) {
		if _, err := os.Lstat(missing); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		made = append(made, missing)
	}
	slices.Reverse(made)
	return made, os.MkdirAll(dir, 0o711) //nolint:gosec // as it says
}

// holdRunDir locks a run directory that exists.
func holdRunDir(runDir, lockFile string) (*lock, error) {
	file, err := os.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errLeft, err) // with its directory
	}
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
	if !l.inPlace() {
		return fmt.Errorf("lock run directory: %w", errLeft)
	}
	if err := writeHolder(l.file); err != nil {
		return fmt.Errorf("write %s: %w", l.file.Name(), err)
	}
	return nil
}

// inPlace reports whether the file is the one that others find by its name.
// Else there would be two masters, each with a file of its own of that name.
func (l *lock) inPlace() bool {
	ours, err := l.file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(l.file.Name())
	return err == nil && os.SameFile(ours, there)
}

// leave takes away what was made to hold the directory, and lets it go: for a
// master that could not start. Whoever has opened the file meanwhile sees that
// it is not in place any more.
func (l *lock) leave() {
	_ = os.Remove(l.file.Name()) // whatever it is that fails here: it is only untidy
	for _, dir := range slices.Backward(l.made) {
		_ = os.Remove(dir) // unless it is empty, it stays
	}
	l.release()
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

// release lets the directory go.
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
