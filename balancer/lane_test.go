package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// herd keeps all until the last has come, so that they fail together.
type herd struct {
	mu   sync.Mutex
	here int
	need int
	full chan struct{}
}

// arrive blocks until all have arrived.
func (h *herd) arrive() {
	h.mu.Lock()
	h.here++
	if h.here == h.need {
		close(h.full)
	}
	h.mu.Unlock()
	<-h.full
}

// funcPool gives leases as acquire says; any number at once.
type funcPool struct {
	acquire func(ctx context.Context, want *Want) (Lease, error)
}

func (p funcPool) Name() string { return "p" }
func (p funcPool) Acquire(ctx context.Context, want *Want) (Lease, error) {
	return p.acquire(ctx, want)
}

// funcLease behaves as its function says, and may be used by many.
type funcLease func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error

func (f funcLease) Name() string { return "m" }
func (f funcLease) Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	return f(ctx, x, sink)
}
func (funcLease) Refused()  {}
func (funcLease) Failed()   {}
func (funcLease) Answered() {}
func (funcLease) Release()  {}

// Many requests fail at once: only as many are tried again as the budget has.
func TestRetryBudget(t *testing.T) {
	for _, tc := range []struct {
		requests int
		change   func(r *Rules)
		err      error
		retried  int
	}{
		{2, func(*Rules) {}, syscall.ETIMEDOUT, 2},
		{10, func(*Rules) {}, syscall.ETIMEDOUT, 3},   // at least 3
		{100, func(*Rules) {}, syscall.ETIMEDOUT, 20}, // a fifth
		{100, func(r *Rules) { r.RetryPercent = 50 }, syscall.ETIMEDOUT, 50},
		{100, func(r *Rules) { r.RetryPercent, r.RetryFloor = 0, 0 }, syscall.ETIMEDOUT, 0},
		{100, func(r *Rules) { r.Attempts = 1 }, syscall.ETIMEDOUT, 0},
		// An engine has just died, and the pool did not know it yet.
		{10, func(*Rules) {}, syscall.ECONNREFUSED, 10},
		{100, func(r *Rules) { r.Attempts = 1 }, syscall.ECONNREFUSED, 0},
	} {
		rules := DefaultRules()
		tc.change(&rules)
		t.Run(fmt.Sprintf("%d by %d%%+%d, %v", tc.requests, rules.RetryPercent, rules.RetryFloor, tc.err), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := &herd{need: tc.requests, full: make(chan struct{})}
				first := funcLease(func(context.Context, *exchange.Exchange, exchange.Sink) error {
					all.arrive()
					return &upstream.Failure{Op: upstream.OpDial, Replayable: true, Err: tc.err}
				})
				second := funcLease(func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					time.Sleep(time.Second) // so that all retries are in flight together
					return answers(ctx, x, sink)
				})
				b := newBalancer(t, Options{
					Pools: []Pool{funcPool{func(_ context.Context, want *Want) (Lease, error) {
						if want.Failed != nil {
							return second, nil
						}
						return first, nil
					}}},
					Rules: map[string]Rules{"p": rules},
				})
				exchanges := make([]*exchange.Exchange, tc.requests)
				var done sync.WaitGroup
				for i := range exchanges {
					exchanges[i] = newExchange(&fakeSink{})
					done.Go(func() { b.Serve(t.Context(), exchanges[i]) })
				}
				done.Wait()
				retried := 0
				for _, x := range exchanges {
					r := x.Record
					ok := r.Outcome == exchange.OutcomeOK
					if ok {
						retried++
					}
					if ok != (len(r.Retries) == 1 && r.Retries[0] == "connect_failed" && r.Attempts == 2) {
						t.Errorf("record %+v", r)
					}
					if exhausted := !ok && rules.Attempts > 1; r.BudgetExhausted != exhausted {
						t.Errorf("budget exhausted: %v", r.BudgetExhausted)
					}
				}
				if retried != tc.retried {
					t.Errorf("%d were tried again, want %d", retried, tc.retried)
				}
				if l := b.table.Load().routes[0].to.one; l.inFlight.Load() != 0 || l.retrying.Load() != 0 {
					t.Errorf("%d in flight, %d retries are not given back", l.inFlight.Load(), l.retrying.Load())
				}
			})
		})
	}
}

