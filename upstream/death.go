package upstream

import (
	"sync"
	"time"
)

// settling is how long after a member has left the pool nobody gets one alone. The
// engines that somebody kills in one go, or the kernel for want of memory, end within
// some ten milliseconds of each other, and the news of it comes as fast.
const settling = 250 * time.Millisecond

// unsettled is for how much longer. The lock is held.
func (p *Pool) unsettled() time.Duration { return time.Until(p.left.Add(settling)) }

// Life is that of one engine behind a member.
type Life struct {
	once sync.Once
	over chan struct{}
}

func newLife() *Life { return &Life{over: make(chan struct{})} }

// Over is closed when the engine is known to have died, and whoever Pool.OnDeath
// has named has heard of it. An engine that is ended as somebody wished never
// closes it.
func (l *Life) Over() <-chan struct{} { return l.over }

// Life is that of the engine that serves now; nil where nobody tells of its
// death, as with servers that others run.
func (m *Member) Life() *Life { return m.life.Load() }

// OnDeath names who is told of each death of a member's engine, as soon as it is
// noticed: after the member has left the pool, and before Life.Over. Since is
// from when on requests on it are to be suspected. To be called before the
// first member is ready.
func (p *Pool) OnDeath(told func(member string, since time.Time)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.died = told
}

// Died says that m's engine has ended unwished, or has to be killed since it
// hangs. What was in flight at since or later may be why. It is called when
// m is out of the pool; an engine dies once, however often that is said.
func (m *Member) Died(since time.Time) {
	l := m.life.Load()
	if l == nil {
		return // it never came to serve
	}
	l.once.Do(func() {
		m.pool.mu.Lock()
		told := m.pool.died
		m.pool.mu.Unlock()
		if told != nil {
			told(m.name, since)
		}
		close(l.over)
	})
}
