package upstream

import (
	"slices"
	"time"
)

// BreakerOptions say when a member gets no requests for a while.
type BreakerOptions struct {
	// Failures in a row that open the breaker; 0: it never opens.
	Failures int
	// Within is the time in which they must have come.
	Within time.Duration
	// Open is how long the member then gets nothing. After that one request is
	// let through, whose end decides.
	Open time.Duration
}

// BreakerState is how a member's breaker is.
type BreakerState string

// The states of a breaker.
const (
	// BreakerClosed: requests pass. How each engine begins, and whoever comes
	// back to the pool: its probes know better than old failures.
	BreakerClosed BreakerState = "closed"
	// BreakerOpen: no request passes until the time is over.
	BreakerOpen BreakerState = "open"
	// BreakerHalfOpen: one request passes at a time. The first that is answered
	// closes the breaker, the first that fails opens it again.
	BreakerHalfOpen BreakerState = "half_open"
)

// breakerStates for metrics.
var breakerStates = [...]BreakerState{BreakerClosed, BreakerOpen, BreakerHalfOpen}

// breaker of a member, guarded by the pool's lock.
type breaker struct {
	state    BreakerState
	failures []time.Time // in a row, the latest at the end
	trial    bool        // a request is under way in BreakerHalfOpen
	timer    *time.Timer // ends BreakerOpen
	opened   uint64      // how often it has opened
}

// admits says whether one more request may pass.
func (b *breaker) admits() bool {
	return b.state == BreakerClosed || b.state == BreakerHalfOpen && !b.trial
}

// trips notes a failure and says whether it was one too many.
func (b *breaker) trips(now time.Time, o BreakerOptions) bool {
	if o.Failures == 0 {
		return false
	}
	b.failures = append(b.failures, now)
	if surplus := len(b.failures) - o.Failures; surplus > 0 {
		b.failures = slices.Delete(b.failures, 0, surplus)
	}
	return len(b.failures) == o.Failures && now.Sub(b.failures[0]) <= o.Within
}

// close forgets everything but the count.
func (b *breaker) close() {
	if b.timer != nil {
		b.timer.Stop()
	}
	*b = breaker{state: BreakerClosed, opened: b.opened}
}

// Failed counts a request that m has failed by its own fault, before Release.
// What a client did, and what the engine has answered (429 above all), is none.
//
// The breaker never opens on the last member that others could turn to: to fail
// some requests is better than to refuse all.
func (m *Member) Failed() {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.troubled.Store(true)
	switch m.breaker.state {
	case BreakerClosed:
		if m.breaker.trips(time.Now(), p.options.Breaker) && p.hasOther(m) {
			p.open(m)
		}
	case BreakerHalfOpen:
		if p.hasOther(m) {
			p.open(m)
		} else {
			p.closeBreaker(m)
		}
	case BreakerOpen: // a request from before
	}
}

// Answered counts a request that m has answered well, before Release. It costs
// nothing where there was no failure before.
func (m *Member) Answered() {
	if !m.troubled.Load() {
		return
	}
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.breaker.state != BreakerOpen { // else it was sent before
		p.closeBreaker(m)
	}
}

// Breaker is how m's breaker is.
func (m *Member) Breaker() BreakerState {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.breaker.state
}

// hasOther says whether a member other than m takes requests, or would if it
// were not busy. The lock is held.
func (p *Pool) hasOther(m *Member) bool {
	return slices.ContainsFunc(p.members, func(other *Member) bool {
		return other != m && other.ready && !other.isDoubted() && other.breaker.state == BreakerClosed
	})
}

// open keeps requests from m for a while. The lock is held.
func (p *Pool) open(m *Member) {
	opened := m.breaker.opened + 1
	m.breaker = breaker{state: BreakerOpen, opened: opened}
	m.breaker.timer = time.AfterFunc(p.options.Breaker.Open, func() { p.halfOpen(m, opened) })
	p.arrange(m)
}

// halfOpen lets one request through to m, unless its breaker is no longer the
// one that was opened.
func (p *Pool) halfOpen(m *Member, opened uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.breaker.state != BreakerOpen || m.breaker.opened != opened {
		return
	}
	m.breaker.state = BreakerHalfOpen
	p.arrange(m)
	p.grant()
}

// closeBreaker lets requests through to m again. The lock is held.
func (p *Pool) closeBreaker(m *Member) {
	m.troubled.Store(false)
	m.breaker.close()
	p.arrange(m)
	p.grant()
}

// spare closes the breakers of those who are ready when nobody else is left: a
// worker dies, or is doubted, while the breaker of the other is open. The lock is held.
func (p *Pool) spare() {
	if p.ready == 0 || p.hasOther(nil) {
		return
	}
	for _, m := range p.members {
		if m.ready {
			p.closeBreaker(m)
		}
	}
}
