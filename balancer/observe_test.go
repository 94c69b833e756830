package balancer

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stoker/exchange"
	"stoker/internal/http1"
)

func ended() *exchange.Exchange {
	start := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return &exchange.Exchange{
		Request: http1.Request{Method: "POST", Target: "/v1/chat/completions?api_key=secret"},
		Record: exchange.Record{
			ID: "id-1", ClientIP: "192.0.2.7", Start: start, FirstByte: start.Add(21 * time.Millisecond), End: start.Add(1500 * time.Millisecond),
			Route: "main", Pool: "chat", Worker: "chat-0", Attempts: 1, Status: 200, BytesOut: 512, Outcome: exchange.OutcomeOK,
		},
	}
}

func TestAccessLog(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*exchange.Exchange)
		text   string
		json   string
	}{
		{
			"whole", func(*exchange.Exchange) {},
			"time=2026-01-02T15:04:06.500Z id=id-1 client=192.0.2.7 method=POST path=/v1/chat/completions status=200 bytes=512 route=main pool=chat worker=chat-0 attempts=1 ttfb=0.021000 duration=1.500000 outcome=ok error=-\n",
			`{"time":"2026-01-02T15:04:06.500Z","id":"id-1","client":"192.0.2.7","method":"POST","path":"/v1/chat/completions","status":200,"bytes":512,"route":"main","pool":"chat","worker":"chat-0","attempts":1,"ttfb":0.021000,"duration":1.500000,"outcome":"ok","error":null}` + "\n",
		},
		{
			"nothing but an error", func(x *exchange.Exchange) {
				start := x.Record.Start
				x.Record = exchange.Record{ID: "i", Start: start, End: start, Status: 499, Outcome: exchange.OutcomeClientGone, Err: errors.New(`went "away"`)}
			},
			"time=2026-01-02T15:04:05.000Z id=i client=- method=POST path=/v1/chat/completions status=499 bytes=0 route=- pool=- worker=- attempts=0 ttfb=- duration=0.000000 outcome=client_gone error=\"went \\\"away\\\"\"\n",
			`{"time":"2026-01-02T15:04:05.000Z","id":"i","client":"","method":"POST","path":"/v1/chat/completions","status":499,"bytes":0,"route":"","pool":"","worker":"","attempts":0,"ttfb":null,"duration":0.000000,"outcome":"client_gone","error":"went \"away\""}` + "\n",
		},
		{
			"a path that would be a line of its own", func(x *exchange.Exchange) { x.Request.Target = "/a\r\ntime=x status=200\x1b[2J\u009b\u2028\xff" },
			`time=2026-01-02T15:04:06.500Z id=id-1 client=192.0.2.7 method=POST path="/a\r\ntime=x status=200\x1b[2J\u009b\u2028\xff" status=200 bytes=512 route=main pool=chat worker=chat-0 attempts=1 ttfb=0.021000 duration=1.500000 outcome=ok error=-` + "\n",
			`{"time":"2026-01-02T15:04:06.500Z","id":"id-1","client":"192.0.2.7","method":"POST","path":"/a\u000d\u000atime=x status=200\u001b[2J\u009b\u2028` + "\ufffd" + `","status":200,"bytes":512,"route":"main","pool":"chat","worker":"chat-0","attempts":1,"ttfb":0.021000,"duration":1.500000,"outcome":"ok","error":null}` + "\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			x := ended()
			tc.change(x)
			for format, want := range map[string]string{"text": tc.text, "json": tc.json} {
				var out bytes.Buffer
				NewAccessLog(&out, format).Observe(x)
				if out.String() != want {
					t.Errorf("got  %s\nwant %s", out.String(), want)
				}
			}
		})
	}
}

// refused is what became no request.
func refused(why string, status int) *exchange.Exchange {
	start := time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)
	return &exchange.Exchange{Record: exchange.Record{
		Refused: why, ClientIP: "192.0.2.7", Start: start, End: start, Status: status,
		Outcome: exchange.OutcomeClientError, Err: http1.SyntaxError("no Host"),
	}}
}

