//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestTwentyRestartsLeakNothing kills every worker twenty times under load:
// at the end the master's memory and descriptors are what they were after
// the first time, within 5 %.
func TestTwentyRestartsLeakNothing(t *testing.T) {
	const rounds, workers, clients = 20, 4, 8
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.max_failures = 0\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))).allReady()
	var memory, descriptors [rounds + 1]int
	var kinds map[string]int
	for round := 1; round <= rounds; round++ {
		m.restartAll(round, clients)
		memory[round], descriptors[round], kinds = m.settled(clients)
		t.Logf("round %d: %d KiB, %d descriptors %v", round, memory[round], descriptors[round], kinds)
	}
	if first, last := memory[1], memory[rounds]; last > first+first/20 {
		t.Errorf("resident memory grew from %d to %d KiB", first, last)
	}
	if first, last := descriptors[1], descriptors[rounds]; last > first+first/20 {
		t.Errorf("descriptors grew from %d to %d", first, last)
	}
	m.stop()
}

// restartAll kills every worker under load and waits until all are back.
func (m *master) restartAll(round, clients int) {
	m.t.Helper()
	var over atomic.Bool
	served := newTally()
	load := crowd(clients, func(_, _ int) bool {
		c := caller{address: m.address}
		served.add(string(c.get("/work?ms=5").outcome), "")
		return !over.Load()
	})
	m.eventually("load", func() bool { return served.count(string(complete)) > 20 })
	for _, w := range m.workers() {
		if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
			m.t.Fatal(err)
		}
	}
	m.eventually("every worker restarted", func() bool {
		return !slices.ContainsFunc(m.workers(), func(w workerStatus) bool { return w.State != "ready" || w.Restarts < round })
	})
	over.Store(true)
	load.Wait()
}

// settled measures the master at rest, after the same load each time: enough
// of it that buffers and the heap have reached the size that this load needs.
func (m *master) settled(clients int) (memory, descriptors int, kinds map[string]int) {
	m.t.Helper()
	crowd(clients, func(_, turn int) bool {
		c := caller{address: m.address}
		if a := c.get("/work?ms=1"); a.outcome != complete || a.status != 200 {
			m.t.Errorf("after the restart: %v", a)
		}
		return turn < 250
	}).Wait()
	m.eventually("no connection of a client left", func() bool { return m.metric("stoker_requests_in_flight") == 0 })
	memory, descriptors = 1<<30, 1<<30
	// The least of a second: a collection or a probe may be under way just now.
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		memory = min(memory, m.residentKiB())
		if n, k := m.descriptors(); n < descriptors {
			descriptors, kinds = n, k
		}
	}
	return memory, descriptors, kinds
}
