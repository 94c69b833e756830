package upstream

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// TestWhatIsKeptEqualsAScan: prompts, loads of engines, doubts, breakers, tiers and
// replaced engines come and go at random; what the pool keeps up to date must
// always be what a look at all members would give.
func TestWhatIsKeptEqualsAScan(t *testing.T) {
	type place struct {
		m       *Member
		charged int
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := NewPool("chat", PoolOptions{
			AffinityLoad: 125, PromptTokens: 1000, PrefixMemory: 64 << 10, MaxConcurrency: 6,
			Breaker: BreakerOptions{Failures: 2, Within: time.Hour, Open: time.Hour},
		})
		for i := range 5 {
			m := p.Add(fmt.Sprint("chat-", i), 1+i%3)
			m.Reset("unix:/nowhere")
			m.SetReady(true)
			if i == 4 {
				m.SetTier(1)
			}
		}
		members := append([]*Member(nil), p.members...)
		var held []place
		alone := map[*Alone]bool{}
		for step := range 1500 {
			m := members[r.IntN(len(members))]
			switch r.IntN(14) {
			case 0:
				m.SetReady(r.IntN(3) > 0)
			case 1:
				m.Doubt(r.IntN(2) == 0)
			case 2:
				m.Failed()
			case 3:
				m.Answered()
			case 4, 5:
				m.SetLoad([]*EngineLoad{nil, under, over}[r.IntN(3)])
			case 6:
				m.Reset("unix:/nowhere")
				m.SetReady(r.IntN(2) == 0)
			case 7:
				m.SetTier(r.IntN(2))
			case 8:
				if a, err := p.AcquireAlone(canceled, WantAlone{}); err == nil {
					alone[a] = true
				}
				for a := range alone {
					if r.IntN(2) == 0 {
						a.Release()
						delete(alone, a)
					}
				}
			case 9, 10:
				if n := len(held); n > 0 {
					i := r.IntN(n)
					held[i].m.Relieve(held[i].charged)
					if held[i].charged = 0; r.IntN(2) == 0 {
						break // its answer goes on
					}
					held[i].m.Release()
					held[i] = held[n-1]
					held = held[:n-1]
				}
			default:
				var at place
				want := Want{Tokens: r.IntN(20_000), Charged: &at.charged}
				if r.IntN(3) > 0 {
					want.Prefix = promptOf(r.IntN(6), 1+r.IntN(10))
				} else {
					want.Affinity = uint64(r.IntN(4))
				}
				if at.m, _ = p.Acquire(canceled, want); at.m != nil {
					held = append(held, at)
				}
			}
			burden := map[*Member]uint64{}
			for _, at := range held {
				burden[at.m] += uint64(at.charged)
			}
			p.mu.Lock()
			if fault := p.scan(burden); fault != "" {
				t.Fatalf("seed %d step %d: %s", seed, step, fault)
			}
			p.mu.Unlock()
		}
		p.Close()
	}
}

// scan says what is not as a look at all members says. The lock is held.
func (p *Pool) scan(burden map[*Member]uint64) string {
	var load, share uint64
	easing, ranked := 0, 0
	for _, m := range p.members {
		if m.isFit() && m.engine.Pressure == PressureUnder && p.hasTurn(m) && !m.alone.held {
			easing++
		}
	}
	for _, m := range p.members {
		serves := m.ready && p.hasTurn(m) && !m.doubted && !m.alone.held && m.breaker.admits() && (easing == 0 || m.engine.Pressure != PressureOver)
		if serves {
			load, share = load+uint64(m.load())*1000+burden[m], share+m.share()
		}
		if serves && p.hasRoom(m) {
			ranked++
		}
		if chosen := m.rank >= 0; chosen != (serves && p.hasRoom(m)) {
			return fmt.Sprintf("%s can be chosen: %t; it serves: %t", m.name, chosen, serves)
		}
		if m.burden != burden[m] {
			return fmt.Sprintf("%s has %d tokens to read, not %d", m.name, m.burden, burden[m])
		}
	}
	if p.easing != easing || p.affinity.load != load || p.affinity.share != share || len(p.ranking.heap) != ranked {
		return fmt.Sprintf("%d are under, load %d, share %d, %d ranked; a scan says %d, %d, %d, %d",
			p.easing, p.affinity.load, p.affinity.share, len(p.ranking.heap), easing, load, share, ranked)
	}
	for i := 1; i < len(p.ranking.heap); i++ {
		if p.ranking.before(p.ranking.heap[i], p.ranking.heap[(i-1)/2]) {
			return fmt.Sprintf("%s is ranked after %s", p.ranking.heap[i].name, p.ranking.heap[(i-1)/2].name)
		}
	}
	return ""
}

// canceled is the context of who does not wait.
var canceled = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()
