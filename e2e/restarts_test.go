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
// the end the master's resident memory and descriptors are what they were after the
// first time, within 5 %. Before they are taken then, the master has had all the load
// of the rest, so that what differs is the restarts alone. Everything is on that is on by itself: the flight recorder
// keeps what each death broke off, and each death is reported.
func TestTwentyRestartsLeakNothing(t *testing.T) {
	const rounds, workers, clients = 20, 4, 8
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.max_failures = 0\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))).allReady()
	m.restartAll(1, clients)
	for range rounds {
		m.loaded(clients)
	}
	first := m.settled(clients)
	for round := 2; round <= rounds; round++ {
		m.restartAll(round, clients)
	}
	last := m.settled(clients)
	t.Logf("after the first: %+v; after the last: %+v", first, last)
	if grown := last.own - first.own; !raced && grown > (first.own+first.program)/20 {
		t.Errorf("resident memory grew by %d of %d KiB", grown, first.own+first.program)
	}
	if last.descriptors > first.descriptors+first.descriptors/20 {
		_, kinds := m.descriptors()
		t.Errorf("descriptors grew from %d to %d: %v", first.descriptors, last.descriptors, kinds)
	}
	m.stop()
}

// loaded asks as much of the master as restartAll does, and kills nobody.
func (m *master) loaded(clients int) {
	m.t.Helper()
	m.underLoad(clients, func(served *tally) {
		m.eventually("more load", func() bool { return len(m.workers()) > 0 && served.count(string(complete)) > 300 })
	})
}

// restartAll kills every worker under load and waits until all are back.
func (m *master) restartAll(round, clients int) {
	m.t.Helper()
	m.underLoad(clients, func(*tally) {
		for _, w := range m.workers() {
			if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
				m.t.Fatal(err)
			}
		}
		m.eventually("every worker restarted", func() bool {
			return !slices.ContainsFunc(m.workers(), func(w workerStatus) bool { return w.State != "ready" || w.Restarts < round })
		})
	})
}

// underLoad does something while clients are served.
func (m *master) underLoad(clients int, do func(served *tally)) {
	m.t.Helper()
	var over atomic.Bool
	served := newTally()
	load := crowd(clients, func(_, _ int) bool {
		c := caller{address: m.address}
		served.add(string(c.get("/work?ms=5").outcome), "")
		return !over.Load()
	})
	m.eventually("load", func() bool { return served.count(string(complete)) > 20 })
	do(served)
	over.Store(true)
	load.Wait()
}

// holdings are what a master holds. Pages of its program are resident too, but the
// kernel lends them and takes them back as it likes: they are no part of what grows.
type holdings struct{ own, program, descriptors int }

// settled measures the master at rest, after the same load each time: the least that
// is seen in eight seconds, within which what the load has left is given back.
func (m *master) settled(clients int) holdings {
	m.t.Helper()
	crowd(clients, func(_, turn int) bool {
		c := caller{address: m.address}
		if a := c.get("/work?ms=1"); a.outcome != complete || a.status != 200 {
			m.t.Errorf("after the restart: %v", a)
		}
		return turn < 500
	}).Wait()
	least := holdings{own: 1 << 30, descriptors: 1 << 30}
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if own := m.residentKiB("RssAnon") + m.residentKiB("RssShmem"); own < least.own {
			least.own, least.program = own, m.residentKiB("RssFile")
		}
		total, _ := m.descriptors()
		least.descriptors = min(least.descriptors, total)
	}
	return least
}
