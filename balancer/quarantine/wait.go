package quarantine

import (
	"context"
	"errors"
)

// ErrChanged ends the context of WhileSuspected: how a request stands has changed.
var ErrChanged = errors.New("it is suspected no more")

// wait is a request's for a place apart from others.
type wait struct {
	prints Prints
	end    context.CancelCauseFunc
}

// WhileSuspected returns a context that ends, with ErrChanged, as soon as a request
// with these prints is suspected no more, or convicted: somebody was answered well, or
// convicted, or an operator has said so. done is to be called when it waits no more.
func (c *Court) WhileSuspected(ctx context.Context, p Prints) (suspected context.Context, done func()) {
	ctx, end := context.WithCancelCause(ctx)
	w := &wait{p, end}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting[w] = struct{}{}
	c.tell(w)
	return ctx, func() {
		c.mu.Lock()
		delete(c.waiting, w)
		c.mu.Unlock()
		end(nil)
	}
}

// tellWaiting tells whom it concerns that suspicion has changed. The lock is held.
func (c *Court) tellWaiting() {
	for w := range c.waiting {
		c.tell(w)
	}
}

func (c *Court) tell(w *wait) {
	if !c.isSuspected(w.prints) || c.isConvicted(w.prints.Request) || c.isConvicted(w.prints.Schema) {
		w.end(ErrChanged)
	}
}
