package upstream

import (
	"context"
	"slices"
	"time"
)

// A request that may have killed an engine is tried alone: on a member that
// gets nothing else meanwhile. Who waits for one is not in the queue, and is
// served before it.
//
//	not before            settling has passed since a member last left the pool: what takes
//	                      several engines down at once is to have done so, or the request
//	                      would share their deaths
//	who goes first        the youngest, as it was when its engine died, since most that
//	                      kill do so at their beginning: when it is found out, the
//	                      others are free, and no death beside it has put them in doubt
//	the member taken      one that is ready and idle, else the one with the least
//	                      to do, which gets nothing new and is waited for
//	                      (Patience), unless another falls idle first
//	never taken           the last that others could turn to, while another is
//	                      expected; more than half of those that are ready; one
//	                      that such a request is on, unless that has yielded (alone_yield.go)
//	given back to others  by Share, at the latest by Release; where nobody else serves
//	                      them, keptAtMost after it was kept, and they go before the
//	                      next such request: an engine that somebody kills with fifty
//	                      requests on it must not serve these alone for a minute

// keptAtMost is how long the others wait for a member that is kept, if there is
// no other. Who kills an engine does so at its beginning.
const keptAtMost = 2 * time.Second

// alone is a member's part in it, guarded by the pool's lock.
type alone struct {
	held    bool        // gets nothing else
	trial   *Alone      // who is on it, and has not yielded; nil: nobody
	yielded int         // how many are on it that have, whom nobody waits for
	waiter  *loner      // for whom it empties; nil: nobody
	since   time.Time   // when the last of them came onto it
	limit   *time.Timer // ends its being held where others wait; nil: none do
}

// WantAlone says how a request wants to be alone.
type WantAlone struct {
	// Patience is how long the requests on a member are waited for; then the
	// request goes beside them. 0: at once.
	Patience time.Duration
	// Age of the request, or of its like, when an engine died under it: who was
	// younger goes first.
	Age time.Duration
	// Shared: where no member can be kept for it, any will do that others share.
	Shared bool
}

// loner waits for a member of its own.
type loner struct {
	want    WantAlone
	since   time.Time
	granted chan *Alone // one; closed when it is turned away
	refused error
	// kept empties for it, until patience ends.
	kept     *Member
	patience *time.Timer
	hurried  bool // patience is over: any room there will do
}

// Alone is a place on a member that is kept from others, until Release.
type Alone struct {
	*Member

	// Guarded by pool.mu.
	passed  time.Time // when it did; zero: it has not
	yielded bool
}

// AcquireAlone claims a place on a member, apart from others. It waits as long
// as the queue's time-out; errors as Acquire's.
func (p *Pool) AcquireAlone(ctx context.Context, want WantAlone) (*Alone, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, ErrPoolClosed
	}
	if p.hopeless() {
		p.mu.Unlock()
		return nil, ErrNoneReady
	}
	l := &loner{want: want, since: time.Now(), granted: make(chan *Alone, 1)}
	at := slices.IndexFunc(p.lonely, func(o *loner) bool { return o.want.Age > want.Age })
	if at < 0 {
		at = len(p.lonely)
	}
	p.lonely = slices.Insert(p.lonely, at, l)
	p.grantAlone()
	limit := time.NewTimer(p.options.QueueTimeout)
	p.mu.Unlock()
	defer limit.Stop()
	select {
	case a, ok := <-l.granted:
		if !ok {
			return nil, l.refused
		}
		return a, nil
	case <-limit.C:
		return nil, p.leaveAlone(l, nil)
	case <-ctx.Done():
		return nil, p.leaveAlone(l, context.Cause(ctx))
	}
}

// leaveAlone gives up the wait and returns why; nil stands for the time-out.
func (p *Pool) leaveAlone(l *loner, why error) error {
	p.mu.Lock()
	if why == nil {
		why = p.blame(ErrQueueTimeout, errTimeoutNoneReady)
	}
	waits := p.dropLoner(l)
	p.grantAlone()
	p.grant()
	p.mu.Unlock()
	if waits {
		return why
	}
	if a, ok := <-l.granted; ok {
		a.Release()
	}
	return why
}

// dropLoner takes l out and says whether it was still in. The lock is held.
func (p *Pool) dropLoner(l *loner) bool {
	i := slices.Index(p.lonely, l)
	if i < 0 {
		return false
	}
	p.lonely = slices.Delete(p.lonely, i, i+1)
	p.letGo(l)
	return true
}

// letGo gives the member back that l waits for. The lock is held.
func (p *Pool) letGo(l *loner) {
	if l.patience != nil {
		l.patience.Stop()
		l.patience, l.hurried = nil, false
	}
	if m := l.kept; m != nil {
		l.kept, m.alone.waiter = nil, nil
		p.unhold(m)
	}
}

// Share lets others onto the member again.
func (a *Alone) Share() {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.alone.trial == a { // else it is kept for another, if at all
		p.share(a.Member)
	}
}

// share lets others onto m. The lock is held.
func (p *Pool) share(m *Member) {
	if m.alone.held && m.alone.waiter == nil {
		crowded := p.isCrowded()
		p.unhold(m)
		p.serve(crowded)
	}
}

// unhold lets m be chosen. The lock is held.
func (p *Pool) unhold(m *Member) {
	m.alone.held = false
	if m.alone.limit != nil {
		m.alone.limit.Stop()
		m.alone.limit = nil
	}
	p.arrange(m)
}

// serve serves all who wait: those who want to be alone first, unless everybody
// else has been waiting for them. The lock is held.
func (p *Pool) serve(crowded bool) {
	if crowded {
		p.grant()
	}
	p.grantAlone()
	p.grant()
}

