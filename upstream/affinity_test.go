package upstream

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// affinePool has ready members chat-0, chat-1, … of the given weights.
func affinePool(t *testing.T, percent int, weights ...int) (*Pool, []*Member) {
	t.Helper()
	p, members := testPool(t, LeastOutstanding, weights...)
	o := p.options
	o.AffinityLoad = percent
	p.SetOptions(o)
	return p, slices.Clone(members)
}

func keyed(t *testing.T, p *Pool, key string) *Member {
	t.Helper()
	m, err := p.Acquire(t.Context(), Want{Affinity: AffinityKey(key)})
	if err != nil {
		t.Fatalf("acquire for %s: %v", key, err)
	}
	return m
}

const sessions = 8000

// homes asks for each session once, with nothing else in flight.
func homes(t *testing.T, p *Pool) map[string]string {
	t.Helper()
	at := map[string]string{}
	for i := range sessions {
		key := fmt.Sprint("session-", i)
		m := keyed(t, p, key)
		at[key] = m.Name()
		m.Release()
	}
	return at
}

func shares(at map[string]string) map[string]int {
	n := map[string]int{}
	for _, name := range at {
		n[name]++
	}
	return n
}

// near says whether got is want, give or take a tenth of it.
func near(got, want int) bool { return got*10 >= want*9 && got*10 <= want*11 }

func TestOnlyTheSessionsOfWhoIsGoneMove(t *testing.T) {
	for _, n := range []int{2, 3, 8, 20} {
		p, members := affinePool(t, 125, slices.Repeat([]int{1}, n)...)
		before := homes(t, p)
		for name, got := range shares(before) {
			if !near(got, sessions/n) && n < 20 || got*10 < sessions/n*8 || got*10 > sessions/n*12 {
				t.Errorf("%d members: %s has %d of %d", n, name, got, sessions)
			}
		}
		for _, gone := range []*Member{members[0], members[n-1]} {
			gone.SetReady(false)
			spread := map[string]int{}
			for key, at := range homes(t, p) {
				switch {
				case before[key] == gone.Name():
					spread[at]++
				case at != before[key]:
					t.Fatalf("%d members: %s has moved from %s to %s, and %s is gone", n, key, before[key], at, gone.Name())
				}
			}
			for name, got := range spread {
				if want := sessions / n / (n - 1); got < want/2 || got > 2*want {
					t.Errorf("%d members: %s has taken over %d, its part is %d", n, name, got, want)
				}
			}
			if len(spread) != n-1 {
				t.Errorf("%d members: only %d have taken anything over", n, len(spread))
			}
			gone.SetReady(true)
		}
		for key, at := range homes(t, p) {
			if at != before[key] {
				t.Fatalf("%s has not come back to %s", key, before[key])
			}
		}
	}
}

// Who is added again under its name, anywhere among the others, has the same
// sessions; one more member takes its part from all.
func TestSessionsGoByTheNameAlone(t *testing.T) {
	p, members := affinePool(t, 125, 1, 1, 1, 1)
	before := homes(t, p)
	p.Remove(members[1])
	p.Add("chat-1", 1).SetReady(true)
	for key, at := range homes(t, p) {
		if at != before[key] {
			t.Fatalf("%s has moved from %s to %s", key, before[key], at)
		}
	}
	p.Add("chat-4", 1).SetReady(true)
	moved := 0
	for key, at := range homes(t, p) {
		if at == before[key] {
			continue
		}
		if moved++; at != "chat-4" {
			t.Fatalf("%s has moved from %s to %s", key, before[key], at)
		}
	}
	if !near(moved, sessions/5) {
		t.Errorf("a fifth member took %d of %d", moved, sessions)
	}
}

