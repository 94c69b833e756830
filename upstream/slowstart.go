package upstream

import "time"

// fullShare is how many parts a member's share of the requests has per weight.
// A new engine begins with one and gets one more each tenth of the slow start:
// its first requests compile, and fill caches, and it should have a few of them,
// not all because nobody has fewer in flight.
const fullShare = 10

// warm is how far a member's slow start has come, guarded by the pool's lock.
type warm struct {
	parts uint64 // of fullShare
	timer *time.Timer
}

// share is a member's claim to requests.
func (m *Member) share() uint64 { return m.weight * m.warm.parts }

// warmUp begins the slow start of m, whose engine is new. The lock is held.
func (p *Pool) warmUp(m *Member) {
	p.stopWarming(m)
	step := p.options.SlowStart / fullShare
	if step <= 0 {
		return
	}
	m.warm.parts = 1
	// The callback waits for the lock, so it finds the timer assigned.
	var timer *time.Timer
	timer = time.AfterFunc(step, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if m.warm.timer != timer {
			return
		}
		m.warm.parts++
		p.reshared(m)
		if m.warm.parts < fullShare {
			timer.Reset(step)
		}
	})
	m.warm.timer = timer
}

// stopWarming gives m its full share. The lock is held.
func (p *Pool) stopWarming(m *Member) {
	if m.warm.timer != nil {
		m.warm.timer.Stop()
	}
	m.warm = warm{parts: fullShare}
	p.reshared(m)
}

// reshared is to be told when m's share has changed. The lock is held.
func (p *Pool) reshared(m *Member) {
	p.ranking.fix(m)
	p.tally(m, m.counted.serves)
}