// A flood of garbage does not flood the log, and nothing of it is forgotten.
func TestRefusalsInTheAccessLog(t *testing.T) {
	var out bytes.Buffer
	l := NewAccessLog(&out, "text")
	for range 100 {
		l.Observe(refused("bad_request", 400))
	}
	if n := strings.Count(out.String(), "\n"); n != maxRefusals {
		t.Errorf("%d lines", n)
	}
	out.Reset()
	l.Observe(ended())
	if !strings.Contains(out.String(), "status=200") {
		t.Errorf("a request went unlogged: %q", out.String())
	}
	out.Reset()
	x := refused("bad_request", 400)
	x.Record.End = x.Record.End.Add(time.Second)
	l.Observe(x)
	want := "time=2026-01-02T15:04:06.000Z id=- client=192.0.2.7 method=- path=- status=400 bytes=0 route=- pool=- worker=- attempts=0 ttfb=- duration=1.000000 outcome=client_error " +
		"error=\"no Host; 90 more refused since the last such line\"\n"
	if out.String() != want || x.Record.Err.Error() != "no Host" {
		t.Errorf("got  %s\nwant %s", out.String(), want)
	}
}

func FuzzAccessLog(f *testing.F) {
	f.Add("/a\nb", "GET", "err")
	f.Add("/\x00\u0085\xc3", "=", "-")
	f.Fuzz(func(t *testing.T, target, method, problem string) {
		x := ended()
		x.Request.Target, x.Request.Method, x.Record.Err = target, method, errors.New(problem)
		var text, object bytes.Buffer
		NewAccessLog(&text, "text").Observe(x)
		NewAccessLog(&object, "json").Observe(x)
		for i, c := range text.Bytes() {
			if (c < ' ' || c >= 0x7f) && (c != '\n' || i != text.Len()-1) {
				t.Fatalf("byte %#x in %q", c, text.String())
			}
		}
		if n := strings.Count(object.String(), "\n"); n != 1 {
			t.Fatalf("%d lines", n)
		}
		var fields map[string]any
		if err := json.Unmarshal(object.Bytes(), &fields); err != nil || len(fields) != 15 {
			t.Fatalf("%v, %d fields: %q", err, len(fields), object.String())
		}
	})
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	m.Observe(ended())
	x := ended()
	x.Record.Attempts, x.Record.Worker = 3, "chat-1"
	x.Record.Retries, x.Record.Queued = []string{"connect_failed", "connection_lost"}, time.Second
	m.Observe(x)
	m.Observe(x)
	for _, r := range []struct {
		outcome  exchange.Outcome
		attempts int
	}{
		{exchange.OutcomeQueueFull, 0},
		{exchange.OutcomeDeadline, 0},
		{exchange.OutcomeUnavailable, 0},
		{exchange.OutcomeQueueTimeout, 1}, // had its chance
		{exchange.OutcomeClientGone, 0},   // not our doing
	} {
		x = ended()
		x.Record.Pool, x.Record.Outcome, x.Record.Attempts, x.Record.BudgetExhausted = "full", r.outcome, r.attempts, r.attempts == 1
		m.Observe(x)
	}
	x = ended()
	x.Record = exchange.Record{Start: x.Record.Start, End: x.Record.Start, Status: 404, Outcome: exchange.OutcomeNoRoute}
	m.Observe(x)
	m.Observe(refused("bad_request", 400))
	m.Observe(refused("head_timeout", 408))
	m.Observe(refused("head_timeout", 408))
	err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP stoker_requests_total Requests ended, by the status that the client was sent; 499: it went away before.
# TYPE stoker_requests_total counter
stoker_requests_total{code="200",pool="chat",worker="chat-0"} 1
stoker_requests_total{code="200",pool="chat",worker="chat-1"} 2
stoker_requests_total{code="200",pool="full",worker="chat-0"} 5
stoker_requests_total{code="400",pool="",worker=""} 1
stoker_requests_total{code="404",pool="",worker=""} 1
stoker_requests_total{code="408",pool="",worker=""} 2
# HELP stoker_request_outcomes_total Requests ended, by why they ended.
# TYPE stoker_request_outcomes_total counter
stoker_request_outcomes_total{outcome="client_error",pool=""} 3
stoker_request_outcomes_total{outcome="no_route",pool=""} 1
stoker_request_outcomes_total{outcome="ok",pool="chat"} 3
stoker_request_outcomes_total{outcome="client_gone",pool="full"} 1
stoker_request_outcomes_total{outcome="deadline",pool="full"} 1
stoker_request_outcomes_total{outcome="queue_full",pool="full"} 1
stoker_request_outcomes_total{outcome="queue_timeout",pool="full"} 1
stoker_request_outcomes_total{outcome="unavailable",pool="full"} 1
# HELP stoker_request_retries_total Attempts after a request's first, by how the attempt before had failed.
# TYPE stoker_request_retries_total counter
stoker_request_retries_total{pool="chat",reason="connect_failed"} 2
stoker_request_retries_total{pool="chat",reason="connection_lost"} 2
# HELP stoker_requests_refused_total What came from clients and was no request, or came over one connection too many, by why.
# TYPE stoker_requests_refused_total counter
stoker_requests_refused_total{reason="bad_request"} 1
stoker_requests_refused_total{reason="head_timeout"} 2
# HELP stoker_requests_rejected_total Requests refused before an upstream had them, by why.
# TYPE stoker_requests_rejected_total counter
stoker_requests_rejected_total{pool="full",reason="deadline"} 1
stoker_requests_rejected_total{pool="full",reason="queue_full"} 1
stoker_requests_rejected_total{pool="full",reason="unavailable"} 1
# HELP stoker_retry_budget_exhausted_total Requests that were not tried again because too many others were.
# TYPE stoker_retry_budget_exhausted_total counter
stoker_retry_budget_exhausted_total{pool=""} 0
stoker_retry_budget_exhausted_total{pool="chat"} 0
stoker_retry_budget_exhausted_total{pool="full"} 1
`), "stoker_requests_rejected_total", "stoker_requests_refused_total", "stoker_retry_budget_exhausted_total", "stoker_requests_total", "stoker_request_outcomes_total", "stoker_request_retries_total")
	if err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(m.firstByte); n != 3 {
		t.Errorf("%d series of time to first byte", n)
	}
	if n := testutil.CollectAndCount(m.queued); n != 3 {
		t.Errorf("%d series of queue wait", n)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
}

func TestObservingAllocatesNothing(t *testing.T) {
	x := ended()
	m, text, object := NewMetrics(prometheus.NewRegistry()), NewAccessLog(io.Discard, "text"), NewAccessLog(io.Discard, "json")
	if n := testing.AllocsPerRun(100, func() {
		m.Observe(x)
		text.Observe(x)
		object.Observe(x)
	}); n > 0.5 && !raceEnabled {
		t.Errorf("%v allocations", n)
	}
}

// TestTimesAreWrittenAsTheLibraryWould: by hand, for speed.
func TestTimesAreWrittenAsTheLibraryWould(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		at := time.Unix(r.Int64N(4e9), r.Int64N(1e9)).In(time.FixedZone("", 3600*(r.IntN(25)-12)))
		if got, want := string(appendMillis(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z07:00"); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
		d := time.Duration(r.Int64N(r.Int64N(1e13) + 1))
		if got, want := string(appendMicros(nil, d)), strconv.FormatFloat(d.Seconds(), 'f', 6, 64); got != want && d%1000 != 500 {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	for _, tc := range []struct {
		d    time.Duration
		want string
	}{{-1, "0.000000"}, {0, "0.000000"}, {499, "0.000000"}, {999_999_500, "1.000000"}, {time.Hour + 7, "3600.000000"}} {
		if got := string(appendMicros(nil, tc.d)); got != tc.want {
			t.Errorf("%d ns: %s, want %s", int64(tc.d), got, tc.want)
		}
	}
}
