package upstream

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

var usualBreaker = BreakerOptions{Failures: 5, Within: 10 * time.Second, Open: 30 * time.Second}

// breakerPool has n members that are ready.
func breakerPool(n int) (*Pool, []*Member) {
	p := NewPool("chat", PoolOptions{QueueLength: 10, QueueTimeout: time.Minute, Breaker: usualBreaker})
	for i := range n {
		p.Add(fmt.Sprint("chat-", i), 1).SetReady(true)
	}
	return p, p.members
}

func failTimes(m *Member, n int, pause time.Duration) {
	for i := range n {
		if i > 0 {
			time.Sleep(pause)
		}
		m.Failed()
	}
}

func TestBreaker(t *testing.T) {
	tests := []struct {
		name    string
		members int
		do      func(p *Pool, m *Member)
		want    BreakerState
	}{
		{"four failures", 2, func(_ *Pool, m *Member) { failTimes(m, 4, 0) }, BreakerClosed},
		{"five failures", 2, func(_ *Pool, m *Member) { failTimes(m, 5, 0) }, BreakerOpen},
		{"five failures in 10 s", 2, func(_ *Pool, m *Member) { failTimes(m, 5, 2500*time.Millisecond) }, BreakerOpen},
		{"five failures in more", 2, func(_ *Pool, m *Member) { failTimes(m, 5, 2600*time.Millisecond) }, BreakerClosed},
		{"many failures, slowly", 2, func(_ *Pool, m *Member) { failTimes(m, 50, 2600*time.Millisecond) }, BreakerClosed},
		{"slow ones, then fast ones", 2, func(_ *Pool, m *Member) {
			failTimes(m, 4, 10*time.Second)
			time.Sleep(9 * time.Second)
			failTimes(m, 4, 0)
		}, BreakerOpen},
		{"an answer between", 2, func(_ *Pool, m *Member) {
			failTimes(m, 4, 0)
			m.Answered()
			failTimes(m, 4, 0)
		}, BreakerClosed},
		{"the only member", 1, func(_ *Pool, m *Member) { failTimes(m, 50, 0) }, BreakerClosed},
		{"the last of two", 2, func(p *Pool, m *Member) {
			failTimes(p.members[1], 5, 0)
			failTimes(m, 50, 0)
		}, BreakerClosed},
		{"the other is not ready", 2, func(p *Pool, m *Member) {
			p.members[1].SetReady(false)
			failTimes(m, 50, 0)
		}, BreakerClosed},
		{"the other dies later", 2, func(p *Pool, m *Member) {
			failTimes(m, 5, 0)
			p.members[1].SetReady(false)
		}, BreakerClosed},
		{"the other leaves later", 2, func(p *Pool, m *Member) {
			failTimes(m, 5, 0)
			p.Remove(p.members[1])
		}, BreakerClosed},
		{"a fresh engine", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			m.Reset("127.0.0.1:1")
			m.SetReady(true)
		}, BreakerClosed},
		{"who was out comes back", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			m.SetReady(false)
			m.SetReady(true)
		}, BreakerClosed},
		{"a late answer does not close it", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			m.Answered()
		}, BreakerOpen},
		{"just before its time", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			time.Sleep(30*time.Second - 1)
		}, BreakerOpen},
		{"at its time", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			time.Sleep(30 * time.Second)
			synctest.Wait()
		}, BreakerHalfOpen},
		{"switched off by a reload", 2, func(p *Pool, m *Member) {
			failTimes(m, 5, 0)
			p.SetOptions(PoolOptions{})
			failTimes(m, 50, 0)
		}, BreakerClosed},
		{"an old timer means nothing to a fresh engine", 2, func(_ *Pool, m *Member) {
			failTimes(m, 5, 0)
			time.Sleep(20 * time.Second)
			m.Reset("127.0.0.1:1")
			m.SetReady(true)
			failTimes(m, 5, 0)
			time.Sleep(20 * time.Second)
		}, BreakerOpen},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, members := breakerPool(tt.members)
				m := members[0]
				tt.do(p, m)
				if got := m.Breaker(); got != tt.want {
					t.Fatalf("breaker is %s, want %s", got, tt.want)
				}
				picked := false
				for range 20 {
					got := mustAcquire(t, p, nil)
					picked = picked || got == m
				}
				if passes := tt.want != BreakerOpen; picked != passes {
					t.Errorf("breaker %s, picked: %v", tt.want, picked)
				}
			})
		})
	}
}

func TestBreakerLetsOneTrialThrough(t *testing.T) {
	tests := []struct {
		name string
		end  func(m *Member)
		want BreakerState
		// opened how often, in all
		opened uint64
	}{
		{"it is answered", (*Member).Answered, BreakerClosed, 1},
		{"it fails", (*Member).Failed, BreakerOpen, 2},
		{"its client goes", func(*Member) {}, BreakerHalfOpen, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, members := breakerPool(2)
				m := members[0]
				failTimes(m, 5, 0)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				trials := 0
				for range 20 {
					if mustAcquire(t, p, nil) == m {
						trials++
					}
				}
				if trials != 1 {
					t.Fatalf("%d trials", trials)
				}
				tt.end(m)
				m.Release()
				if got := m.Breaker(); got != tt.want {
					t.Fatalf("breaker is %s, want %s", got, tt.want)
				}
				next := mustAcquire(t, p, nil) // m has none in flight, the other 19
				if passes := tt.want != BreakerOpen; (next == m) != passes {
					t.Errorf("the next request went to %s", next.Name())
				}
				if n := p.Stats().Members[0].BreakerOpened; n != tt.opened {
					t.Errorf("opened %d times", n)
				}
			})
		})
	}
}

// Requests that wait for a busy pool are served by whom the breaker lets in again.
func TestBreakersTimeServesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := breakerPool(2)
		o := PoolOptions{MaxConcurrency: 1, QueueLength: 1, QueueTimeout: time.Minute, Breaker: usualBreaker}
		p.SetOptions(o)
		failTimes(members[0], 5, 0)
		start := time.Now()
		mustAcquire(t, p, nil)
		if got := mustAcquire(t, p, nil); got != members[0] || time.Since(start) != usualBreaker.Open {
			t.Errorf("got %s after %v", got.Name(), time.Since(start))
		}
	})
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("chat", PoolOptions{SlowStart: 10 * time.Second})
		old, young := p.Add("chat-0", 1), p.Add("chat-1", 1)
		old.SetReady(true)
		share := func() int {
			var held []*Member
			n := 0
			for range 110 {
				m := mustAcquire(t, p, nil)
				held = append(held, m)
				if m == young {
					n++
				}
			}
			for _, m := range held {
				m.Release()
			}
			return n
		}
		young.Reset("127.0.0.1:1")
		young.SetReady(true)
		if n := share(); n < 9 || n > 11 {
			t.Errorf("at first the new engine got %d of 110", n)
		}
		time.Sleep(4 * time.Second)
		synctest.Wait()
		if n := share(); n < 35 || n > 38 {
			t.Errorf("at half its share it got %d of 110", n)
		}
		young.SetReady(false)
		young.SetReady(true) // not a new engine: its warming goes on
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n := share(); n < 54 || n > 56 {
			t.Errorf("at the end it got %d of 110", n)
		}
		old.SetReady(false)
		young.Reset("127.0.0.1:1")
		young.SetReady(true)
		if n := share(); n != 110 {
			t.Errorf("alone it got %d of 110", n)
		}
	})
}
