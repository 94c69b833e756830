package upstream

// A pool may have members that serve only while others cannot: backups. Each
// member is of a tier, 0 for those who serve first, and requests go to the
// lowest tier of which somebody is fit: ready, not doubted, and not kept from
// requests by its breaker. To be busy is no reason to turn to the next: their
// requests wait in the queue, as they would without a backup.
//
// As soon as one of a lower tier is fit again it gets the requests; those on
// the members of the others may finish.

// SetTier says how late m's turn is (≥ 0; 0: it serves first). Requests on it
// are untouched.
func (m *Member) SetTier(tier int) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.tier = max(tier, 0)
	p.tiered = p.tiered || m.tier > 0
	p.reshaped()
	if !p.retier() {
		p.arrange(m)
		p.grantAlone()
		p.grant()
	}
}

// isFit says whether m could serve but for its load. The lock is held.
func (m *Member) isFit() bool {
	return m.ready && !m.isDoubted() && m.breaker.state == BreakerClosed
}

// noteFitness brings the tier in use up to date with m. It says whether that
// has changed, and everybody's place been arranged anew. The lock is held.
func (p *Pool) noteFitness(m *Member) bool {
	fit := m.isFit()
	if m.fit == fit {
		return false
	}
	m.fit = fit
	return p.tiered && p.retier()
}

// retier finds the tier in use. Where nobody is fit it is that of the last
// ready ones: who is left is better than nobody. The lock is held.
func (p *Pool) retier() bool {
	const none = int(^uint(0) >> 1)
	tier, last := none, 0
	for _, m := range p.members {
		if m.fit {
			tier = min(tier, m.tier)
		}
		last = max(last, m.tier)
	}
	if tier == none {
		tier = last
	}
	if tier == p.tier {
		return false
	}
	p.tier = tier
	for _, m := range p.members {
		p.arrange(m)
	}
	p.grantAlone()
	p.grant()
	return true
}

// hasTurn says whether m is of a tier that is in use. The lock is held.
func (p *Pool) hasTurn(m *Member) bool { return m.tier <= p.tier }
