package upstream

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func testPool(t *testing.T, policy Policy, weights ...int) (*Pool, []*Member) {
	t.Helper()
	p := NewPool("chat", PoolOptions{Policy: policy, QueueLength: 3, QueueTimeout: time.Minute})
	for i, w := range weights {
		p.Add(fmt.Sprint("chat-", i), w).SetReady(true)
	}
	return p, p.members
}

func mustAcquire(t *testing.T, p *Pool, avoid *Member) *Member {
	t.Helper()
	m, err := p.Acquire(t.Context(), Want{Avoid: avoid})
	if err != nil {
		t.Fatalf("acquire: %v", err)
	}
	return m
}

func TestPoolSharesByPolicyAndWeight(t *testing.T) {
	tests := []struct {
		name    string
		policy  Policy
		weights []int
		hold    bool // keep every place, so that load builds up
		picks   int
		want    map[string]int
	}{
		{"least outstanding, all idle: goes round", LeastOutstanding, []int{1, 1, 1}, false, 9, map[string]int{"chat-0": 3, "chat-1": 3, "chat-2": 3}},
		{"least outstanding, load builds up", LeastOutstanding, []int{1, 1, 1}, true, 9, map[string]int{"chat-0": 3, "chat-1": 3, "chat-2": 3}},
		{"least outstanding, weights under load", LeastOutstanding, []int{3, 1}, true, 40, map[string]int{"chat-0": 30, "chat-1": 10}},
		{"round robin goes by weight", RoundRobin, []int{5, 1}, false, 60, map[string]int{"chat-0": 50, "chat-1": 10}},
		{"round robin does not look at load", RoundRobin, []int{1, 1}, true, 10, map[string]int{"chat-0": 5, "chat-1": 5}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := testPool(t, tt.policy, tt.weights...)
			got := map[string]int{}
			for range tt.picks {
				m := mustAcquire(t, p, nil)
				got[m.Name()]++
				if !tt.hold {
					m.Release()
				}
			}
			if !maps.Equal(got, tt.want) {
				t.Errorf("picks = %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPoolPrefersTheLeastLoaded(t *testing.T) {
	p, members := testPool(t, LeastOutstanding, 1, 1, 1)
	var held []*Member
	for range 6 {
		held = append(held, mustAcquire(t, p, nil))
	}
	for _, m := range held {
		if m == members[1] {
			m.Release()
		}
	}
	for range 2 {
		if m := mustAcquire(t, p, nil); m != members[1] {
			t.Errorf("picked %s with chat-1 the least loaded", m.Name())
		}
	}
}

func TestPoolRoundRobinDoesNotFloodWhoReturns(t *testing.T) {
	p, members := testPool(t, RoundRobin, 1, 1)
	members[0].SetReady(false)
	for range 100 {
		mustAcquire(t, p, nil).Release()
	}
	members[0].SetReady(true)
	got := map[string]int{}
	for range 10 {
		got[mustAcquire(t, p, nil).Name()]++
	}
	if got["chat-0"] > 6 { // its share, and the turn it comes back in
		t.Errorf("the returning member got %d of 10", got["chat-0"])
	}
}

func TestPoolAvoidsWhoJustFailed(t *testing.T) {
	for n := 1; n <= 5; n++ {
		p, members := testPool(t, LeastOutstanding, make([]int, n)...)
		for _, avoid := range members {
			m := mustAcquire(t, p, avoid)
			if (m == avoid) != (n == 1) {
				t.Errorf("%d members, avoiding %s: got %s", n, avoid.Name(), m.Name())
			}
		}
	}
}

// The heap must always give what a scan of all members would.
func TestRankingEqualsAScan(t *testing.T) {
	for seed := range int64(20) {
		rng := rand.New(rand.NewSource(seed))
		p, members := testPool(t, Policy(seed%2), 1, 2, 3, 1, 5, 1, 1, 8)
		held := map[*Member]int{}
		for step := range 2000 {
			m := members[rng.Intn(len(members))]
			switch rng.Intn(4) {
			case 0:
				m.SetReady(rng.Intn(3) > 0)
			case 1:
				if held[m] > 0 {
					m.Release()
					held[m]--
				}
			default:
				want := scan(p)
				if want == nil {
					continue
				}
				got := mustAcquire(t, p, nil)
				held[got]++
				if got != want && got.pass-strideUnit/got.weight != want.pass {
					t.Fatalf("seed %d step %d: picked %s, a scan says %s", seed, step, got.Name(), want.Name())
				}
			}
		}
	}
}

func scan(p *Pool) *Member {
	var best *Member
	for _, m := range p.members {
		if m.ready && (best == nil || p.ranking.before(m, best)) {
			best = m
		}
	}
	return best
}

func TestQueueIsServedInOrderOnceAMemberIsReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := testPool(t, LeastOutstanding, 1)
		members[0].SetReady(false)
		var mu sync.Mutex
		var order []int
		for i := range 3 {
			go func() {
				m, err := p.Acquire(t.Context(), Want{})
				if err != nil {
					t.Errorf("request %d: %v", i, err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				m.Release()
			}()
			synctest.Wait() // each is in the queue before the next comes
		}
		if s := p.Stats(); s.Queued != 3 {
			t.Errorf("queued = %d", s.Queued)
		}
		if _, err := p.Acquire(t.Context(), Want{}); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a fourth request: %v", err)
		}
		time.Sleep(59 * time.Second)
		members[0].SetReady(true)
		synctest.Wait()
		if len(order) != 3 || members[0].InFlight() != 0 {
			t.Errorf("served %v, still in flight %d", order, members[0].InFlight())
		}
	})
}

func TestQueueGrantsFirstComeFirstServed(t *testing.T) {
	p, members := testPool(t, LeastOutstanding, 1)
	members[0].SetReady(false)
	var places []*waiter
	for range 3 {
		_, w, _ := p.claimOrQueue(&Want{})
		places = append(places, w)
	}
	p.mu.Lock()
	p.queue.remove(places[1]) // its client has gone
	first, second := p.queue.pop(), p.queue.pop()
	p.mu.Unlock()
	if first != places[0] || second != places[2] || p.queue.length != 0 || p.queue.pop() != nil {
		t.Errorf("the queue lost its order")
	}
}

func TestQueueTimeoutHangUpAndClose(t *testing.T) {
	errGone := errors.New("gone")
	tests := []struct {
		name  string
		after time.Duration
		want  error
		do    func(p *Pool, cancel context.CancelCauseFunc)
	}{
		{"time-out", time.Minute, ErrQueueTimeout, func(*Pool, context.CancelCauseFunc) {}},
		{"client hangs up", 5 * time.Second, errGone, func(_ *Pool, cancel context.CancelCauseFunc) {
			time.Sleep(5 * time.Second)
			cancel(errGone)
		}},
		{"pool closes", 5 * time.Second, ErrPoolClosed, func(p *Pool, _ context.CancelCauseFunc) {
			time.Sleep(5 * time.Second)
			p.Close()
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, members := testPool(t, LeastOutstanding, 1)
				members[0].SetReady(false)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				start := time.Now()
				go tt.do(p, cancel)
				_, err := p.Acquire(ctx, Want{})
				if !errors.Is(err, tt.want) || time.Since(start) != tt.after {
					t.Errorf("%v after %v, want %v after %v", err, time.Since(start), tt.want, tt.after)
				}
				members[0].SetReady(true)
				if n := members[0].InFlight(); n != 0 || p.Stats().Queued != 0 {
					t.Errorf("in flight %d, queued %d", n, p.Stats().Queued)
				}
			})
		})
	}
}