// Who is blamed: the breaker counts these, and nothing that a client did.
func TestTheMemberHearsHowItWent(t *testing.T) {
	status := func(code int) func(context.Context, *exchange.Exchange, exchange.Sink) error {
		return func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
			_ = sink.Head(&http1.Response{Status: code}, 0)
			return sink.End(nil)
		}
	}
	for _, tc := range []struct {
		name                      string
		do                        func(context.Context, *exchange.Exchange, exchange.Sink) error
		failed, refused, answered int
	}{
		{"200", status(200), 0, 0, 1},
		{"400", status(400), 0, 0, 1},
		{"429", status(429), 0, 0, 1},
		{"500 neither heals nor hurts", status(500), 0, 0, 0},
		{"dial times out", fails(upstream.Failure{Op: upstream.OpDial, Err: syscall.ETIMEDOUT}), 1, 0, 0},
		{"dial is refused", fails(upstream.Failure{Op: upstream.OpDial, Err: syscall.ECONNREFUSED}), 0, 1, 0},
		{"no answer in time", fails(upstream.Failure{Op: upstream.OpTimeout, Sent: true, Err: errors.New("x")}), 1, 0, 0},
		{"answer breaks off", fails(upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: io.ErrUnexpectedEOF}), 1, 0, 0},
		{"answer is no HTTP", fails(upstream.Failure{Op: upstream.OpMalformed, Sent: true, Err: errors.New("x")}), 1, 0, 0},
		{"stale connection", fails(upstream.Failure{Op: upstream.OpStale, Sent: true, Err: io.EOF}), 0, 0, 0},
		{"client hangs up", fails(upstream.Failure{Op: upstream.OpCanceled, Sent: true, Err: exchange.ErrClientGone}), 0, 0, 0},
		{"client sends a bad chunk", fails(upstream.Failure{Op: upstream.OpClientBody, Sent: true, Err: errors.New("x")}), 0, 0, 0},
		{"client does not read", fails(upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: errors.New("x")}), 0, 0, 0},
		{"its deadline is over", fails(upstream.Failure{Op: upstream.OpCanceled, Sent: true, Err: exchange.ErrDeadline}), 0, 0, 0},
		{"we shut down", fails(upstream.Failure{Op: upstream.OpCanceled, Sent: true, Begun: true, Err: exchange.ErrShutdown}), 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &fakeMember{name: "m", do: tc.do}
			newBalancer(t, Options{Pools: []Pool{&fakePool{members: []*fakeMember{m}}}}).Serve(t.Context(), newExchange(&fakeSink{}))
			if m.failed != tc.failed || m.refused != tc.refused || m.answered != tc.answered || m.released != 1 {
				t.Errorf("failed %d, refused %d, answered %d, released %d", m.failed, m.refused, m.answered, m.released)
			}
		})
	}
}

func TestPriorityHeader(t *testing.T) {
	for _, tc := range []struct {
		value string
		want  int
	}{{"", 0}, {"3", 3}, {" -2 ", -2}, {"+4", 4}, {"1000", 9}, {"-1000", -9}, {"high", 0}, {"99999999999999999999", 0}} {
		pool := &fakePool{name: "p", members: []*fakeMember{{name: "m", do: answers}}}
		x := newExchange(&fakeSink{})
		x.Request.Fields = http1.Fields{{Name: "x-priority", Value: tc.value}}
		rules := DefaultRules()
		rules.PriorityHeader = "X-Priority"
		newBalancer(t, Options{Pools: []Pool{pool}, Rules: map[string]Rules{"p": rules}}).Serve(t.Context(), x)
		if got := pool.wants[0].Priority; got != tc.want {
			t.Errorf("%q: priority %d, want %d", tc.value, got, tc.want)
		}
	}
}