// Release gives the place back, once.
func (a *Alone) Release() {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	crowded := p.isCrowded()
	switch {
	case a.yielded:
		a.alone.yielded--
	case a.alone.trial == a:
		p.acquit(a)
	}
	p.release(a.Member, crowded)
}

// isCrowded says whether others wait because all who could serve them are kept.
// The lock is held.
func (p *Pool) isCrowded() bool {
	return p.queue.length > 0 && !slices.ContainsFunc(p.members, func(m *Member) bool {
		return m.ready && p.hasTurn(m) && !m.isDoubted() && !m.alone.held && m.breaker.admits()
	})
}

// relent bounds how long others wait for members that are kept. It runs when
// somebody begins to wait, and when somebody who served them no longer does. The
// lock is held.
func (p *Pool) relent() {
	if !p.isCrowded() {
		return
	}
	for _, m := range p.members {
		if m.alone.held && m.alone.waiter == nil {
			p.limit(m)
		}
	}
	hurried := false
	for _, l := range p.lonely {
		if l.kept != nil && !l.hurried {
			l.hurried, hurried = true, true
		}
	}
	if hurried {
		p.grantAlone()
	}
}

// limit ends m's being held in time. The lock is held.
func (p *Pool) limit(m *Member) {
	if m.alone.limit != nil {
		return
	}
	m.alone.limit = time.AfterFunc(time.Until(m.alone.since.Add(keptAtMost)), func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if m.alone.limit == nil || time.Since(m.alone.since) < keptAtMost {
			return // it was given back, and may be kept for the next
		}
		m.alone.limit = nil
		if p.isCrowded() {
			p.share(m)
		}
	})
}

// grantAlone serves those who wait to be alone, in order. It runs at each
// change that could let one be served. The lock is held.
func (p *Pool) grantAlone() {
	if len(p.lonely) == 0 {
		return
	}
	p.yield()
	for i := 0; i < len(p.lonely) && p.unsettled() <= 0; {
		if p.place(p.lonely[i]) {
			p.lonely = slices.Delete(p.lonely, i, i+1)
			continue
		}
		i++
	}
	p.pace()
}

// place finds a member for l, or one that shall empty for it. The lock is held.
func (p *Pool) place(l *loner) bool {
	if m := l.kept; m != nil && p.hasRoom(m) && (m.isQuiet() || l.hurried) {
		return p.settle(l, m)
	}
	best := p.quietest(l)
	switch {
	case best == nil && l.kept == nil && l.want.Shared:
		if m := p.ranking.best(nil); m != nil {
			p.letGo(l)
			p.claim(m, nil, nil)
			a := &Alone{Member: m}
			if m.alone.trial == nil {
				m.alone.trial = a
			}
			l.granted <- a
			return true
		}
		return false
	case best == nil:
		return false
	case p.hasRoom(best) && (best.isQuiet() || l.want.Patience == 0):
		p.letGo(l)
		return p.settle(l, best)
	case l.kept == nil:
		best.alone.held, best.alone.waiter, l.kept = true, l, best
		p.arrange(best)
		l.patience = time.AfterFunc(l.want.Patience, func() { p.hurry(l) })
	}
	return false
}

// hurry ends the wait for a member to empty.
func (p *Pool) hurry(l *loner) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.lonely, l) {
		l.hurried = true
		p.grantAlone()
	}
}

// isQuiet says whether nothing is on m that a suspect would wait for. The lock is held.
func (m *Member) isQuiet() bool { return m.load() == m.alone.yielded }

// hasRoom says whether m may have one more request. The lock is held.
func (p *Pool) hasRoom(m *Member) bool {
	return p.options.MaxConcurrency == 0 || m.load() < p.options.MaxConcurrency
}

// settle gives m to l. The lock is held.
func (p *Pool) settle(l *loner, m *Member) bool {
	p.letGo(l)
	a := &Alone{Member: m}
	m.alone.held, m.alone.trial, m.alone.since = true, a, time.Now()
	p.claim(m, nil, nil)
	l.granted <- a
	if p.isCrowded() {
		p.limit(m)
	}
	return true
}

// quietest is the member with the least to do that can be kept for l, besides the
// one that is; nil if none can. The lock is held.
func (p *Pool) quietest(l *loner) *Member {
	var best *Member
	held, open, coming := 0, 0, 0
	for _, m := range p.members {
		switch {
		case !m.ready:
			if m.expected {
				coming++
			}
		case !p.hasTurn(m):
		case m.alone.held && m != l.kept:
			held++
		default:
			open++
			free := m != l.kept && m.alone.trial == nil && !m.isDoubted() && m.breaker.admits() &&
				(p.hasRoom(m) || !m.isQuiet()) // else it waits for who has yielded, whom nobody may wait for
			if free && (best == nil || m.load() < best.load()) {
				best = m
			}
		}
	}
	switch {
	case open == 1 && held == 0 && coming > 0:
		return p.onlyIfIdle(best) // others come soon: the first of them will be empty
	case held >= max(1, (held+open)/2), open == 1 && held > 0:
		return nil
	}
	return best
}

// onlyIfIdle spares the only member that serves, unless nobody is on it.
func (p *Pool) onlyIfIdle(m *Member) *Member {
	if m != nil && m.isQuiet() && p.queue.length == 0 {
		return m
	}
	return nil
}

// freeAlone takes m, which leaves the pool, from whoever waits for it. The lock is held.
func (p *Pool) freeAlone(m *Member) {
	if l := m.alone.waiter; l != nil {
		p.letGo(l)
	}
	p.unhold(m)
}

// refuseLonely turns all away. The lock is held.
func (p *Pool) refuseLonely(why error) {
	for _, l := range p.lonely {
		p.letGo(l)
		l.refused = why
		close(l.granted)
	}
	p.lonely = nil
}
