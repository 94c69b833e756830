package guard

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// asks is a request of an address with a body of that length.
func asks(address string, length int64, fields ...string) *exchange.Exchange {
	x := &exchange.Exchange{Length: length, Request: http1.Request{Method: "POST", Target: "/", Authority: "h"}}
	x.Record.ClientIP = address
	for i := 0; i+1 < len(fields); i += 2 {
		x.Request.Fields = append(x.Request.Fields, http1.Field{Name: fields[i], Value: fields[i+1]})
	}
	return x
}

// try lets one request in and, unless it is refused, keeps it.
func try(g *Guard, x *exchange.Exchange) (*Pass, *Refusal) {
	p := new(Pass)
	err := g.Enter(x, p)
	if err == nil {
		x.Record.Pool = "chat"
		err = g.Take(x, p)
	}
	refusal, _ := errors.AsType[*Refusal](err)
	return p, refusal
}

// one is a request from its beginning to its end.
func one(g *Guard, address string, length int64) *Refusal {
	x := asks(address, length)
	p, refusal := try(g, x)
	p.Leave(x)
	return refusal
}

// TestRequestsComeBackEvenly: the bucket is exact to the nanosecond.
func TestRequestsComeBackEvenly(t *testing.T) {
	for _, tc := range []struct {
		requests, burst int
		window          time.Duration
	}{{5, 0, time.Minute}, {10, 3, time.Second}, {7, 20, time.Minute}, {1, 1, time.Hour}, {1000, 0, time.Second}, {3, 0, 10 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			g := New(Options{Limits: []Limit{{Name: "l", Per: PerAddress, Window: tc.window, Requests: tc.requests, Burst: tc.burst}}}, nil)
			burst := tc.burst
			if burst == 0 {
				burst = tc.requests
			}
			for i := range burst {
				if r := one(g, "192.0.2.1", 0); r != nil {
					t.Fatalf("%+v: request %d of the burst: %v", tc, i, r)
				}
			}
			each := (tc.window + time.Duration(tc.requests) - 1) / time.Duration(tc.requests)
			rounds := 3
			if tc.window%time.Duration(tc.requests) != 0 {
				rounds = 1 // then what is left of a nanosecond counts
			}
			for range rounds {
				r := one(g, "192.0.2.1", 0)
				if r == nil || r.Code != "rate_limit_exceeded" || r.Status != 429 || r.RetryAfter != seconds(each) {
					t.Fatalf("%+v: one too many: %+v", tc, r)
				}
				time.Sleep(each - 1)
				if one(g, "192.0.2.1", 0) == nil {
					t.Fatalf("%+v: a nanosecond too early", tc)
				}
				time.Sleep(time.Nanosecond)
				if r := one(g, "192.0.2.1", 0); r != nil {
					t.Fatalf("%+v: after %v: %v", tc, each, r)
				}
			}
			if one(g, "192.0.2.2", 0) != nil {
				t.Error("another address pays for it")
			}
			time.Sleep(100 * time.Hour)
			for i := range burst + 1 {
				if refused := one(g, "192.0.2.1", 0) != nil; refused != (i == burst) {
					t.Errorf("%+v: a long wait saves more than the burst, or less: %d", tc, i)
				}
			}
		})
	}
}

func TestBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Limits: []Limit{{Name: "b", Per: All, Window: time.Minute, Bytes: 6000}}}, nil)
		steps := []struct {
			wait   time.Duration
			length int64
			ok     bool
		}{
			{0, 5000, true},
			{0, 1001, false},
			{0, 1000, true},
			{0, 1, false},
			{0, 0, true}, // no body, no charge
			{10 * time.Millisecond, 1, true},
			{0, 1, false},
			{time.Hour, 1 << 20, true}, // larger than all of it: of a full bucket
			{time.Minute, 1, false},
			{time.Duration(((1<<20)-6000)/100) * time.Second, 1, true},
		}
		for i, s := range steps {
			time.Sleep(s.wait)
			if r := one(g, "unix", s.length); (r == nil) != s.ok {
				t.Errorf("step %d: %v", i, r)
			}
		}
	})
}

// TestBytesOfUnknownLength are charged at the end.
func TestBytesOfUnknownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Limits: []Limit{{Name: "b", Per: All, Window: time.Minute, Bytes: 600}}}, nil)
		x := asks("192.0.2.1", -1)
		p, r := try(g, x)
		if r != nil {
			t.Fatal(r)
		}
		x.Record.BytesIn = 700
		p.Leave(x)
		if r := one(g, "192.0.2.1", -1); r == nil || r.Code != "prompt_limit_exceeded" || r.RetryAfter != 11 {
			t.Errorf("after 700 of 600: %+v", r)
		}
	})
}

