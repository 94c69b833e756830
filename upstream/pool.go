package upstream

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Reasons why Acquire gives no member. The caller's own context ending is not
// among them: then Acquire returns context.Cause.
var (
	// ErrQueueFull: nobody can serve now and the queue has no place left.
	ErrQueueFull = errors.New("queue is full")
	// ErrQueueTimeout: nobody could serve within the queue's time-out.
	ErrQueueTimeout = errors.New("no upstream became free in time")
	// ErrPoolClosed: the pool takes no more requests, for good.
	ErrPoolClosed = errors.New("pool is closed")
)

// Policy says which of the members that can serve now is asked next.
type Policy int

// The policies.
const (
	// LeastOutstanding picks the member with the fewest requests in flight per
	// weight over all members (drawing two at random is worse below some 16
	// members); among equals it goes round.
	LeastOutstanding Policy = iota
	// RoundRobin goes round, each member as often as its weight says.
	RoundRobin
)

// PoolOptions are what a pool is made with.
type PoolOptions struct {
	Policy Policy
	// QueueLength bounds the requests that wait while nobody can serve; 0: none may.
	QueueLength int
	// QueueTimeout bounds the wait of each.
	QueueTimeout time.Duration
	// Transport is how bytes are carried to every member.
	Transport TransportOptions
}

// Pool is a set of interchangeable members. The supervisor adds members and
// says which are ready; the balancer acquires one for each request. All
// methods may be called by anybody at any time.
//
// One lock guards the pool and its members' counts. It is held for a pick
// (O(log n) by a heap of those who can serve) and never while bytes move.
type Pool struct {
	name string

	mu      sync.Mutex
	options PoolOptions
	members []*Member
	ranking ranking
	queue   queue
	closed  bool
}

// NewPool returns an empty pool.
func NewPool(name string, o PoolOptions) *Pool {
	return &Pool{name: name, options: o, ranking: ranking{policy: o.Policy}}
}

// Name is the pool's name in the configuration.
func (p *Pool) Name() string { return p.name }

// Add makes a member of the given weight (≥ 1). It is not ready and has no
// address yet: see Member.Reset and Member.SetReady.
func (p *Pool) Add(name string, weight int) *Member {
	m := newMember(p, name, weight)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.members = append(p.members, m)
	return m
}

// Remove takes a member out for good. Requests on it may finish; their leases
// stay valid.
func (p *Pool) Remove(m *Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.ready = false
	p.ranking.remove(m)
	for i, other := range p.members {
		if other == m {
			p.members = append(p.members[:i:i], p.members[i+1:]...)
			return
		}
	}
}

// Close refuses all requests from now on, those in the queue included, with
// ErrPoolClosed. Requests that hold a member go on.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for w := p.queue.pop(); w != nil; w = p.queue.pop() {
		close(w.granted)
	}
}

// Acquire claims one place on the member that the policy prefers and returns
// it; the caller gives it back by Member.Release, once. While nobody can serve
// it waits in a queue, first come first served; who leaves the queue (ctx ends)
// loses the place. avoid, where not nil, is taken only if there is no other.
func (p *Pool) Acquire(ctx context.Context, avoid *Member) (*Member, error) {
	m, w, err := p.claimOrQueue(avoid)
	if m != nil || err != nil {
		return m, err
	}
	return p.wait(ctx, w)
}

// claimOrQueue returns a claimed member, or the place in the queue.
func (p *Pool) claimOrQueue(avoid *Member) (*Member, *waiter, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrPoolClosed
	}
	// Nobody overtakes the queue: it is empty whenever somebody can serve,
	// since grant runs at each change that could let anyone serve.
	if m := p.ranking.best(avoid); m != nil {
		p.claim(m)
		return m, nil, nil
	}
	if p.queue.length >= p.options.QueueLength {
		return nil, nil, ErrQueueFull
	}
	w := &waiter{granted: make(chan *Member, 1), timeout: p.options.QueueTimeout}
	p.queue.push(w)
	return nil, w, nil
}

// wait blocks until w is granted a member, its time is over or ctx ends.
func (p *Pool) wait(ctx context.Context, w *waiter) (*Member, error) {
	timeout := time.NewTimer(w.timeout)
	defer timeout.Stop()
	select {
	case m, ok := <-w.granted:
		if !ok {
			return nil, ErrPoolClosed
		}
		return m, nil
	case <-timeout.C:
		return nil, p.leave(w, ErrQueueTimeout)
	case <-ctx.Done():
		return nil, p.leave(w, context.Cause(ctx))
	}
}

// leave gives up a place in the queue and returns why. A member that was
// granted in the same moment is given back.
func (p *Pool) leave(w *waiter, why error) error {
	p.mu.Lock()
	queued := p.queue.remove(w)
	p.mu.Unlock()
	if queued {
		return why
	}
	if m, ok := <-w.granted; ok {
		m.Release()
	}
	return why
}

// claim counts one more request on m. The lock is held.
func (p *Pool) claim(m *Member) {
	m.inFlight++
	p.ranking.picked(m)
}

// grant serves the queue as far as there are members. The lock is held.
func (p *Pool) grant() {
	for p.queue.length > 0 {
		m := p.ranking.best(nil)
		if m == nil {
			return
		}
		p.claim(m)
		p.queue.pop().granted <- m
	}
}

// Stats is what a pool looked like at one moment.
type Stats struct {
	Name string
	// Queued is how many requests wait for a member.
	Queued  int
	Members []MemberStats
}

// MemberStats is what a member looked like at that moment.
type MemberStats struct {
	Name     string
	Ready    bool
	InFlight int
	// Elsewhere is how many of InFlight are another process's.
	Elsewhere int
	Weight    int
}

// Stats returns a snapshot, members in the order they were added.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Name: p.name, Queued: p.queue.length, Members: make([]MemberStats, 0, len(p.members))}
	for _, m := range p.members {
		s.Members = append(s.Members, MemberStats{Name: m.name, Ready: m.ready, InFlight: m.load(), Elsewhere: m.elsewhere, Weight: int(m.weight)})
	}
	return s
}
