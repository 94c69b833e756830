//go:build e2e

package e2e

import (
	"slices"
	"syscall"
	"testing"
)

// TestMasterKilled: engines live on without their master, and the next master
// of the run directory adopts them: no load is lost, no slot has two engines.
func TestMasterKilled(t *testing.T) {
	m := start(t, fakePool(2)).allReady()
	first := m.workers()
	m.signal(syscall.SIGKILL)
	m.exit(patience)
	for _, w := range first {
		if !alive(w.PID) || !alive(w.KeeperPID) {
			t.Errorf("%s: engine %d lives: %v, keeper %d lives: %v; both should", w.Name, w.PID, alive(w.PID), w.KeeperPID, alive(w.KeeperPID))
		}
	}
	next := m.again().allReady()
	if a := (&caller{address: next.address}).get("/work"); a.outcome != complete || a.status != 200 {
		t.Errorf("through the next master: %v", a)
	}
	var pids []int
	for i, w := range next.workers() {
		pids = append(pids, w.PID, w.KeeperPID)
		if w.PID != first[i].PID {
			t.Errorf("%s: engine %d, before %d", w.Name, w.PID, first[i].PID)
		}
	}
	for _, p := range next.descendants() {
		if !slices.Contains(pids, p.pid) {
			t.Errorf("%v runs, and is no worker of the next master", p)
		}
	}
	next.stop()
}

// TestOrphansEnd: keepers that no master comes back for end their engines
// after orphan_timeout.
func TestOrphansEnd(t *testing.T) {
	waits(t)
	m := start(t, "orphan_timeout = \"1s\"\n"+fakePool(2)).allReady()
	m.signal(syscall.SIGKILL)
	m.exit(patience)
	m.eventually("everything ended", func() bool { return len(m.descendants()) == 0 })
	if events := m.engineEvents(); !slices.Contains(events, "term") {
		t.Errorf("the engines were not asked to end: %v", events)
	}
}
