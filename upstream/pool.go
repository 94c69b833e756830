package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Reasons why Acquire gives no member. The caller's own context ending is not
// among them: then Acquire returns context.Cause.
var (
	// ErrQueueFull: nobody can serve now and the queue has no place left.
	ErrQueueFull = errors.New("queue is full")
	// ErrQueueTimeout: nobody could serve within the queue's time-out.
	ErrQueueTimeout = errors.New("no upstream became free in time")
	// ErrNoneReady: no member was ready. It stands beside one of the two above,
	// or alone: nobody has been ready for longer than the queue's time-out, nor
	// is expected to be, and to wait would only take the client's time. Without
	// it, the members are there and busy.
	ErrNoneReady = errors.New("no upstream is ready")
	// ErrPoolClosed: the pool takes no more requests, for good.
	ErrPoolClosed = errors.New("pool is closed")

	errFullNoneReady    = fmt.Errorf("%w: %w", ErrNoneReady, ErrQueueFull)
	errTimeoutNoneReady = fmt.Errorf("%w: %w", ErrNoneReady, ErrQueueTimeout)
)

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
	leaving bool // see Dismiss
	closed  bool

	// lonely are those who wait for a member of their own, in order; died is told of deaths.
	lonely []*loner
	pacer  *time.Timer // see pace; nil: nobody is to yield, and nothing to settle
	left   time.Time   // when a member has last left the pool, see settling
	died   func(member string, since time.Time)

	affinity affinity
	prefixes prefixes // has a lock of its own
	// prefixMemory is the options' PrefixMemory, read without the lock.
	prefixMemory atomic.Int64

	ready    int // members that are
	expected int // members that are not, and soon will be
	// tier is the highest whose members get requests; tiered: there is one above 0.
	tier   int
	tiered bool
	// pressed: somebody's load has been known. easing is how many are under; see noteEase.
	pressed   bool
	easing    int
	noneSince time.Time // since when nobody is ready; means nothing while somebody is
}

// Want says which place a request wants.
type Want struct {
	// Avoid, where not nil, is taken only if nobody else can serve.
	Avoid *Member
	// Priority in the queue, -MaxPriority to MaxPriority: higher goes first.
	Priority int
	// Affinity is the AffinityKey of what the request has in common with others; 0: nothing.
	Affinity uint64
	// Prefix of the prompt, for a pool that goes by that rather than by a key; the
	// caller must not change it before Acquire has returned. Empty: nothing.
	Prefix Prefix
	// Tokens that the prompt has, as far as can be told.
	Tokens int
	// Charged, where not nil, is set to what the prompt weighs on the member, to be
	// taken off by Member.Relieve when that has read it.
	Charged *int
	// Queued, where not nil, is lengthened by the time that was spent in the queue.
	Queued *time.Duration
}

// NewPool returns an empty pool.
func NewPool(name string, o PoolOptions) *Pool {
	p := &Pool{name: name, options: o, ranking: ranking{policy: o.Policy, unit: unitOf(&o)}, noneSince: time.Now()}
	p.prefixMemory.Store(int64(o.PrefixMemory))
	return p
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
	p.reshaped()
	return m
}

// Remove takes a member out for good. Requests on it may finish; their leases
// stay valid.
func (p *Pool) Remove(m *Member) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setReady(m, false)
	p.setExpected(m, false)
	p.stopTimers(m)
	m.removed = true
	p.reshaped()
	p.prefixes.forget(m)
	m.Dismiss()
	for i, other := range p.members {
		if other == m {
			p.members = append(p.members[:i:i], p.members[i+1:]...)
			break
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
		w.refuse(ErrPoolClosed)
	}
	p.refuseLonely(ErrPoolClosed)
	p.pace()
	for _, m := range p.members {
		p.stopTimers(m)
	}
}

// Cut ends the requests in progress on all members at once; see Member.Cut.
func (p *Pool) Cut() int {
	p.mu.Lock()
	members := slices.Clone(p.members)
	p.mu.Unlock()
	n := 0
	for _, m := range members {
		n += m.Cut()
	}
	return n
}

// Dismiss asks the clients of all WebSockets to go, now and from now on, and
// returns how many there were; see Transport.Dismiss.
func (p *Pool) Dismiss(cause error) int {
	p.mu.Lock()
	p.leaving = true
	members := slices.Clone(p.members)
	p.mu.Unlock()
	n := 0
	for _, m := range members {
		n += m.dismiss(cause)
	}
	return n
}

// Acquire claims one place on the member that the policy prefers and returns
// it; the caller gives it back by Member.Release, once. While nobody can serve
// it waits in a queue, by priority and then first come first served; who leaves
// the queue (ctx ends) loses the place. A full queue makes room for a request
// of a higher priority by turning away the youngest of the lowest.
func (p *Pool) Acquire(ctx context.Context, want Want) (*Member, error) {
	m, err := p.acquire(ctx, &want)
	if m != nil && len(want.Prefix) > 0 {
		p.prefixes.note(want.Prefix, m.holder.Load(), int(p.prefixMemory.Load()))
	}
	return m, err
}

func (p *Pool) acquire(ctx context.Context, want *Want) (*Member, error) {
	m, w, err := p.claimOrQueue(want)
	if m != nil || err != nil {
		return m, err
	}
	if want.Queued != nil {
		defer func(start time.Time) { *want.Queued += time.Since(start) }(time.Now())
	}
	return p.wait(ctx, w)
}