// An upgrade must not move anybody: these homes are a contract between versions.
func TestHomesAreTheSameInEveryVersion(t *testing.T) {
	p, _ := affinePool(t, 125, 1, 1, 1, 1, 1)
	var got []string
	for i := range 12 {
		m := keyed(t, p, fmt.Sprint("session-", i))
		got = append(got, strings.TrimPrefix(m.Name(), "chat-"))
		m.Release()
	}
	if want := "3 3 0 1 0 1 0 0 3 0 0 0"; strings.Join(got, " ") != want {
		t.Errorf("homes are %s, and were %s in every version before", strings.Join(got, " "), want)
	}
}

func TestSessionsGoByWeight(t *testing.T) {
	p, members := affinePool(t, 0, 1, 2, 5)
	for want, n := range map[*Member]int{members[0]: 1, members[1]: 2, members[2]: 5} {
		if got := shares(homes(t, p))[want.Name()]; !near(got, sessions*n/8) {
			t.Errorf("%s of weight %d has %d of %d", want.Name(), n, got, sessions)
		}
	}
	before := homes(t, p)
	members[0].SetWeight(2)
	for key, at := range homes(t, p) {
		if at != before[key] && at != "chat-0" {
			t.Fatalf("%s has moved to %s when chat-0 got a larger part", key, at)
		}
	}
}

// A key that everybody uses takes as many members as it needs, in its order,
// and none has more than 125 % of the average, rounded up.
func TestAHotKeySpills(t *testing.T) {
	for _, percent := range []int{100, 125, 200} {
		p, members := affinePool(t, percent, 1, 1, 1, 1)
		for n := 1; n <= 100; n++ {
			m := keyed(t, p, "hot")
			if got, most := m.InFlight(), (percent*n+399)/400; got > most {
				t.Fatalf("%d %%: %s has %d of %d in flight, and may have %d", percent, m.Name(), got, n, most)
			}
		}
		used := 0
		for _, m := range members {
			if m.InFlight() > 0 {
				used++
			}
		}
		if want := map[int]int{100: 4, 125: 4, 200: 2}[percent]; used != want {
			t.Errorf("%d %%: %d members used, want %d", percent, used, want)
		}
		c := p.Stats().Affinity
		if c.Hits == 0 || c.Spilled == 0 || c.Moved != 0 || c.Hits+c.Spilled != 100 {
			t.Errorf("%d %%: counted %+v", percent, c)
		}
	}
	p, _ := affinePool(t, 0, 1, 1, 1, 1)
	home := keyed(t, p, "hot")
	for range 99 {
		if m := keyed(t, p, "hot"); m != home {
			t.Fatal("it has spilled without a bound")
		}
	}
}

// With a share of a tenth, a new engine gets a tenth of the load and none of
// its sessions' burst; when it is warm it has them all.
func TestSessionsComeBackBySlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := affinePool(t, 125, 1, 1)
		o := p.options
		o.SlowStart = 10 * time.Second
		p.SetOptions(o)
		m := members[0]
		m.Reset("127.0.0.1:1")
		m.SetReady(true)
		for i := range 110 {
			keyed(t, p, fmt.Sprint("session-", i))
		}
		if got := m.InFlight(); got > 13 || got < 8 { // 125 % of a tenth to one
			t.Errorf("the new engine has %d of 110", got)
		}
		time.Sleep(11 * time.Second)
		for i := range 110 {
			keyed(t, p, fmt.Sprint("session-", i))
		}
		if got := m.InFlight(); got < 80 {
			t.Errorf("the warm engine has %d of 220", got)
		}
	})
}

