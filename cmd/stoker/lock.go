package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"stoker/config"
)

// lock is the run directory, held by one master. The kernel drops it when the
// master ends, however it ends: there is no stale lock.
type lock struct{ file *os.File }

// takeRunDir makes the run directory and locks it.
func takeRunDir(cfg *config.Config) (*lock, error) {
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("make run directory: %w; choose another one with --run-dir or run_dir", err)
	}
	file, err := os.OpenFile(cfg.LockFile(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock run directory: %w; choose another one with --run-dir or run_dir", err)
	}
	err = syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		holder := readHolder(file)
		file.Close()
		return nil, fmt.Errorf("run directory %s is held by another stoker%s: stop that one, or choose another directory with --run-dir or run_dir", cfg.RunDir, holder)
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	if err := writeHolder(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("write %s: %w", file.Name(), err)
	}
	return &lock{file: file}, nil
}

// release lets the directory go. The file stays: removing it would let two
// masters lock two files of one name.
func (l *lock) release() { l.file.Close() }

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
