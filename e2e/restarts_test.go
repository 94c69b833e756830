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

// TestTwentyRestartsLeakNothing kills every worker twenty times under load: at
// the end the master's memory and descriptors are what they were before, within
// 5 %. The flight recorder is on, and keeps what each death broke off. A few
// restarts come first: what Go's runtime needs for itself grows for as long.
func TestTwentyRestartsLeakNothing(t *testing.T) {
	const before, rounds, workers, clients = 3, 20, 4, 8
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.max_failures = 0\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))).allReady()
	for round := 1; round <= before; round++ {
		m.restartAll(round, clients)
	}
	memory, descriptors := m.settled(clients)
	for round := before + 1; round <= before+rounds; round++ {
		m.restartAll(round, clients)
	}
	memoryAfter, descriptorsAfter := m.settled(clients)
	t.Logf("before: %d KiB, %d descriptors; after: %d KiB, %d descriptors", memory, descriptors, memoryAfter, descriptorsAfter)
	if !raced && memoryAfter > memory+memory/20 {
		t.Errorf("resident memory grew from %d to %d KiB", memory, memoryAfter)
	}
	if descriptorsAfter > descriptors+descriptors/20 {
		_, kinds := m.descriptors()
		t.Errorf("descriptors grew from %d to %d: %v", descriptors, descriptorsAfter, kinds)
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

// settled measures the master at rest, after the same load each time: the least
// of what is seen in a few rests. What the collector holds at the end of a load
// is chance, and so is how many connections to engines are idle for a while.
func (m *master) settled(clients int) (memoryKiB, descriptors int) {
	m.t.Helper()
	memoryKiB, descriptors = 1<<30, 1<<30
	for _, rest := range []time.Duration{time.Second, time.Second, time.Second, 5 * time.Second} {
		crowd(clients, func(_, turn int) bool {
			c := caller{address: m.address}
			if a := c.get("/work?ms=1"); a.outcome != complete || a.status != 200 {
				m.t.Errorf("after the restart: %v", a)
			}
			return turn < 500
		}).Wait()
		for end := time.Now().Add(rest); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			memoryKiB = min(memoryKiB, m.residentKiB())
			total, _ := m.descriptors()
			descriptors = min(descriptors, total)
		}
	}
	return memoryKiB, descriptors
}
