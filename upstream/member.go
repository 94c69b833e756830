package upstream

import (
	"context"
	"sync/atomic"

	"stoker/exchange"
)

// Member is one upstream of a pool: a worker's place, or a remote server. It
// outlives the engines that serve in it one after another.
type Member struct {
	pool *Pool
	name string

	// transport carries bytes to the present engine; nil before the first Reset.
	transport atomic.Pointer[Transport]
	// progressBefore is the sum of what former transports received.
	progressBefore atomic.Uint64
	kick           chan struct{}
	// life of the present engine; nil before the first Reset.
	life atomic.Pointer[Life]
	// troubled: the breaker has something to forget; written under pool.mu.
	troubled atomic.Bool
	// holder of prompts that the present engine is; 0 before the first Reset.
	holder atomic.Uint32

	// The rest is guarded by pool.mu.
	weight   uint64
	seed     uint64 // of its name, see affinity
	counted  counted
	moving   bool // its requests are to go on elsewhere, see Move
	migrants map[*migrant]struct{}
	ready    bool
	expected bool
	removed  bool
	fresh    bool // the engine has not been ready yet
	doubted  bool // see Doubt
	tier     int  // see SetTier
	fit      bool // as it was last arranged, see Pool.noteFitness
	breaker  breaker
	warm     warm
	alone    alone // see Pool.AcquireAlone
	inFlight int
	engine   EngineLoad // see SetLoad
	eases    bool       // see Pool.noteEase
	burden   uint64     // tokens that it has to read, see Relieve
	// questions and for how many of them somebody has vouched: see Question.
	questions, vouched uint64
	// elsewhere is how many requests another process has there; see Pool.SetElsewhere.
	elsewhere int
	idle      chan struct{} // closed when both become 0; nil while nobody waits for that
	pass      uint64        // see ranking
	turn      uint64        // when it was picked last
	rank      int           // index in ranking.heap, -1 outside
}

func newMember(p *Pool, name string, weight int) *Member {
	return &Member{
		pool: p, name: name, weight: uint64(max(weight, 1)), seed: hash(name), rank: -1, kick: make(chan struct{}, 1),
		breaker: breaker{state: BreakerClosed}, warm: warm{parts: fullShare}, engine: unknownLoad,
	}
}

// Name is the member's name in status, logs and metrics.
func (m *Member) Name() string { return m.name }

// Address is where its present engine listens, "HOST:PORT" or a socket's path.
func (m *Member) Address() string {
	if t := m.transport.Load(); t != nil {
		return t.address
	}
	return m.name
}

// Pool is the pool that m belongs to.
func (m *Member) Pool() *Pool { return m.pool }

// Reset says where a new engine listens: "unix:/PATH" or "HOST:PORT". It takes
// the member out of the pool until SetReady, and forgets every connection to
// the engine before, and its failures.
func (m *Member) Reset(address string) { m.ResetPeer(Peer{Address: address}) }

// ResetPeer is Reset to where something else than plain HTTP/1.1 may be spoken.
func (m *Member) ResetPeer(p Peer) {
	options := m.unready()
	m.life.Store(newLife())
	m.pool.prefixes.renew(m)
	before := m.transport.Swap(newPeerTransport(p, options))
	if before != nil {
		before.Close()
		m.progressBefore.Add(before.Progress())
	}
}

// unready takes m out of the pool until its new engine is ready, and returns
// what that is to be reached with.
func (m *Member) unready() TransportOptions {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setReady(m, false)
	p.stopTimers(m)
	m.fresh = true
	return p.options.Transport
}

// SetReady lets requests in, or keeps them out. Requests on m are untouched.
func (m *Member) SetReady(ready bool) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := m.transport.Load(); ready && t != nil && !p.leaving {
		t.Welcome()
	}
	if ready && m.fresh && !m.removed {
		m.fresh = false
		p.warmUp(m)
	}
	p.setReady(m, ready)
	m.moving = m.moving && !ready
}

