package upstream

// An engine that takes requests in batches has a queue of its own, and memory for
// what it has computed (the KV cache): who is full makes new requests wait, or
// throws out what others wait for. Who reads its metrics page tells the pool:
//
//	pressure   means                                        gets new requests
//	unknown    nothing is known, or what is known is old    as the policy says
//	under      below its thresholds                         as the policy says
//	over       above one of them                            only while nobody is known to be under
//
// Unknown is not under: it keeps nobody who is over from requests. Nor is it over:
// a page that does not come says nothing of the engine, probes do. Who serves only
// while others cannot (see tiers) is no reason to spare those others.

// Pressure is how an engine's load compares with its thresholds.
type Pressure int

// The pressures.
const (
	PressureUnknown Pressure = iota
	PressureUnder
	PressureOver
)

func (p Pressure) String() string { return [...]string{"unknown", "under", "over"}[p] }

// EngineLoad is what an engine says of its own load, as of lately.
type EngineLoad struct {
	Pressure Pressure
	// Waiting is how many requests wait in the engine, -1 if it does not say;
	// CacheUsage how full its KV cache is, of 1, negative if it does not say.
	Waiting, CacheUsage float64
}

// unknownLoad is that of an engine of which nothing is known.
var unknownLoad = EngineLoad{Waiting: -1, CacheUsage: -1}

// SetLoad says how loaded m's engine is; nil: nobody knows any more.
func (m *Member) SetLoad(l *EngineLoad) {
	if l == nil {
		l = &unknownLoad
	}
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.engine = *l
	p.pressed = p.pressed || l.Pressure != PressureUnknown
	p.arrange(m)
	p.grant()
}

// Load is what m's engine says of its own load.
func (m *Member) Load() EngineLoad {
	m.pool.mu.Lock()
	defer m.pool.mu.Unlock()
	return m.engine
}

// spared says that m gets nothing new since others are under. The lock is held.
func (p *Pool) spared(m *Member) bool { return p.easing > 0 && m.engine.Pressure == PressureOver }

// noteEase keeps the count of those who are under and could serve but for their
// number of requests. It says whether there are some now and were none, or the
// other way round, and everybody's place has been arranged anew. The lock is held.
func (p *Pool) noteEase(m *Member) bool {
	eases := m.fit && m.engine.Pressure == PressureUnder && p.hasTurn(m) && !m.alone.held
	if m.eases == eases {
		return false
	}
	m.eases = eases
	before := p.easing
	if eases {
		p.easing++
	} else {
		p.easing--
	}
	if (before == 0) == (p.easing == 0) {
		return false
	}
	for _, other := range p.members {
		p.arrange(other)
	}
	p.grant()
	return true
}
