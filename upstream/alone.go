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
//	the member taken      one that is ready and idle, else the one with the least
//	                      to do, which gets nothing new and is waited for
//	                      (Patience), unless another falls idle first
//	never taken           the last that others could turn to, while another is
//	                      expected; more than half of those that are ready; one
//	                      that such a request is on
//	given back to others  by Share, at the latest by Release

// alone is a member's part in it, guarded by the pool's lock.
type alone struct {
	held   bool   // gets nothing else
	tried  bool   // such a request is on it
	waiter *loner // for whom it empties; nil: nobody
}

// WantAlone says how a request wants to be alone.
type WantAlone struct {
	// Patience is how long the requests on a member are waited for; then the
	// request goes beside them. 0: at once.
	Patience time.Duration
	// Shared: where no member can be kept for it, any will do that others share.
	Shared bool
}

// loner waits for a member of its own.
type loner struct {
	want    WantAlone
	granted chan *Member // one; closed when it is turned away
	refused error
	// kept empties for it, until patience ends.
	kept     *Member
	patience *time.Timer
	hurried  bool // patience is over: any room there will do
}

// Alone is a place on a member that is kept from others, until Release.
type Alone struct {
	*Member
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
	l := &loner{want: want, granted: make(chan *Member, 1)}
	p.lonely = append(p.lonely, l)
	p.grantAlone()
	limit := time.NewTimer(p.options.QueueTimeout)
	p.mu.Unlock()
	defer limit.Stop()
	select {
	case m, ok := <-l.granted:
		if !ok {
			return nil, l.refused
		}
		return &Alone{m}, nil
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
	if m, ok := <-l.granted; ok {
		(&Alone{m}).Release()
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
		l.kept, m.alone.waiter, m.alone.held = nil, nil, false
		p.arrange(m)
	}
}

// Share lets others onto the member again.
func (a *Alone) Share() {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	p.share(a.Member)
}

func (p *Pool) share(m *Member) {
	if m.alone.held && m.alone.waiter == nil {
		m.alone.held = false
		p.arrange(m)
		p.grantAlone()
		p.grant()
	}
}

// Release gives the place back, once.
func (a *Alone) Release() {
	p := a.pool
	p.mu.Lock()
	a.alone.tried = false
	p.share(a.Member)
	p.mu.Unlock()
	a.Member.Release()
}

// grantAlone serves those who wait to be alone, in order. It runs at each
// change that could let one be served. The lock is held.
func (p *Pool) grantAlone() {
	for i := 0; i < len(p.lonely); {
		if p.place(p.lonely[i]) {
			p.lonely = slices.Delete(p.lonely, i, i+1)
			continue
		}
		i++
	}
}

// place finds a member for l, or one that shall empty for it. The lock is held.
func (p *Pool) place(l *loner) bool {
	if m := l.kept; m != nil && (m.load() == 0 || l.hurried && p.hasRoom(m)) {
		return p.settle(l, m)
	}
	best := p.quietest(l)
	switch {
	case best == nil && l.kept == nil && l.want.Shared:
		if m := p.ranking.best(nil); m != nil {
			p.letGo(l)
			p.claim(m, nil, nil)
			m.alone.tried = true
			l.granted <- m
			return true
		}
		return false
	case best == nil:
		return false
	case best.load() == 0 || l.want.Patience == 0 && p.hasRoom(best):
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

// hasRoom says whether m may have one more request. The lock is held.
func (p *Pool) hasRoom(m *Member) bool {
	return p.options.MaxConcurrency == 0 || m.load() < p.options.MaxConcurrency
}

// settle gives m to l. The lock is held.
func (p *Pool) settle(l *loner, m *Member) bool {
	p.letGo(l)
	m.alone.held, m.alone.tried = true, true
	p.claim(m, nil, nil)
	l.granted <- m
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
			free := m != l.kept && !m.alone.tried && !m.doubted && m.breaker.admits()
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
	if m != nil && m.load() == 0 && p.queue.length == 0 {
		return m
	}
	return nil
}

// freeAlone takes m, which leaves the pool, from whoever waits for it. The lock is held.
func (p *Pool) freeAlone(m *Member) {
	if l := m.alone.waiter; l != nil {
		p.letGo(l)
	}
	m.alone.held = false
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
