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
// the end the master's memory and descriptors are what they were after the first
// time, within 5 %. Everything is on that is on by itself: the flight recorder
// keeps what each death broke off, and each death is reported.
func TestTwentyRestartsLeakNothing(t *testing.T) {
	const rounds, workers, clients = 20, 4, 8
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.max_failures = 0\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))).allReady()
	// What the start alone needed is given back two seconds after it, pages of the
	// program among it, which come again as they are used: not before that.
	time.Sleep(3 * time.Second)
	m.restartAll(1, clients)
	memory, descriptors := m.settled(clients)
	for round := 2; round <= rounds; round++ {
		m.restartAll(round, clients)
	}
	memoryAfter, descriptorsAfter := m.settled(clients)
	for range 5 { // what the collector has not given back yet is no leak
		if memoryAfter > memory+memory/20 {
			less, _ := m.settled(clients)
			memoryAfter = min(memoryAfter, less)
		}
	}
	t.Logf("after the first: %d KiB, %d descriptors; after the last: %d KiB, %d descriptors", memory, descriptors, memoryAfter, descriptorsAfter)
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
