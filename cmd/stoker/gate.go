package main

import (
	"context"
	"errors"
	"sync"
)

// gate keeps operators' orders and upgrades apart. An upgrade takes the workers
// as they are: one that drains, or is being replaced, would be neither what it
// was nor what it was to become, and who gave the order would get no answer. So
// an upgrade waits until no order is being carried out, and what is ordered while
// the new process starts waits for how that goes:
//
//	open      orders pass; an upgrade may close it when none is inside
//	closed    orders wait, for upgrade_timeout at most
//	gone      orders are refused, and given once more to the next generation
type gate struct {
	mu     sync.Mutex
	inside int
	gone   bool
	closed bool
	// changed is closed and replaced when anything of the above changes.
	changed chan struct{}
}

// errHandedOver: the next generation takes orders now.
var errHandedOver = errors.New("this master has handed over to its next generation; give the order once more")

func newGate() *gate { return &gate{changed: make(chan struct{})} }

// enter waits until orders pass. Who is let in calls leave when the order has
// been carried out.
func (g *gate) enter(ctx context.Context) error {
	for {
		g.mu.Lock()
		if g.gone {
			g.mu.Unlock()
			return errHandedOver
		}
		if !g.closed {
			g.inside++
			g.mu.Unlock()
			return nil
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (g *gate) leave() { g.change(func() { g.inside-- }) }

// close closes the gate once no order is inside. waits is called when there is
// one, and before anything is waited for.
func (g *gate) close(ctx context.Context, waits func(orders int)) error {
	for {
		g.mu.Lock()
		inside, changed := g.inside, g.changed
		if inside == 0 {
			g.closed = true
			g.mu.Unlock()
			return nil
		}
		g.mu.Unlock()
		if waits != nil {
			waits(inside)
			waits = nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// open lets orders pass again.
func (g *gate) open() { g.change(func() { g.closed = false }) }

// passed says that the next generation takes orders.
func (g *gate) passed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.gone
}

// handOver refuses all orders from now on.
func (g *gate) handOver() { g.change(func() { g.gone = true }) }

func (g *gate) change(by func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	by()
	close(g.changed)
	g.changed = make(chan struct{})
}