func TestDeadlines(t *testing.T) {
	const service = 10 * time.Second
	tests := []struct {
		name   string
		fields http1.Fields
		wait   time.Duration // in the queue; 0: none
		begin  time.Duration // after which the answer begins
		status int
		broken bool
		after  time.Duration
		told   []string // what the engine hears is left, if anything
	}{
		{"none", nil, 0, service, 200, false, service, nil},
		{"enough", http1.Fields{{Name: "X-Request-Timeout", Value: "30"}}, 0, service, 200, false, service, []string{"30.000"}},
		{"enough after a wait", http1.Fields{{Name: "x-request-timeout", Value: "30.5"}}, 8 * time.Second, service, 200, false, 18 * time.Second, []string{"22.500"}},
		{"the earliest counts", http1.Fields{{Name: "x-request-timeout", Value: "60"}, {Name: "grpc-timeout", Value: "30S"}}, 8 * time.Second, service, 200, false, 18 * time.Second, []string{"22.000", "22000m"}},
		{"too near at once", http1.Fields{{Name: "X-Request-Timeout", Value: "4.9"}}, 0, service, 504, false, 0, nil},
		{"over", http1.Fields{{Name: "X-Request-Timeout", Value: "0"}}, 0, service, 504, false, 0, nil},
		{"too near while it waits", http1.Fields{{Name: "X-Request-Timeout", Value: "12"}}, 8 * time.Second, service, 504, false, 7 * time.Second, nil},
		{"over before the answer", http1.Fields{{Name: "X-Request-Timeout", Value: "6"}}, 0, service, 504, false, 6 * time.Second, []string{"6.000"}},
		{"over within the answer", http1.Fields{{Name: "Grpc-Timeout", Value: "6S"}}, 0, time.Second, 200, true, 6 * time.Second, []string{"6000m"}},
		{"no number", http1.Fields{{Name: "X-Request-Timeout", Value: "soon"}}, 0, service, 400, false, 0, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []string
				engine := funcLease(func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					for _, f := range x.Request.Fields {
						if isName(f.Name, timeoutField) || isName(f.Name, grpcTimeoutField) {
							told = append(told, f.Value)
						}
					}
					return slowAnswer(ctx, sink, tt.begin, service)
				})
				pool := funcPool{func(ctx context.Context, _ *Want) (Lease, error) {
					select {
					case <-time.After(tt.wait):
						return engine, nil
					case <-ctx.Done():
						return nil, context.Cause(ctx)
					}
				}}
				sink := &fakeSink{}
				x := newExchange(sink)
				x.Request.Fields, x.Record.Start = tt.fields.Clone(), time.Now()
				newBalancer(t, Options{Pools: []Pool{pool}}).Serve(t.Context(), x)
				if x.Record.Status != tt.status || (sink.broken != nil) != tt.broken || time.Since(x.Record.Start) != tt.after {
					t.Errorf("status %d, broken %v, after %v", x.Record.Status, sink.broken, time.Since(x.Record.Start))
				}
				if late := tt.status == http.StatusGatewayTimeout || tt.broken; late != (x.Record.Outcome == exchange.OutcomeDeadline) {
					t.Errorf("outcome %s", x.Record.Outcome)
				}
				if fmt.Sprint(told) != fmt.Sprint(tt.told) {
					t.Errorf("the engine was told %v, want %v", told, tt.told)
				}
			})
		})
	}
}

// slowAnswer begins and ends after these times, unless ctx ends before.
func slowAnswer(ctx context.Context, sink exchange.Sink, begin, end time.Duration) error {
	f := &upstream.Failure{Op: upstream.OpCanceled, Sent: true}
	for _, d := range []time.Duration{begin, end - begin} {
		select {
		case <-time.After(d):
			if !f.Begun {
				f.Begun = true
				_ = sink.Head(&http1.Response{Status: 200}, -1)
			}
		case <-ctx.Done():
			f.Err = context.Cause(ctx)
			return f
		}
	}
	return sink.End(nil)
}

func TestParseTimeouts(t *testing.T) {
	const bad = -1
	for _, tc := range []struct {
		value         string
		seconds, grpc time.Duration
	}{
		{"", bad, bad},
		{"5", 5 * time.Second, bad},
		{" 1.5 ", 1500 * time.Millisecond, bad},
		{"1e2", 100 * time.Second, bad},
		{"-1", bad, bad},
		{"NaN", bad, bad},
		{"Inf", longestTimeout, bad},
		{"1e300", longestTimeout, bad},
		{"0x10", bad, bad},
		{"1_0", bad, bad},
		{"5S", bad, 5 * time.Second},
		{"100m", bad, 100 * time.Millisecond},
		{"99999999u", bad, 99999999 * time.Microsecond},
		{"99999999H", bad, longestTimeout},
		{"100000000n", bad, bad},
		{"1.5S", bad, bad},
		{"-5S", bad, bad},
		{"S", bad, bad},
		{"5s", bad, bad},
	} {
		for kind, parse := range map[string]func(string) (time.Duration, bool){"seconds": parseSeconds, "grpc": parseGRPC} {
			want := tc.seconds
			if kind == "grpc" {
				want = tc.grpc
			}
			got, ok := parse(tc.value)
			if ok != (want != bad) || ok && got != want {
				t.Errorf("%s %q: got %v %v, want %v", kind, tc.value, got, ok, want)
			}
		}
	}
}

