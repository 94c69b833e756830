package upstream

// SetElsewhere says how many requests another process has on the same upstreams
// now, by member: an older generation of this master that finishes what it has
// begun. They count wherever a member's own do: in what the policy compares and
// MaxConcurrency limits, in WaitIdle, in InFlight and in Stats. A member that is not named has none.
func (p *Pool) SetElsewhere(counts map[string]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.members {
		m.elsewhere = max(counts[m.name], 0)
		p.arrange(m)
		m.tellIdle()
	}
	p.grant()
}

// load is how many requests the upstream has, ours and others'. The pool's
// lock is held.
func (m *Member) load() int { return m.inFlight + m.elsewhere }

// tellIdle wakes those who wait for the last request. The pool's lock is held.
func (m *Member) tellIdle() {
	if m.load() == 0 && m.idle != nil {
		close(m.idle)
		m.idle = nil
	}
}
