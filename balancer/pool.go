package balancer

import (
	"context"
	"time"

	"stoker/exchange"
	"stoker/upstream"
)

// Pool gives a place on a member that can serve now, or soon.
type Pool interface {
	// Name of the pool in logs and metrics.
	Name() string
	// Acquire claims one place, and waits for one as long as the pool's queue
	// allows. Errors: those of upstream.Pool.Acquire.
	Acquire(ctx context.Context, want *Want) (Lease, error)
}

// Want says which place a request wants.
type Want struct {
	// Failed has failed the request just now, and is taken only if there is no
	// other; nil at the first attempt.
	Failed Lease
	// Priority in the queue: see upstream.Want.
	Priority int
	// Affinity of the request: see upstream.Want.
	Affinity uint64
	// Prefix of the prompt: see upstream.Want.
	Prefix upstream.Prefix
	// Tokens and Charged are about what the prompt weighs: see upstream.Want.
	Tokens  int
	Charged *int
	// Queued, where not nil, is lengthened by the wait.
	Queued *time.Duration
	// Alone asks for a member apart from others, with Shared, Patience and Age as
	// upstream.WantAlone has them.
	Alone, Shared bool
	Patience, Age time.Duration
}

// Lease is a place on one member, until Release.
type Lease interface {
	// Name of the member.
	Name() string
	// Do carries x there and the answer to sink; its errors are *upstream.Failure.
	Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error
	// Refused says that nobody listens there any more.
	Refused()
	// Failed says that the member has failed the request by its own fault,
	// Answered that it has answered it well. At most one of them and Refused is
	// called, before Release.
	Failed()
	Answered()
	// Release gives the place back, once.
	Release()
}

var _ Lease = (*upstream.Member)(nil)

// addressOf is where the member is, as far as that is known.
func addressOf(l Lease) string {
	if m, ok := l.(interface{ Address() string }); ok {
		return m.Address()
	}
	return l.Name()
}

// Over makes a Pool of an upstream.Pool.
func Over(p *upstream.Pool) Pool { return over{p} }

type over struct{ *upstream.Pool }

// Acquire implements Pool.
func (o over) Acquire(ctx context.Context, want *Want) (Lease, error) {
	if want.Alone {
		return o.alone(ctx, want)
	}
	avoid, _ := want.Failed.(*upstream.Member) // nil at the first attempt
	m, err := o.Pool.Acquire(ctx, upstream.Want{
		Avoid: avoid, Priority: want.Priority, Affinity: want.Affinity, Prefix: want.Prefix,
		Tokens: want.Tokens, Charged: want.Charged, Queued: want.Queued,
	})
	if err != nil {
		return nil, err // not m: a nil *Member in a Lease is no nil Lease
	}
	return m, nil
}

// alone claims a member apart from others.
func (o over) alone(ctx context.Context, want *Want) (Lease, error) {
	began := time.Now()
	defer func() {
		if want.Queued != nil {
			*want.Queued += time.Since(began)
		}
	}()
	m, err := o.AcquireAlone(ctx, upstream.WantAlone{Patience: want.Patience, Shared: want.Shared, Age: want.Age})
	if err != nil {
		return nil, err
	}
	return m, nil
}
