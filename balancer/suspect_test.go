package balancer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// watched is a balancer over a pool of real members, whose engines are functions.
type watched struct {
	*world

	engine func(worker string, body []byte, sink exchange.Sink) error
}

func (p *watched) Name() string { return "p" }

func (p *watched) Acquire(ctx context.Context, want *Want) (Lease, error) {
	if f, ok := want.Failed.(watchedLease); ok {
		want.Failed = f.Lease
	}
	l, err := Over(p.pool).Acquire(ctx, want)
	if err != nil {
		return nil, err
	}
	return watchedLease{l, p}, nil
}

type watchedLease struct {
	Lease

	p *watched
}

func (l watchedLease) Life() *upstream.Life { return lifeOf(l.Lease) }

func (l watchedLease) Do(_ context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	var body []byte
	if x.Body != nil {
		var err error
		if body, err = io.ReadAll(x.Body); err != nil {
			return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
		}
	}
	return l.p.engine(l.Name(), body, sink)
}

// die is an engine's end with the request on it, of which the news comes later.
func (p *watched) die(worker string, begun bool) error {
	e := p.engines[worker]
	e.alive = false
	p.running.Go(func() {
		time.Sleep(10 * time.Millisecond)
		e.member.SetReady(false)
		e.member.Died(time.Now())
	})
	return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: begun, Err: io.ErrUnexpectedEOF}
}

func newWatched(t *testing.T, limit int64, change func(r *Rules)) *watched {
	t.Helper()
	p := &watched{world: newWorld(t, 1, 3, nil)}
	rules := DefaultRules()
	rules.OnDeath = OnDeathIsolate
	if change != nil {
		change(&rules)
	}
	p.b = newBalancer(t, Options{
		Pools: []Pool{p}, Rules: map[string]Rules{"p": rules}, Court: p.court, EvidenceLimit: limit, EvidenceMemory: 1 << 20,
	})
	return p
}

// send sends a body of a declared or of unknown length.
func (p *watched) send(body io.Reader, length int64) (*exchange.Exchange, *fakeSink) {
	sink := &fakeSink{}
	x := newExchange(sink)
	x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1?key=secret", body, length
	p.b.Serve(context.Background(), x)
	if x.Body != body && body != nil {
		panic("the body is not given back as it was")
	}
	return x, sink
}

func TestSuspects(t *testing.T) {
	const killer = `{"prompt":"kill"}`
	good := func(sink exchange.Sink) error {
		_ = sink.Head(&http1.Response{Status: 200}, 0)
		return sink.End(nil)
	}
	for _, tc := range []struct {
		name    string
		change  func(r *Rules)
		limit   int64
		body    func() io.Reader
		length  int64
		begun   bool
		deaths  int // that it is for
		status  int
		retries int
		then    int // status of its repetition, 0: whatever
	}{
		{name: "one death, then an answer", deaths: 1, status: 200, retries: 1, then: 200},
		{name: "two deaths", deaths: 2, status: 502, retries: 1, then: 422},
		{name: "in chunks", body: func() io.Reader { return iotest.OneByteReader(strings.NewReader(killer)) }, length: -1, deaths: 2, status: 502, retries: 1, then: 422},
		{name: "policy fail", change: func(r *Rules) { r.OnDeath = OnDeathFail }, deaths: 1, status: 502, then: 200},
		{name: "no retries at all", change: func(r *Rules) { r.Attempts = 1 }, deaths: 1, status: 502, then: 200},
		{name: "no budget needed", change: func(r *Rules) { r.RetryFloor, r.RetryPercent = 0, 0 }, deaths: 1, status: 200, retries: 1},
		{name: "begun", begun: true, deaths: 1, status: 200, then: 200},
		{name: "too large", limit: 4, deaths: 1, status: 502, then: 200},
		{name: "too large, in chunks", limit: 4, length: -1, deaths: 1, status: 502, then: 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if tc.limit == 0 {
					tc.limit = 1 << 20
				}
				if tc.body == nil {
					tc.body = func() io.Reader { return strings.NewReader(killer) }
				}
				if tc.length == 0 {
					tc.length = int64(len(killer))
				}
				p := newWatched(t, tc.limit, tc.change)
				defer p.end()
				var workers []string
				p.engine = func(worker string, body []byte, sink exchange.Sink) error {
					workers = append(workers, worker)
					if string(body) != killer {
						t.Errorf("the engine got %q", body)
					}
					if len(workers) > tc.deaths {
						return good(sink)
					}
					if tc.begun {
						_ = sink.Head(&http1.Response{Status: 200}, -1)
					}
					return p.die(worker, tc.begun)
				}
				x, sink := p.send(tc.body(), tc.length)
				if x.Record.Status != tc.status || len(x.Record.Retries) != tc.retries || (sink.broken != nil) != tc.begun {
					t.Errorf("status %d, retries %v, broken %v", x.Record.Status, x.Record.Retries, sink.broken)
				}
				if tc.retries > 0 && (x.Record.Retries[0] != "worker_died" || workers[0] == workers[1]) {
					t.Errorf("retried for %v on %v", x.Record.Retries, workers)
				}
				again, refused := p.send(tc.body(), tc.length)
				if tc.then != 0 && again.Record.Status != tc.then {
					t.Errorf("its repetition: %d %s", again.Record.Status, refused.body)
				}
				if tc.then == 422 && (again.Record.Outcome != exchange.OutcomePoison || !strings.Contains(string(refused.body), `"type":"poison_request"`) || strings.Contains(string(refused.body), "secret")) {
					t.Errorf("refused as %s: %s", again.Record.Outcome, refused.body)
				}
				if p.b.wardOf("p").inFlight != nil {
					t.Error("somebody is still watched over")
				}
			})
		})
	}
}

