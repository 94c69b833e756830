package upstream

// Stats is what a pool looked like at one moment.
type Stats struct {
	Name string
	// Queued is how many requests wait for a member.
	Queued int
	// Affinity is how many requests that had a key went where.
	Affinity AffinityCounts
	Members  []MemberStats
}

// MemberStats is what a member looked like at that moment.
type MemberStats struct {
	Name     string
	Ready    bool
	InFlight int
	// Elsewhere is how many of InFlight are another process's.
	Elsewhere int
	// Tunnels is how many of InFlight are open WebSockets of this process.
	Tunnels int
	Weight  int
	// Tier is how late its turn is; 0: it serves first. See Member.SetTier.
	Tier    int
	Breaker BreakerState
	// Load is what its engine says of its own.
	Load EngineLoad
	// BreakerOpened is how often the breaker has opened.
	BreakerOpened uint64
}

// Stats returns a snapshot, members in the order they were added.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Name: p.name, Queued: p.queue.length, Affinity: p.affinity.counts, Members: make([]MemberStats, 0, len(p.members))}
	for _, m := range p.members {
		s.Members = append(s.Members, MemberStats{
			Name: m.name, Ready: m.ready, InFlight: m.load(), Elsewhere: m.elsewhere, Weight: int(m.weight), Tier: m.tier,
			Tunnels: m.Tunnels(), Load: m.engine,
			Breaker: m.breaker.state, BreakerOpened: m.breaker.opened,
		})
	}
	return s
}
