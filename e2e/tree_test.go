//go:build e2e

package e2e

import (
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestWholeTreeEnds: an engine has a child in a session of its own, and a
// grandchild whose parent has gone, both deaf to TERM. Whatever ends the
// engine must end them too: on a GPU they would hold its memory.
func TestWholeTreeEnds(t *testing.T) {
	waits(t)
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\nstop.grace = \"2s\"\ncommand = "+list(engine("--family", "--socket", "{socket}")...)+"\n").allReady()
	first := m.sleepers(2)
	if err := syscall.Kill(m.workers()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.eventually("the worker restarted", func() bool { w := m.workers()[0]; return w.State == "ready" && w.Restarts == 1 })
	for _, pid := range first {
		if alive(pid) {
			t.Errorf("process %d of the killed engine's tree lives after the restart", pid)
		}
	}
	second := slices.DeleteFunc(m.sleepers(4), func(pid int) bool { return slices.Contains(first, pid) })
	m.signal(syscall.SIGTERM)
	// The engine itself went on TERM. That deaf processes of its tree had to be
	// killed makes the end no graceful one, as if the engine had been deaf.
	if code := m.exit(patience); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
	for _, pid := range second {
		if alive(pid) {
			t.Errorf("process %d of the stopped engine's tree lives after the stop", pid)
		}
	}
	m.nothingLeft()
}

// TestTerminalInterrupt: Ctrl-C goes to the whole foreground process group,
// and must end all as one TERM to the master does.
func TestTerminalInterrupt(t *testing.T) {
	waits(t)
	m := startAs(t, "", setup{args: append([]string{
		"run", "--listen", "{listen}", "--run-dir", "{run_dir}", "--workers", "2", "--",
	}, engine("--family", "--socket", "{socket}")...), group: true}).allReady()
	m.sleepers(4)
	if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := m.exit(patience); code != 3 {
		t.Errorf("exit code %d, want 3: deaf processes had to be killed", code)
	}
	m.nothingLeft()
}

// sleepers waits until n sleepers have noted their process ids.
func (m *master) sleepers(n int) []int {
	m.t.Helper()
	var pids []int
	m.eventually("sleepers "+strconv.Itoa(n), func() bool {
		pids = nil
		for _, event := range m.engineEvents() {
			if number, ok := strings.CutPrefix(event, "sleeper "); ok {
				pid, err := strconv.Atoi(number)
				if err != nil {
					m.t.Fatal(err)
				}
				pids = append(pids, pid)
			}
		}
		return len(pids) >= n
	})
	return pids
}
