package quarantine

import (
	"context"
	"slices"
)

// turn lets one instance of a print be tried at a time.
type turn struct {
	free  chan struct{} // holds one while nobody has it
	users int           // who has it or waits
}

// Turn waits until no other instance of a suspected print is being tried, or
// ctx ends. Whoever has it asks Judge again: the one before may have freed or
// convicted them all.
func (c *Court) Turn(ctx context.Context, p Print) (done func(), err error) {
	c.mu.Lock()
	t := c.turns[p]
	if t == nil {
		t = &turn{free: make(chan struct{}, 1)}
		t.free <- struct{}{}
		c.turns[p] = t
	}
	t.users++
	c.mu.Unlock()
	leave := func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if t.users--; t.users == 0 {
			delete(c.turns, p)
			c.move()
		}
	}
	select {
	case <-t.free:
		return func() {
			t.free <- struct{}{}
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// Yield waits while others are to be tried before who has these prints: those that
// had passed, and were beside it, when its last engine died. Once they are answered
// it may be the only one that both its deaths share, and no third is needed.
func (c *Court) Yield(ctx context.Context, p Prints) error {
	for {
		c.mu.Lock()
		rivals, moved := c.hasRivals(p), c.moved
		c.mu.Unlock()
		if !rivals {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// hasRivals says whether somebody is being tried, or waits for it, for whom it is
// better to wait. The lock is held.
func (c *Court) hasRivals(p Prints) bool {
	for _, d := range slices.Backward(c.deaths) {
		at := slices.IndexFunc(d.Suspects, func(s Suspect) bool {
			return s.Request == p.Request && p.Request != (Print{}) || s.Schema == p.Schema && p.Schema != (Print{})
		})
		if at < 0 || d.Explained {
			continue
		}
		return !d.Suspects[at].Past && slices.ContainsFunc(d.Suspects, func(s Suspect) bool {
			return s.Past && (c.turns[s.Request] != nil || c.turns[s.Schema] != nil)
		})
	}
	return false
}

// move wakes those who wait for others' trials. The lock is held.
func (c *Court) move() {
	close(c.moved)
	c.moved = make(chan struct{})
}
