package main

import (
	"context"

	"stoker/balancer/front"
	"stoker/exchange"
)

// hall is what requests pass on their way to the balancer. Who answers some of them is
// asked in turn, and has left the stack when the others go on: a stream is open for
// minutes, and what its stack holds so long.
type hall struct {
	witness    witness
	porter     porter
	redirector redirector
	next       front.Handler
}

func newHall(m *master) *hall { return &hall{witness{m}, porter{m}, redirector{m}, m.balancer} }

// Serve implements front.Handler.
func (h *hall) Serve(ctx context.Context, x *exchange.Exchange) {
	if h.witness.answers(x) || h.porter.answers(x) || h.redirector.answers(x) {
		return
	}
	h.next.Serve(ctx, x)
}