// Whatever keeps requests from a member keeps its sessions from it too, and is
// counted for what it is.
func TestSessionsOfWhoCannotServe(t *testing.T) {
	tests := []struct {
		name string
		do   func(p *Pool, home *Member) (avoid *Member)
		want AffinityCounts
	}{
		{"all is well", func(*Pool, *Member) *Member { return nil }, AffinityCounts{Hits: 1}},
		{"not ready", func(_ *Pool, m *Member) *Member { m.SetReady(false); return nil }, AffinityCounts{Moved: 1}},
		{"in doubt", func(_ *Pool, m *Member) *Member { m.Doubt(true); return nil }, AffinityCounts{Moved: 1}},
		{"breaker open", func(_ *Pool, m *Member) *Member { m.Failed(); return nil }, AffinityCounts{Moved: 1}},
		{"removed", func(p *Pool, m *Member) *Member { p.Remove(m); return nil }, AffinityCounts{Hits: 1}},
		{"has just failed the request", func(_ *Pool, m *Member) *Member { return m }, AffinityCounts{Moved: 1}},
		{"full", func(p *Pool, m *Member) *Member {
			for range 5 {
				m.pool.mu.Lock()
				p.claim(m, nil, nil)
				m.pool.mu.Unlock()
			}
			return nil
		}, AffinityCounts{Spilled: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, _ := affinePool(t, 0, 1, 1, 1)
			o := p.options
			o.MaxConcurrency, o.Breaker = 5, BreakerOptions{Failures: 1, Within: time.Minute, Open: time.Hour}
			p.SetOptions(o)
			t.Cleanup(p.Close)
			home := keyed(t, p, "k")
			home.Release()
			p.affinity.counts = AffinityCounts{}
			avoid := tt.do(p, home)
			m, err := p.Acquire(t.Context(), Want{Affinity: AffinityKey("k"), Avoid: avoid})
			if err != nil || (m == home) != (tt.name == "all is well") {
				t.Errorf("%v, %v; at home it was %s", m.Name(), err, home.Name())
			}
			if got := p.Stats().Affinity; got != tt.want {
				t.Errorf("counted %+v, want %+v", got, tt.want)
			}
		})
	}
}

// A backup has nobody's sessions until all the others are gone.
func TestBackupsAreNobodysFirstChoice(t *testing.T) {
	p, members := affinePool(t, 125, 1, 1, 1)
	members[2].SetTier(1)
	if got := shares(homes(t, p)); len(got) != 2 || got["chat-2"] != 0 {
		t.Errorf("%v", got)
	}
	if c := p.Stats().Affinity; c != (AffinityCounts{Hits: sessions}) {
		t.Errorf("%+v", c)
	}
	members[0].SetReady(false)
	members[1].SetReady(false)
	if got := shares(homes(t, p)); got["chat-2"] != sessions {
		t.Errorf("%v", got)
	}
}

func TestTheLastMemberServesEveryKey(t *testing.T) {
	p, members := affinePool(t, 125, 1)
	for range 50 {
		if m, err := p.Acquire(t.Context(), Want{Affinity: AffinityKey("k"), Avoid: members[0]}); m != members[0] || err != nil {
			t.Fatal(m, err)
		}
	}
	members[0].SetReady(false)
	p.SetOptions(PoolOptions{})
	if _, err := p.Acquire(t.Context(), Want{Affinity: AffinityKey("k")}); !errors.Is(err, ErrNoneReady) {
		t.Error(err)
	}
}

// Who waits keeps the order of the queue, whatever the key; the place that
// becomes free goes to whoever is first, wherever that one belongs.
func TestTheQueueGoesBeforeAffinity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := affinePool(t, 125, 1, 1)
		o := p.options
		o.MaxConcurrency = 1
		p.SetOptions(o)
		a := keyed(t, p, "k")
		b := keyed(t, p, "k")
		var order []string
		for _, key := range []string{"k", "", "k"} {
			go func() {
				m, err := p.Acquire(context.Background(), Want{Affinity: AffinityKey(key)})
				if err != nil {
					t.Error(err)
					return
				}
				order = append(order, fmt.Sprint(key, "@", m.Name()))
			}()
			synctest.Wait()
		}
		for _, m := range []*Member{b, a, b} {
			m.Release()
			synctest.Wait()
		}
		want := []string{"k@" + b.Name(), "@" + a.Name(), "k@" + b.Name()}
		if !slices.Equal(order, want) || p.Stats().Queued != 0 {
			t.Errorf("served %v, want %v", order, want)
		}
		// Both free at once, as after a pause: the key chooses again.
		for _, m := range members {
			m.Release()
		}
		if m := keyed(t, p, "k"); m != a {
			t.Errorf("%s, but %s is at home", m.Name(), a.Name())
		}
	})
}