// TestConnectionThatBreaksIsNoDeath: the client hears of it when no news of a
// death has come, and nobody is suspected.
func TestConnectionThatBreaksIsNoDeath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		calls := 0
		p.engine = func(string, []byte, exchange.Sink) error {
			calls++
			return &upstream.Failure{Op: upstream.OpRead, Sent: true, Replayable: true, Err: io.ErrUnexpectedEOF}
		}
		began := time.Now()
		if x, _ := p.send(strings.NewReader("{}"), 2); x.Record.Status != http.StatusBadGateway || calls != 1 || time.Since(began) != verdictWait || p.court.Alert() {
			t.Errorf("%d after %s and %d attempts, alert %v", x.Record.Status, time.Since(began), calls, p.court.Alert())
		}
	})
}

// TestAnswerThatBreaksIsNotHeldForLong: who reads an answer learns soon that
// there will be no more of it, whether the engine has died or not.
func TestAnswerThatBreaksIsNotHeldForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		p.engine = func(_ string, _ []byte, sink exchange.Sink) error {
			_ = sink.Head(&http1.Response{Status: 200}, 10)
			return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: io.ErrUnexpectedEOF}
		}
		began := time.Now()
		x, _ := p.send(strings.NewReader("{}"), 2)
		if x.Record.Outcome != exchange.OutcomeUpstreamBroke || time.Since(began) > begunWait {
			t.Errorf("%s after %s", x.Record.Outcome, time.Since(began))
		}
	})
}

// TestNoSuspectFollowsAnotherOntoADeadWorker: between the break of a connection
// and the news of a death the worker has room, and must not be given the next
// suspect: both would have been on two engines that died, and nobody convicted.
func TestNoSuspectFollowsAnotherOntoADeadWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		member := func(name string) *upstream.Member { return p.engines[name].member }
		member("p-1").SetReady(false)
		member("p-2").SetReady(false) // both requests are on p-0
		var mu sync.Mutex
		broken := map[string]bool{}
		p.engine = func(worker string, body []byte, sink exchange.Sink) error {
			mu.Lock()
			if broken[worker] {
				t.Errorf("%s was given %s after its engine had broken off", worker, body)
			}
			mu.Unlock()
			time.Sleep(20 * time.Millisecond)
			if strings.Contains(string(body), "innocent") && worker != "p-0" {
				_ = sink.Head(&http1.Response{Status: 200}, 0)
				return sink.End(nil)
			}
			mu.Lock()
			first := !broken[worker]
			broken[worker] = true
			mu.Unlock()
			if first {
				p.running.Go(func() {
					time.Sleep(50 * time.Millisecond) // until the keeper's word
					member(worker).SetReady(false)
					member(worker).Died(time.Now())
					member("p-1").SetReady(worker != "p-1")
					member("p-2").SetReady(worker == "p-1")
				})
			}
			return &upstream.Failure{Op: upstream.OpRead, Sent: true, Replayable: true, Err: io.ErrUnexpectedEOF}
		}
		var both sync.WaitGroup
		for _, body := range []string{`{"prompt":"kill"}`, `{"prompt":"innocent"}`} {
			both.Go(func() { p.send(strings.NewReader(body), int64(len(body))) })
			time.Sleep(time.Millisecond)
		}
		both.Wait()
		if x, _ := p.send(strings.NewReader(`{"prompt":"kill"}`), 17); x.Record.Status != http.StatusUnprocessableEntity {
			t.Errorf("the killer of two is answered %d", x.Record.Status)
		}
	})
}

