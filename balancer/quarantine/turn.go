package quarantine

import "context"

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