// A pool of hundreds: its keys have eight choices each, and still reach all.
func TestAffinityInALargePool(t *testing.T) {
	p, members := affinePool(t, 125, slices.Repeat([]int{1}, 300)...)
	for _, m := range members[:150] {
		m.SetReady(false)
	}
	if n := len(shares(homes(t, p))); n != 150 {
		t.Errorf("%d of 150 are used", n)
	}
	for i := range 3000 {
		m := keyed(t, p, fmt.Sprint("session-", i%10))
		if got, most := m.InFlight(), (125*(i+1)+14999)/15000+1; got > most {
			t.Fatalf("%s has %d of %d", m.Name(), got, i+1)
		}
	}
}

// The sums must always be what a scan of all members would give.
func TestAffinitySumsEqualAScan(t *testing.T) {
	for seed := range int64(20) {
		rng := rand.New(rand.NewSource(seed))
		p, members := affinePool(t, 125, 1, 2, 3, 1, 5)
		o := p.options
		o.QueueLength, o.MaxConcurrency, o.Breaker = 0, 10, BreakerOptions{Failures: 2, Within: time.Hour, Open: time.Hour}
		p.SetOptions(o)
		held := map[*Member]int{}
		for step := range 2000 {
			m := members[rng.Intn(len(members))]
			switch rng.Intn(9) {
			case 0:
				m.SetReady(rng.Intn(3) > 0)
			case 1:
				m.Doubt(rng.Intn(2) == 0)
			case 2:
				m.SetWeight(1 + rng.Intn(5))
			case 3:
				p.SetElsewhere(map[string]int{m.Name(): rng.Intn(4)})
			case 4:
				m.Failed()
			case 5:
				m.Answered()
			case 6:
				if held[m] > 0 {
					m.Release()
					held[m]--
				}
			default:
				if m, err := p.Acquire(t.Context(), Want{Affinity: uint64(rng.Intn(5))}); err == nil {
					held[m]++
				}
			}
			var load, share uint64
			for _, m := range p.members {
				if m.ready && p.hasTurn(m) && !m.doubted && !m.alone.held && m.breaker.admits() {
					load, share = load+uint64(m.load()), share+m.share()
				}
			}
			if p.affinity.load != load || p.affinity.share != share {
				t.Fatalf("seed %d step %d: load %d, share %d; a scan says %d, %d", seed, step, p.affinity.load, p.affinity.share, load, share)
			}
		}
		p.Close()
	}
}

func TestChoosingByKeyAllocatesNothing(t *testing.T) {
	p, _ := affinePool(t, 125, 1, 1, 1, 1)
	key := AffinityKey("k")
	if n := testing.AllocsPerRun(100, func() {
		m, _ := p.Acquire(context.Background(), Want{Affinity: key})
		m.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAcquireByKey(b *testing.B) {
	for _, n := range []int{4, 32, 256} {
		for _, key := range []string{"", "k"} {
			b.Run(fmt.Sprintf("%d members, key %q", n, key), func(b *testing.B) {
				p := NewPool("p", PoolOptions{AffinityLoad: 125})
				for i := range n {
					p.Add(fmt.Sprint("m-", i), 1).SetReady(true)
				}
				want := Want{Affinity: AffinityKey(key)}
				b.ReportAllocs()
				for b.Loop() {
					m, _ := p.Acquire(context.Background(), want)
					m.Release()
				}
			})
		}
	}
}
