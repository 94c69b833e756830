package upstream

// SetOptions changes what the pool was made with. Requests that wait already
// keep the time-out that they began with, breakers that are open the time they
// opened for; a queue that has become too short empties by itself. Connections
// go by the new time-outs of the transport from their next request on.
func (p *Pool) SetOptions(o PoolOptions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.options = o
	p.prefixMemory.Store(int64(o.PrefixMemory))
	for _, m := range p.members {
		if t := m.transport.Load(); t != nil {
			t.setLimits(o.Transport)
		}
	}
	unit := unitOf(&o)
	if p.ranking.policy != o.Policy || p.ranking.unit != unit {
		p.ranking.unit = unit
		p.ranking.follow(o.Policy)
	}
	for _, m := range p.members {
		if o.PromptTokens == 0 {
			m.burden = 0
		}
		if o.Breaker.Failures == 0 {
			m.breaker.close()
		}
		p.arrange(m)
	}
	p.grant()
}

// setLimits changes the time-outs of exchanges that begin from now on.
func (t *Transport) setLimits(o TransportOptions) {
	now := *t.options.Load()
	now.ConnectTimeout, now.ResponseTimeout = o.ConnectTimeout, o.ResponseTimeout
	t.options.Store(&now)
}

// SetWeight changes the member's share (≥ 1).
func (m *Member) SetWeight(weight int) {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	m.weight = uint64(max(weight, 1))
	m.pool.reshared(m)
	m.pool.reshaped()
}

// follow changes the policy, and with it the order.
func (r *ranking) follow(policy Policy) {
	r.policy = policy
	for i := len(r.heap)/2 - 1; i >= 0; i-- {
		r.down(i)
	}
}
