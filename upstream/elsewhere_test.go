package upstream

import (
	"testing"
	"time"
)

// TestElsewhereCounts: requests of another process count in the choice, in
// drains and in the figures, until they are said to be over.
func TestElsewhereCounts(t *testing.T) {
	p := NewPool("p", PoolOptions{QueueLength: 1, QueueTimeout: time.Second})
	a, b := p.Add("a", 1), p.Add("b", 1)
	a.Reset("unix:/a")
	b.Reset("unix:/b")
	a.SetReady(true)
	b.SetReady(true)
	p.SetElsewhere(map[string]int{"a": 3})
	for range 3 {
		if m, err := p.Acquire(t.Context(), Want{}); err != nil || m != b {
			t.Fatalf("acquired %v, %v; want b, which has fewer", m, err)
		}
	}
	if s := p.Stats().Members[0]; s.InFlight != 3 || s.Elsewhere != 3 || a.InFlight() != 3 {
		t.Errorf("figures: %+v", s)
	}
	idle := a.whenIdle()
	select {
	case <-idle:
		t.Error("idle with three requests elsewhere")
	default:
	}
	p.SetElsewhere(nil)
	select {
	case <-idle:
	default:
		t.Error("not idle once they are over")
	}
}
