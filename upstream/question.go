package upstream

// Question says that something on m has ended as it does on an engine that is about
// to end, or has hung: see supervisor's question.go, which has the table. Until
// whoever probes m vouches for it nothing new goes there, as with Doubt, and it is
// probed at once. Those on it go on.
func (m *Member) Question() {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if !m.ready {
		return
	}
	m.questions++
	if p.options.QueueLength == 0 && !p.hasOther(m) {
		m.vouched = m.questions // as with Doubt; it is asked all the same
	}
	p.redoubt(m)
	m.ask()
}

// Questions is how often m was questioned, and whether nobody has vouched for it since.
func (m *Member) Questions() (asked uint64, open bool) {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.questions, m.questions > m.vouched
}

// Vouch says that m has proven itself after the first asked questions.
func (m *Member) Vouch(asked uint64) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if m.vouched >= asked {
		return
	}
	m.vouched = asked
	p.redoubt(m)
	p.grant()
}

// isDoubted says whether new requests are kept from m for what is known of its health.
// The lock is held.
func (m *Member) isDoubted() bool { return m.doubted || m.questions > m.vouched }

// redoubt takes in that a doubt about m has come or gone. The lock is held.
func (p *Pool) redoubt(m *Member) {
	p.arrange(m)
	if m.isDoubted() {
		p.spare()
		p.relent()
	}
}

// ask wakes the prober.
func (m *Member) ask() {
	select {
	case m.kick <- struct{}{}:
	default:
	}
}