// SetExpected says whether m, while it is not ready, is on its way: its engine
// loads, or will as soon as it may, and there is no reason to think that it will
// not succeed. As long as anybody is expected requests wait rather than be
// refused; see ErrNoneReady.
func (m *Member) SetExpected(expected bool) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setExpected(m, expected)
}

// Doubt says that m gives no sign of life right now: new requests go to others,
// or wait until it does or another takes its place. Those on it go on. Where
// none may wait, the last that is not doubted goes on to get them: to fail some
// is better than to refuse all.
func (m *Member) Doubt(doubted bool) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if doubted && p.options.QueueLength == 0 && !p.hasOther(m) {
		doubted = false
	}
	if m.doubted == doubted {
		return
	}
	m.doubted = doubted
	p.redoubt(m)
	p.grant()
}

// Refused says that a dial to m was refused: nobody listens there. It takes m
// out at once, not at the next probe, since a worker that fails fast looks
// least loaded and would swallow everything; and it wakes the prober, which
// alone lets m in again.
func (m *Member) Refused() {
	m.SetReady(false)
	m.pool.prefixes.renew(m) // whoever will listen there again has computed nothing yet
	m.ask()
}

// Kick delivers when m should be probed at once: see Refused and Question.
func (m *Member) Kick() <-chan struct{} { return m.kick }

// Release gives back one place that Pool.Acquire has claimed, which whoever
// waits longest gets.
func (m *Member) Release() {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(m, false)
}

// release gives back a place, for which others may have been crowded out. The lock is held.
func (p *Pool) release(m *Member, crowded bool) {
	m.inFlight--
	m.breaker.trial = false // a trial that has neither failed nor succeeded: the next may try
	p.arrange(m)
	p.serve(crowded)
	m.tellIdle()
}

// InFlight is how many requests hold a place on m, those of another process
// included; see Pool.SetElsewhere.
func (m *Member) InFlight() int {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.load()
}

// Elsewhere is how many of InFlight are another process's.
func (m *Member) Elsewhere() int {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.elsewhere
}

// Ready says whether m takes requests.
func (m *Member) Ready() bool {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.ready
}

// WaitIdle blocks until no request holds a place on m, or ctx ends; then it
// returns context.Cause. A member that is still ready may become busy again
// right after.
func (m *Member) WaitIdle(ctx context.Context) error {
	idle := m.whenIdle()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// whenIdle returns a channel that is closed once m has no request.
func (m *Member) whenIdle() <-chan struct{} {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	if m.load() == 0 {
		closed := make(chan struct{})
		close(closed)
		return closed
	}
	if m.idle == nil {
		m.idle = make(chan struct{})
	}
	return m.idle
}

// Cut ends the requests in progress on m at once, with exchange.ErrDrained, and
// returns how many there were. To be taken out of the pool before, or others follow.
func (m *Member) Cut() int {
	if t := m.transport.Load(); t != nil {
		return t.Cut(exchange.ErrDrained)
	}
	return 0
}

// Dismiss asks the clients of WebSockets on m to go, as they would stay for ever
// while others are waited for: see Transport.Dismiss. Until m is ready again, new
// ones are asked at once.
func (m *Member) Dismiss() { m.dismiss(exchange.ErrDrained) }

func (m *Member) dismiss(cause error) int {
	if t := m.transport.Load(); t != nil {
		return t.Dismiss(cause)
	}
	return 0
}

// Tunnels is how many of the requests on m are WebSockets that are open.
func (m *Member) Tunnels() int {
	if t := m.transport.Load(); t != nil {
		return t.Tunnels()
	}
	return 0
}

// Progress is how many bytes of answers have come from m since the master
// began: evidence of life when a saturated engine answers probes late.
func (m *Member) Progress() uint64 {
	sum := m.progressBefore.Load()
	if t := m.transport.Load(); t != nil {
		sum += t.Progress()
	}
	return sum
}

// Do carries x to m and relays the answer to sink; see Transport.Do. The
// caller holds a place on m.
func (m *Member) Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	return m.transport.Load().Do(ctx, x, sink)
}
