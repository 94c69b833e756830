package supervisor

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestResponds(t *testing.T) {
	m := startMaster(t, realConfig(t, 2, "--socket", "{socket}", "--load", "300ms"))
	// While they start, load and serve: no state is deaf.
	m.eventually("all ready", func() bool {
		if err := m.Responds(t.Context()); err != nil {
			t.Fatal(err)
		}
		ready, total := m.Ready()
		return ready == total
	})
	for _, w := range m.Status()[0].Workers {
		if w.Restarts != 0 {
			t.Errorf("%s was restarted: asking changed something", w.Name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	m.Stop(ctx)
	if err := m.Responds(t.Context()); err != nil {
		t.Errorf("after the end: %v", err)
	}
}

// TestHangingWorkerDoesNotRespond: one whose goroutine never comes to listen.
func TestHangingWorkerDoesNotRespond(t *testing.T) {
	deaf := &worker{name: "e-0", requests: make(chan request), done: make(chan struct{})}
	s := &Supervisor{pools: []*poolWorkers{{posts: []*post{{worker: deaf}}}}}
	if err := s.Responds(t.Context()); err != nil {
		t.Errorf("before the start: %v", err)
	}
	s.started.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := s.Responds(ctx); err == nil || !strings.Contains(err.Error(), "worker e-0 does not respond") {
		t.Errorf("got %v", err)
	}
}