// TestSuspectsThatWaitAreBounded: a request that has killed an engine is sent
// again and again while it is tried a second time, and hangs. Those that waited for
// their turn were as many as liked.
func TestSuspectsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const length, clients = 5, 50
		p := newWatched(t, 1<<20, func(r *Rules) { r.QueueLength, r.OnDeath = length, OnDeathFail })
		defer p.end()
		first := true
		p.engine = func(worker string, _ []byte, sink exchange.Sink) error {
			if first {
				first = false
				return p.die(worker, false)
			}
			time.Sleep(time.Hour)
			_ = sink.Head(&http1.Response{Status: 500}, 0)
			return sink.End(nil)
		}
		ask := func() (int, time.Duration, string) {
			began := time.Now()
			x, sink := p.send(strings.NewReader("{}"), 2)
			return x.Record.Status, time.Since(began), string(sink.body)
		}
		if status, _, _ := ask(); status != http.StatusBadGateway {
			t.Fatalf("the first is answered %d", status)
		}
		time.Sleep(time.Second) // the pool has settled: the next is tried at once
		var mu sync.Mutex
		atOnce := 0
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				status, took, text := ask()
				mu.Lock()
				defer mu.Unlock()
				if status == http.StatusTooManyRequests && took == 0 && strings.Contains(text, "queue_full") {
					atOnce++
				}
			})
			synctest.Wait()
		}
		all.Wait()
		if atOnce != clients-1-length {
			t.Errorf("%d of %d were turned away at once, want all but %d", atOnce, clients, 1+length)
		}
		if n := p.b.table.Load().routes[0].to.next().suspects.Load(); n != 0 {
			t.Errorf("%d are still counted", n)
		}
	})
}

// TestLastGasp: an API server answers 500 and ends a second later.
func TestLastGasp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		p.engine = func(worker string, _ []byte, sink exchange.Sink) error {
			p.running.Go(func() {
				time.Sleep(time.Second)
				p.engines[worker].member.SetReady(false)
				p.engines[worker].member.Died(time.Now())
			})
			_ = sink.Head(&http1.Response{Status: 500}, 0)
			return sink.End(nil)
		}
		for range 2 {
			p.send(strings.NewReader(`{"tools":[]}`), 12)
			time.Sleep(10 * time.Second)
		}
		if n := len(p.court.List()); n != 2 {
			t.Errorf("%d convictions, want the request and its schema", n)
		}
	})
}

// TestClientThatBreaksOffWhileItIsJudged is told what it did.
func TestClientThatBreaksOffWhileItIsJudged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newWatched(t, 1<<20, nil)
		defer p.end()
		if _, err := p.court.Add(quarantine.KindRequest, "p", "POST", "/", quarantine.Of("p", "POST", "/", nil), 0); err != nil {
			t.Fatal(err)
		}
		p.engine = func(string, []byte, exchange.Sink) error { return errors.New("nobody shall be asked") }
		x, _ := p.send(io.MultiReader(strings.NewReader("ab"), iotest.ErrReader(exchange.ErrClientGone)), 10)
		if x.Record.Outcome != exchange.OutcomeClientGone || x.Record.Attempts != 0 {
			t.Errorf("record %+v", x.Record)
		}
	})
}

// TestEvidenceHasABudget: what is held never exceeds it by more than one piece.
func TestEvidenceHasABudget(t *testing.T) {
	p := &evidencePools{limit: 1 << 20}
	p.room.Store(100 << 10)
	w := newWard("p", quarantine.New(quarantine.Options{}), p, nil)
	var held []*evidence
	for range 10 {
		x := &exchange.Exchange{Body: bytes.NewReader(make([]byte, 40<<10)), Length: 40 << 10}
		e := w.begin(x)
		held = append(held, e)
		if _, err := io.ReadAll(x.Body); err != nil {
			t.Fatal(err)
		}
	}
	whole := 0
	for _, e := range held {
		if e.isWhole() {
			whole++
		}
	}
	if whole == 0 || whole > 3 {
		t.Errorf("%d of 10 times 40 KiB were held in 100 KiB", whole)
	}
	for _, e := range held {
		w.end(e, false)
	}
	if room := p.room.Load(); room != 100<<10 {
		t.Errorf("%d bytes are left of the budget after all have ended", room)
	}
}
