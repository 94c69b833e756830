package balancer

import (
	"context"

	"stoker/exchange"
	"stoker/upstream"
)

// Pool gives a place on a member that can serve now, or soon.
type Pool interface {
	// Name of the pool in logs and metrics.
	Name() string
	// Acquire claims one place, and waits for one as long as the pool's queue
	// allows; a member that failed is taken only if there is no other. Errors:
	// those of upstream.Pool.Acquire.
	Acquire(ctx context.Context, failed Lease) (Lease, error)
}

// Lease is a place on one member, until Release.
type Lease interface {
	// Name of the member.
	Name() string
	// Do carries x there and the answer to sink; its errors are *upstream.Failure.
	Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error
	// Refused says that nobody listens there any more.
	Refused()
	// Release gives the place back, once.
	Release()
}

var _ Lease = (*upstream.Member)(nil)

// Over makes a Pool of an upstream.Pool.
func Over(p *upstream.Pool) Pool { return over{p} }

type over struct{ *upstream.Pool }

// Acquire implements Pool.
func (o over) Acquire(ctx context.Context, failed Lease) (Lease, error) {
	avoid, _ := failed.(*upstream.Member) // nil at the first attempt
	m, err := o.Pool.Acquire(ctx, avoid)
	if err != nil {
		return nil, err // not m: a nil *Member in a Lease is no nil Lease
	}
	return m, nil
}
