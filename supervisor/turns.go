package supervisor

import (
	"context"
	"sync"
)

// turns limits how many workers of a pool load at once: a model read by eight
// engines together is read eight times as slowly. First come, first served.
type turns struct {
	limit int // 0: no limit

	mu      sync.Mutex
	taken   int
	waiting []chan struct{}
}

// setLimit changes the limit. Who loads already goes on.
func (t *turns) setLimit(limit int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limit = limit
	t.grant()
}

// try takes a turn if one is free and nobody waits for it.
func (t *turns) try() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.limit > 0 && (t.taken >= t.limit || len(t.waiting) > 0) {
		return false
	}
	t.taken++
	return true
}

// force takes a turn beyond the limit if need be: an engine that a former
// master left is loading already, whatever the limit says.
func (t *turns) force() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken++
}

// wait blocks until a turn is taken, or ctx ends.
func (t *turns) wait(ctx context.Context) error {
	if t.try() {
		return nil
	}
	t.mu.Lock()
	mine := make(chan struct{})
	t.waiting = append(t.waiting, mine)
	t.grant() // one may have become free since try
	t.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
		return t.leave(mine, context.Cause(ctx))
	}
}

// leave gives up waiting, and the turn if it was granted in the same moment.
func (t *turns) leave(mine chan struct{}, why error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, other := range t.waiting {
		if other == mine {
			t.waiting = append(t.waiting[:i:i], t.waiting[i+1:]...)
			return why
		}
	}
	t.taken--
	t.grant()
	return why
}

// done gives a turn back.
func (t *turns) done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	t.grant()
}

// grant hands out free turns. The lock is held.
func (t *turns) grant() {
	for len(t.waiting) > 0 && (t.limit == 0 || t.taken < t.limit) {
		t.taken++
		close(t.waiting[0])
		t.waiting = t.waiting[1:]
	}
}