// A place granted in the moment its request gives up must not be lost.
func TestNoPlaceLeaksWhenGrantAndHangUpMeet(t *testing.T) {
	p, members := testPool(t, LeastOutstanding, 1)
	for range 500 {
		members[0].SetReady(false)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if m, err := p.Acquire(ctx, Want{}); err == nil {
				m.Release()
			}
		})
		wg.Go(cancel)
		wg.Go(func() { members[0].SetReady(true) })
		wg.Wait()
		if n := members[0].InFlight(); n != 0 {
			t.Fatalf("%d places leaked", n)
		}
	}
}

func TestDrainWaitsForTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := testPool(t, LeastOutstanding, 1, 1)
		m := mustAcquire(t, p, members[1])
		m.SetReady(false)
		if next := mustAcquire(t, p, nil); next != members[1] {
			t.Errorf("a draining member was picked")
		}
		go func() { time.Sleep(3 * time.Second); m.Release() }()
		start := time.Now()
		if err := m.WaitIdle(t.Context()); err != nil || time.Since(start) != 3*time.Second {
			t.Errorf("idle after %v: %v", time.Since(start), err)
		}
	})
}

func TestRefusedTakesOutAtOnceAndWakesTheProber(t *testing.T) {
	p, members := testPool(t, LeastOutstanding, 1, 1)
	members[0].Refused()
	members[0].Refused() // must not block
	for range 4 {
		if m := mustAcquire(t, p, nil); m == members[0] {
			t.Errorf("picked a member that refuses")
		}
	}
	select {
	case <-members[0].Kick():
	default:
		t.Errorf("the prober was not woken")
	}
}

func TestRemovedMemberIsNotPickedAndItsLeaseStaysValid(t *testing.T) {
	p, members := testPool(t, LeastOutstanding, 1, 1)
	first := members[0]
	held := mustAcquire(t, p, members[1])
	p.Remove(first)
	if got := mustAcquire(t, p, nil); got == first || held != first {
		t.Errorf("picked %s", got.Name())
	}
	held.Release()
	if first.InFlight() != 0 || len(p.Stats().Members) != 1 {
		t.Errorf("in flight %d, members %d", first.InFlight(), len(p.Stats().Members))
	}
}

func BenchmarkAcquire(b *testing.B) {
	for _, n := range []int{4, 32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			p := NewPool("chat", PoolOptions{})
			for i := range n {
				p.Add(fmt.Sprint(i), 1).SetReady(true)
			}
			held := make([]*Member, 2*n)
			for i := range held {
				held[i], _ = p.Acquire(b.Context(), Want{})
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i = (i + 1) % len(held) {
				held[i].Release()
				held[i], _ = p.Acquire(b.Context(), Want{})
			}
		})
	}
}