// TestARefusalTakesNothing: of no limit, whichever refuses.
func TestARefusalTakesNothing(t *testing.T) {
	g := New(Options{Limits: []Limit{
		{Name: "a", Per: All, Window: time.Hour, Requests: 3, InFlight: 3, Bytes: 1000},
		{Name: "b", Per: PerAddress, Window: time.Hour, Requests: 1},
	}}, nil)
	if r := one(g, "192.0.2.1", 10); r != nil {
		t.Fatal(r)
	}
	for range 10 {
		if r := one(g, "192.0.2.1", 10); r == nil {
			t.Fatal("not refused")
		}
	}
	x := asks("192.0.2.2", 970) // 10 of 1000 are used
	p, r := try(g, x)
	if r != nil {
		t.Fatal(r)
	}
	if h := p.holds[0]; h.requests != 1 || h.bytes != 20 || h.inFlight != 2 {
		t.Errorf("left: %+v", h)
	}
	p.Leave(x)
}

func TestInFlight(t *testing.T) {
	g := New(Options{Limits: []Limit{{Name: "f", Per: PerAddress, Window: time.Minute, InFlight: 2}}}, nil)
	x := asks("192.0.2.1", 0)
	first, _ := try(g, x)
	_, _ = try(g, x)
	if _, r := try(g, x); r == nil || r.Code != "too_many_in_flight" || r.RetryAfter != 1 {
		t.Errorf("the third: %+v", r)
	}
	first.Leave(x)
	first.Leave(x) // no more than once
	if _, r := try(g, x); r != nil {
		t.Error(r)
	}
	if _, r := try(g, x); r == nil {
		t.Error("the place was given back twice")
	}
}

// TestExactUnderConcurrency: of a thousand at once exactly as many as may.
func TestExactUnderConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Limits: []Limit{{Name: "l", Per: PerAddress, Window: time.Hour, Requests: 100, Bytes: 100 * 7}}}, nil)
		var admitted, most, now atomic.Int64
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				x := asks("192.0.2.1", 7)
				p, r := try(g, x)
				if r == nil {
					admitted.Add(1)
					most.Store(max(most.Load(), now.Add(1)))
					now.Add(-1)
				}
				p.Leave(x)
			})
		}
		all.Wait()
		if n := admitted.Load(); n != 100 {
			t.Errorf("%d of 100 were admitted", n)
		}
	})
}

// TestInFlightUnderConcurrency never has more than it may, and ends with none.
func TestInFlightUnderConcurrency(t *testing.T) {
	g := New(Options{Limits: []Limit{{Name: "l", Per: PerAddress, Window: time.Second, InFlight: 5}}}, nil)
	var inside, over atomic.Int64
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			for range 200 {
				x := asks("2001:db8::1", 0)
				p, r := try(g, x)
				if r == nil {
					if inside.Add(1) > 5 {
						over.Add(1)
					}
					inside.Add(-1)
				}
				p.Leave(x)
			}
		})
	}
	all.Wait()
	if over.Load() > 0 {
		t.Errorf("%d times too many", over.Load())
	}
	for i := range g.limits[0].shards {
		for _, a := range g.limits[0].shards[i].accounts {
			if a.holders != 0 {
				t.Errorf("%d hold it at the end", a.holders)
			}
		}
	}
}

// TestAccountsAreBounded: millions of addresses do not fill the memory, and
// whoever has requests under way is not forgotten.
func TestAccountsAreBounded(t *testing.T) {
	g := New(Options{Limits: []Limit{{Name: "l", Per: PerAddress, Window: time.Hour, Requests: 1, InFlight: 1}}}, nil)
	l := g.limits[0]
	held := asks("192.0.2.1", 0)
	p, _ := try(g, held)
	l.most = 100 // of a shard
	for range 3 * shards * l.most {
		one(g, netip.AddrFrom4([4]byte{10, byte(rand.Uint32()), byte(rand.Uint32()), byte(rand.Uint32())}).String(), 0)
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].accounts)
	}
	if n > shards*l.most || n < shards*l.most/2 {
		t.Errorf("%d accounts", n)
	}
	if _, r := try(g, held); r == nil {
		t.Error("a request under way was forgotten")
	}
	p.Leave(held)
}