// claimOrQueue returns a claimed member, or the place in the queue.
func (p *Pool) claimOrQueue(want *Want) (*Member, *waiter, error) {
	by := wish{affinity: want.Affinity, avoid: want.Avoid, prompt: len(want.Prefix) > 0, tokens: min(want.Tokens, maxTokens)}
	if by.prompt {
		by.holding = p.prefixes.find(want.Prefix)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, nil, ErrPoolClosed
	}
	// Nobody overtakes the queue: it is empty whenever somebody can serve,
	// since grant runs at each change that could let anyone serve.
	if m := p.choose(&by); m != nil {
		p.claim(m, &by, want.Charged)
		return m, nil, nil
	}
	if p.hopeless() {
		return nil, nil, ErrNoneReady
	}
	priority := max(-MaxPriority, min(want.Priority, MaxPriority))
	if !p.makeRoom(priority) {
		return nil, nil, p.blame(ErrQueueFull, errFullNoneReady)
	}
	by.avoid = nil // it has waited
	w := &waiter{granted: make(chan *Member, 1), timeout: p.options.QueueTimeout, priority: priority, wish: by, charged: want.Charged}
	p.queue.push(w)
	p.relent()
	return nil, w, nil
}

// hopeless says that to wait is of no use. An operator who starts a model wants
// requests to wait while it loads, however long that takes, each as long as it
// may; one whose engines die at every start wants clients to be told, and not a
// thousand of them held for a minute each. The lock is held.
func (p *Pool) hopeless() bool {
	return p.ready == 0 && p.expected == 0 && time.Since(p.noneSince) >= p.options.QueueTimeout
}

// makeRoom says whether the queue takes one more. The lock is held.
func (p *Pool) makeRoom(priority int) bool {
	if p.queue.length < p.options.QueueLength {
		return true
	}
	last := p.queue.popBelow(priority)
	if last == nil {
		return false
	}
	last.refuse(p.blame(ErrQueueFull, errFullNoneReady))
	return true
}

// blame chooses the error: the members are busy, or none is ready. The lock is held.
func (p *Pool) blame(busy, noneReady error) error {
	if p.ready == 0 {
		return noneReady
	}
	return busy
}

// wait blocks until w is granted a member, its time is over or ctx ends.
func (p *Pool) wait(ctx context.Context, w *waiter) (*Member, error) {
	timeout := time.NewTimer(w.timeout)
	defer timeout.Stop()
	select {
	case m, ok := <-w.granted:
		if !ok {
			return nil, w.refused
		}
		return m, nil
	case <-timeout.C:
		return nil, p.leave(w, nil)
	case <-ctx.Done():
		return nil, p.leave(w, context.Cause(ctx))
	}
}

// leave gives up a place in the queue and returns why; nil stands for the
// time-out. A member that was granted in the same moment is given back.
func (p *Pool) leave(w *waiter, why error) error {
	p.mu.Lock()
	queued := p.queue.remove(w)
	if why == nil {
		why = p.blame(ErrQueueTimeout, errTimeoutNoneReady)
	}
	p.mu.Unlock()
	if queued {
		return why
	}
	if m, ok := <-w.granted; ok {
		m.Release()
	}
	return why
}

// claim counts one more request on m, by which it was chosen. The lock is held.
func (p *Pool) claim(m *Member, by *wish, charged *int) {
	m.inFlight++
	if charged != nil {
		*charged = p.charge(m, by)
	}
	m.breaker.trial = m.breaker.state == BreakerHalfOpen
	p.ranking.picked(m)
	p.arrange(m)
}

// arrange lets m be chosen if it can serve now, and only then. It runs at each
// change of what that depends on. The lock is held.
func (p *Pool) arrange(m *Member) {
	if p.noteFitness(m) || p.pressed && p.noteEase(m) {
		return // it was arranged with all the others
	}
	serves := m.ready && p.hasTurn(m) && !p.spared(m) && !m.isDoubted() && !m.alone.held && m.breaker.admits()
	p.tally(m, serves)
	if serves && p.hasRoom(m) {
		p.ranking.add(m)
		p.ranking.fix(m)
		return
	}
	p.ranking.remove(m)
}

// grant serves the queue as far as there are members. The lock is held.
func (p *Pool) grant() {
	for p.queue.length > 0 {
		w := p.queue.next()
		m := p.choose(&w.wish)
		if m == nil {
			return
		}
		p.claim(m, &w.wish, w.charged)
		p.queue.remove(w)
		w.granted <- m
	}
}

// setReady keeps the count of those who are. The lock is held.
func (p *Pool) setReady(m *Member, ready bool) {
	if m.ready == ready || m.removed {
		return
	}
	m.ready, m.doubted, m.vouched = ready, false, m.questions
	if ready {
		p.ready++
		m.breaker.close()
		p.grantAlone()    // before the queue: who waits to be alone goes first
		p.closeBreaker(m) // who comes back is used at once
		return
	}
	p.ready--
	p.left = time.Now()
	p.freeAlone(m)
	if p.ready == 0 {
		p.noneSince = time.Now()
	}
	p.arrange(m)
	p.spare()
	p.grantAlone()
	p.relent()
}

// setExpected keeps the count of those who are. The lock is held.
func (p *Pool) setExpected(m *Member, expected bool) {
	if m.expected == expected || m.removed {
		return
	}
	m.expected = expected
	if expected {
		p.expected++
	} else {
		p.expected--
	}
	p.grantAlone()
}

// stopTimers ends what would happen to m later. The lock is held.
func (p *Pool) stopTimers(m *Member) {
	m.breaker.close()
	p.stopWarming(m)
}
