package upstream

import "time"

// One such request at a time on each member is safe, and slow: thirty streams of
// ten seconds that were on a pool's only engine when that died would wait for five
// minutes, and most of them in vain. So the next may come beside one that has
// passed: that has got further than it was when its engine died.
//
//	on trial  no other such request comes onto its member
//	passed    Pass was called. Nothing changes while nobody else waits to be alone
//	yielded   the margin is over, somebody waits: the next comes, and does not wait
//	          for it to finish; where others have been waiting for the member, after them
//	released  its member is free for the next, however it stood
//
// The margin is what those who wait leave: all are to have begun within soonBegun.
// Where few wait it is long enough for most requests to end in it, and they are
// tried strictly one by one.
//
// That somebody has passed is no proof. Whoever judges must not hold a death that
// comes beside one that has yielded against the next alone.

// soonBegun is within what time all that wait to be alone shall have begun, or half
// of the queue's time-out if that is less.
const soonBegun = 10 * time.Second

// Pass says that the request has got further than it was when its engine died.
func (a *Alone) Pass() {
	p := a.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if a.passed.IsZero() {
		a.passed = time.Now()
		p.grantAlone()
	}
}

// HasYielded says whether others that may kill an engine have been let beside it.
func (a *Alone) HasYielded() bool {
	a.pool.mu.Lock()
	defer a.pool.mu.Unlock()
	return a.yielded
}

// margin is for how long who has passed still keeps the next away. Somebody waits.
// The lock is held.
func (p *Pool) margin() time.Duration {
	trials := 0
	for _, m := range p.members {
		if m.alone.trial != nil {
			trials++
		}
	}
	since := p.lonely[0].since
	for _, l := range p.lonely {
		if l.since.Before(since) {
			since = l.since
		}
	}
	left := time.Until(since.Add(min(soonBegun, p.options.QueueTimeout/2)))
	return max(left, 0) * time.Duration(trials) / time.Duration(len(p.lonely))
}

// yield has those who have passed make room for the next. The lock is held.
func (p *Pool) yield() {
	margin, crowded, some := p.margin(), p.isCrowded(), false
	for _, m := range p.members {
		if a := m.alone.trial; a != nil && !a.passed.IsZero() && time.Since(a.passed) >= margin {
			a.yielded, some = true, true
			m.alone.yielded++
			p.acquit(a)
		}
	}
	if some && crowded {
		p.grant()
	}
}

// acquit takes who is on trial from its member's keeping. The lock is held.
func (p *Pool) acquit(a *Alone) {
	m := a.Member
	m.alone.trial = nil
	if m.alone.held && m.alone.waiter == nil {
		p.unhold(m)
	}
}

// pace comes back when the next of those who have passed is to yield, or when the
// pool has settled. The lock is held.
func (p *Pool) pace() {
	if p.pacer != nil {
		p.pacer.Stop()
		p.pacer = nil
	}
	if len(p.lonely) == 0 {
		return
	}
	margin, next := p.margin(), time.Duration(-1)
	if wait := p.unsettled(); wait > 0 {
		next = wait
	}
	for _, m := range p.members {
		if a := m.alone.trial; a != nil && !a.passed.IsZero() {
			wait := max(0, margin-time.Since(a.passed))
			if next < 0 || wait < next {
				next = wait
			}
		}
	}
	if next >= 0 {
		p.pacer = time.AfterFunc(next, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.grantAlone()
		})
	}
}