func TestWhomALimitConcerns(t *testing.T) {
	limit := func(per Scope, pool string) Limit {
		return Limit{Name: "l", Per: per, Pool: pool, Window: time.Minute, Requests: 1}
	}
	for _, tc := range []struct {
		limit         Limit
		first, second subject
		pools         [2]string
		together      bool
	}{
		{limit(PerAddress, ""), subject{address: subnet(netip.MustParseAddr("2001:db8::1"))}, subject{address: subnet(netip.MustParseAddr("2001:db8::ffff:1"))}, [2]string{"a", "b"}, true},
		{limit(PerAddress, ""), subject{address: subnet(netip.MustParseAddr("2001:db8:0:1::1"))}, subject{address: subnet(netip.MustParseAddr("2001:db8:0:2::1"))}, [2]string{"a", "a"}, false},
		{limit(PerAddress, ""), subject{address: subnet(netip.MustParseAddr("192.0.2.1"))}, subject{address: subnet(netip.MustParseAddr("::ffff:192.0.2.1"))}, [2]string{"a", "a"}, true},
		{limit(PerAddress, ""), subject{address: subnet(netip.MustParseAddr("192.0.2.1"))}, subject{address: subnet(netip.MustParseAddr("192.0.2.2"))}, [2]string{"a", "a"}, false},
		{limit(PerAddress, ""), subject{}, subject{}, [2]string{"a", "a"}, false},
		{limit(PerKey, ""), subject{key: "a"}, subject{key: "a"}, [2]string{"a", "b"}, true},
		{limit(PerKey, ""), subject{key: "a"}, subject{key: "b"}, [2]string{"a", "a"}, false},
		{limit(PerKey, "a"), subject{key: "a"}, subject{key: "a"}, [2]string{"a", "b"}, false},
		{Limit{Name: "l", Per: All, Route: "r-a", Window: time.Minute, Requests: 1}, subject{}, subject{}, [2]string{"a", "a"}, true},
		{Limit{Name: "l", Per: All, Route: "r-a", Window: time.Minute, Requests: 1}, subject{}, subject{}, [2]string{"a", "b"}, false},
		{limit(All, "a"), subject{key: "a"}, subject{key: "b"}, [2]string{"a", "a"}, true},
	} {
		g := New(Options{Limits: []Limit{tc.limit}}, nil)
		var refused [2]bool
		for i, who := range []subject{tc.first, tc.second} {
			p := &Pass{guard: g, who: who}
			x := asks("unix", 0)
			x.Record.Pool, x.Record.Route = tc.pools[i], "r-"+tc.pools[i]
			refused[i] = g.Take(x, p) != nil
		}
		if refused[0] || refused[1] != tc.together {
			t.Errorf("%+v: %v", tc, refused)
		}
	}
}

// TestLimitsGoOnCounting over a reload, where they stay as they are.
func TestLimitsGoOnCounting(t *testing.T) {
	a, b := Limit{Name: "a", Per: All, Window: time.Hour, Requests: 1}, Limit{Name: "b", Per: All, Window: time.Hour, Requests: 5}
	before := New(Options{Limits: []Limit{a, b}}, nil)
	one(before, "192.0.2.1", 0)
	same := New(Options{Limits: []Limit{b, a}}, before)
	if one(same, "192.0.2.1", 0) == nil {
		t.Error("forgotten")
	}
	a.Requests = 2
	changed := New(Options{Limits: []Limit{a}}, same)
	if r := one(changed, "192.0.2.1", 0); r != nil {
		t.Error(r)
	}
	if New(Options{}, changed) != nil {
		t.Error("a guard of nothing")
	}
}

func TestWhatClientsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := New(Options{Limits: []Limit{
			{Name: "key", Per: All, Window: time.Minute, Requests: 60, Burst: 10, InFlight: 4, Bytes: 1000},
			{Name: "addr", Per: PerAddress, Window: time.Second, Requests: 100},
		}}, nil)
		x := asks("192.0.2.1", 100)
		p, _ := try(g, x)
		for range 2 { // as for a head of its own
			got := ""
			for _, f := range p.AppendFields(nil) {
				got += fmt.Sprintf("%s: %s\n", f.Name, f.Value)
			}
			const want = `RateLimit-Policy: "key";q=60;w=60, "key-in-flight";q=4;qu="concurrent-requests", "key-bytes";q=1000;qu="content-bytes";w=60, "addr";q=100;w=1
RateLimit: "key";r=9;t=1, "key-in-flight";r=3, "key-bytes";r=900;t=6, "addr";r=99;t=1
RateLimit-Limit: 10
RateLimit-Remaining: 9
RateLimit-Reset: 1
`
			if got != want {
				t.Errorf("told\n%s\nnot\n%s", got, want)
			}
		}
		p.Leave(x)
	})
}

// TestNothingIsAllocated where clients are known, the fields included.
func TestNothingIsAllocated(t *testing.T) {
	g := New(Options{
		Deny: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")},
		CORS: CORS{Origins: []string{"https://a.example"}, Methods: []string{"GET"}, Headers: []string{"*"}},
		Limits: []Limit{
			{Name: "a", Per: PerAddress, Window: time.Second, Requests: 1 << 30, InFlight: 5, Bytes: 1 << 40},
			{Name: "b", Per: All, Window: time.Second, Requests: 1 << 30},
		},
	}, nil)
	x, p, fields := asks("192.0.2.1", 10, "Origin", "https://a.example"), new(Pass), make(http1.Fields, 0, 16)
	if n := testing.AllocsPerRun(1000, func() {
		if g.Enter(x, p) != nil || g.Take(x, p) != nil {
			t.Fatal("refused")
		}
		p.AppendFields(fields)
		p.Leave(x)
	}); n > 0.1 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkGuard(b *testing.B) {
	g := New(Options{Limits: []Limit{{Name: "a", Per: PerAddress, Window: time.Second, Requests: 1 << 30, InFlight: 1 << 20}}}, nil)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x, p, fields := asks("192.0.2.1", 10), new(Pass), make(http1.Fields, 0, 16)
		for pb.Next() {
			_ = g.Enter(x, p)
			_ = g.Take(x, p)
			p.AppendFields(fields)
			p.Leave(x)
		}
	})
}
