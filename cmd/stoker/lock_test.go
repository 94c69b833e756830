package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"stoker/config"
)

// TestLockThatIsLeft: a master that could not start takes everything away that
// it has made, and whoever has opened its lock meanwhile does not take that for
// the run directory's.
func TestLockThatIsLeft(t *testing.T) {
	above := t.TempDir()
	cfg := &config.Config{RunDir: filepath.Join(above, "new", "run")}
	first, err := takeRunDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := takeRunDir(cfg); !errors.Is(err, errHeld) {
		t.Errorf("while it is held: %v", err)
	}
	file, err := os.OpenFile(cfg.LockFile(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	late := &lock{file: file}
	defer late.release()
	first.leave()
	if left, err := os.ReadDir(above); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v (%v)", left, err)
	}
	if err := late.take(cfg.RunDir); !errors.Is(err, errLeft) {
		t.Errorf("a lock that nobody finds: %v", err)
	}
	second, err := takeRunDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	second.release()
	if _, err := os.Stat(cfg.LockFile()); err != nil {
		t.Errorf("the lock of a master that did start: %v", err)
	}
}
