package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestGate: an upgrade waits for the orders that are inside, later orders for the upgrade.
func TestGate(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*gate)
		want error
	}{
		{"the upgrade fails", (*gate).open, nil},
		{"the upgrade succeeds", (*gate).handOver, errHandedOver},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, g := t.Context(), newGate()
				began := time.Now()
				for _, takes := range []time.Duration{time.Second, 3 * time.Second} {
					if err := g.enter(ctx); err != nil {
						t.Fatal(err)
					}
					time.AfterFunc(takes, g.leave)
				}
				waited := 0
				if err := g.close(ctx, func(orders int) { waited = orders }); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != 3*time.Second || waited != 2 {
					t.Errorf("closed after %v, waiting for %d orders; want 3s, 2", took, waited)
				}
				time.AfterFunc(time.Second, func() { c.end(g) })
				if err := g.enter(ctx); !errors.Is(err, c.want) {
					t.Errorf("an order that came meanwhile: %v, want %v", err, c.want)
				}
				if took := time.Since(began); took != 4*time.Second {
					t.Errorf("it was let in, or refused, after %v, want 4s", took)
				}
			})
		})
	}
}

// TestGateGivesUp: whoever waits can be told not to.
func TestGateGivesUp(t *testing.T) {
	g := newGate()
	if err := g.enter(t.Context()); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.close(over, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("an upgrade: %v", err)
	}
	g.leave()
	if err := g.close(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if err := g.enter(over); !errors.Is(err, context.Canceled) {
		t.Errorf("an order: %v", err)
	}
}
