//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// keeperV1 builds the keeper of the first protocol version, as it was.
func keeperV1(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keeperv1")
	cmd := exec.Command("go", "build", "-buildvcs=false", "-tags", "keeperv1", "-o", path, "./supervisor/keeper/testdata/keeperv1")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the keeper of version 1: %v: %s", err, out)
	}
	return path
}

// growOld replaces a worker's keeper by one of version 1 while no master lives,
// with an engine of its own, so that the next master finds what one of long ago left.
func (m *master) growOld(w workerStatus, old string) {
	m.t.Helper()
	for _, pid := range []int{w.KeeperPID, w.PID} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			m.t.Fatal(err)
		}
		m.eventually(fmt.Sprintf("process %d has ended", pid), func() bool { return !alive(pid) })
	}
	if err := os.Remove(strings.TrimPrefix(w.Address, "unix:")); err != nil {
		m.t.Fatal(err)
	}
	dir := filepath.Join(m.runDir, "keepers", w.Name)
	m.eventually("the directory is free", func() bool { return m.unlocked(filepath.Join(dir, "keeper.lock")) })
	if err := os.Remove(filepath.Join(dir, "state.json")); err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(old, "keeper", "--dir", dir)
	cmd.Env, cmd.Stderr = m.cmd.Env, create(m.t, m.stderr)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the test at the latest
	m.eventually("its engine answers", func() bool { _, err := askEngine(w.Address, "/health"); return err == nil })
}

// TestKeeperOfVersionOne: an engine that a master of long ago has started is
// adopted, survives an upgrade, and keeps out a binary that could not speak with
// its keeper any more; one that was restarted keeps out nobody.
func TestKeeperOfVersionOne(t *testing.T) {
	waits(t)
	old := keeperV1(t)
	u := startUpgradable(t, "")
	aged := u.workers()[0]
	u.signal(syscall.SIGKILL)
	u.exit(patience)
	u.growOld(aged, old)
	u.master = u.again().allReady()
	now := u.worker(aged.Name)
	if now.PID == aged.PID || now.KeeperPID == aged.KeeperPID || now.Restarts != 0 {
		t.Errorf("not adopted: %+v", now)
	}
	u.pids[now.Name] = now.PID
	delete(u.starts, aged.PID)

	forgetful := "#!/bin/sh\necho '{\"version\":\"three\",\"keeper_protocol\":[2,3]}'\n"
	tryForgetful := func() string {
		if err := writeProgram(u.path+".new", []byte(forgetful)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(u.path+".new", u.path); err != nil {
			t.Fatal(err)
		}
		// By the binary under test, since the other is none.
		text, code := u.command("upgrade")
		if code == 0 {
			t.Errorf("upgraded to a binary that is none: %s", text)
		}
		return text
	}
	if text := tryForgetful(); !strings.Contains(text, "three") || !strings.Contains(text, "p-0's version 1;") || strings.Contains(text, "p-1") {
		t.Errorf("refused with %q", text)
	}
	u.untouched()
	u.installVersion(1)
	u.mustUpgrade()
	u.untouched()
	u.serves()

	u.mustCommand("restart", aged.Name)
	// It may speak with all that live now; that it does nothing else shows later.
	if text := tryForgetful(); strings.Contains(text, "keeper") {
		t.Errorf("refused with %q", text)
	}
	u.installVersion(0)
	u.endAll()
}