// What is told is never more than there is, and always readable.
func FuzzTimeouts(f *testing.F) {
	f.Add("5S", "1.5")
	f.Add("99999999H", "1e9")
	f.Fuzz(func(t *testing.T, grpc, seconds string) {
		if d, ok := parseGRPC(grpc); ok {
			again, ok := parseGRPC(formatGRPC(d))
			if !ok || again > d || d < 0 || d > longestTimeout {
				t.Errorf("%q: %v, told as %q", grpc, d, formatGRPC(d))
			}
		}
		if d, ok := parseSeconds(seconds); ok && (d < 0 || d > longestTimeout) {
			t.Errorf("%q: %v", seconds, d)
		}
	})
}

// An engine that ends a request as its deadline comes, as gRPC's servers do, has
// the client told of the deadline, and is not blamed; one that ends it sooner is.
func TestWorkerThatKeepsTheDeadline(t *testing.T) {
	for _, tc := range []struct {
		before time.Duration
		want   exchange.Outcome
	}{{10 * time.Millisecond, exchange.OutcomeDeadline}, {time.Second, exchange.OutcomeUpstreamError}} {
		synctest.Test(t, func(t *testing.T) {
			m := &fakeMember{do: func(ctx context.Context, _ *exchange.Exchange, _ exchange.Sink) error {
				by, _ := ctx.Deadline()
				time.Sleep(time.Until(by) - tc.before)
				return &upstream.Failure{Op: upstream.OpRead, Sent: true, Err: io.ErrUnexpectedEOF}
			}}
			b := newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{m}}}})
			sink := &fakeSink{}
			x := newExchange(sink)
			x.Record.Start = time.Now()
			x.Request.Fields = append(x.Request.Fields, http1.Field{Name: "X-Request-Timeout", Value: "8"})
			b.Serve(t.Context(), x)
			if blamed := m.failed > 0; x.Record.Outcome != tc.want || blamed != (tc.want == exchange.OutcomeUpstreamError) {
				t.Errorf("%s before: %s, blamed %v", tc.before, x.Record.Outcome, blamed)
			}
		})
	}
}

// Members that refuse the connection do not count as tried, for as long as a request
// may wait; and where nothing is to be tried again nothing is.
func TestRefusalsDoNotCount(t *testing.T) {
	refuses := func(context.Context, *exchange.Exchange, exchange.Sink) error {
		time.Sleep(25 * time.Second)
		return &upstream.Failure{Op: upstream.OpDial, Replayable: true, Err: syscall.ECONNREFUSED}
	}
	for _, tc := range []struct{ attempts, want int }{
		{1, 1},
		{2, 5}, // at 25, 50 and 75 s for nothing: the queue's minute is over after that
		{3, 6},
	} {
		synctest.Test(t, func(t *testing.T) {
			rules := DefaultRules()
			rules.Attempts = tc.attempts
			p := &fakePool{name: "p", err: upstream.ErrQueueTimeout}
			for range 20 {
				p.members = append(p.members, &fakeMember{name: "m", do: refuses})
			}
			x := newExchange(&fakeSink{})
			newBalancer(t, Options{Pools: []Pool{p}, Rules: map[string]Rules{"p": rules}}).Serve(t.Context(), x)
			if x.Record.Attempts != tc.want || x.Record.Status != 502 {
				t.Errorf("%d attempts: tried %d times, want %d; %d", tc.attempts, x.Record.Attempts, tc.want, x.Record.Status)
			}
		})
	}
}

// What a request was not tried again for is told to its client: which bound it was.
func TestBoundsAreNamed(t *testing.T) {
	lost := func() verdict {
		v := classify(&upstream.Failure{Op: upstream.OpDial, Replayable: true, Err: syscall.ETIMEDOUT})
		v.died = true
		return v
	}
	for err, want := range map[error]string{
		upstream.ErrQueueTimeout: "queue.timeout", upstream.ErrQueueFull: "queue.length", upstream.ErrNoneReady: "no other became ready",
	} {
		j := journey{last: lost()}
		if v := j.stranded(err); v.status != 502 || !strings.Contains(v.message, want) {
			t.Errorf("%v: %d %s", err, v.status, v.message)
		}
	}
	rules := DefaultRules()
	rules.RetryPercent, rules.RetryFloor = 0, 0
	v := lost()
	v.died = false
	j := journey{l: newLane(&fakePool{name: "p"}, rules), x: newExchange(&fakeSink{})}
	if j.mayRetry(&v) || !strings.Contains(v.message, "retry.budget_percent") {
		t.Error(v.message)
	}
}
