package tracing

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"stoker/exchange"
	"stoker/internal/http1"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	sampled = "00-" + traceID + "-" + spanID + "-01"
	not     = "00-" + traceID + "-" + spanID + "-00"
)

func TestReadParent(t *testing.T) {
	for parent, valid := range map[string]bool{
		sampled: true, not: true,
		"00-" + traceID + "-" + spanID + "-ff": true, // flags of which we know one
		"":                                     false, "00": false, sampled[:54]: false, sampled + "-": false, sampled + "-x": false, sampled + "0": false,
		"01-" + sampled[3:]:                            true,
		"cc-" + sampled[3:] + "-later":                 true,
		"01-" + sampled[3:] + "x":                      false,
		"ff-" + sampled[3:]:                            false,
		"0F-" + sampled[3:]:                            false,
		strings.ToUpper(sampled):                       false,
		"00-" + strings.Repeat("0", 32) + sampled[35:]: false,
		sampled[:36] + strings.Repeat("0", 16) + "-01": false,
		sampled + ", " + sampled:                       false,
		strings.Replace(sampled, "-", "_", 1):          false,
		"00-" + traceID + "-" + spanID + "-0g":         false,
	} {
		if got := ReadParent(parent, "a=1"); (got != Parent{}) != valid || valid && got != (Parent{parent, "a=1"}) {
			t.Errorf("%q: %+v", parent, got)
		}
	}
	for state, valid := range map[string]bool{
		"a=1,b@c=2": true, "a=1, b=2": true, "a": false, "A=1": false, "a=1,a=2": false, "a=é": false, "a==": false,
		strings.TrimSuffix(strings.Repeat("k=v,", 33), ","): false,
	} {
		if got := ReadParent(sampled, state); got.Traceparent != sampled || (got.Tracestate == state) != valid {
			t.Errorf("%q: %+v", state, got)
		}
	}
}

// collector is what spans are sent to.
type collector struct {
	*httptest.Server

	mu       sync.Mutex
	got      []*spans.ResourceSpans
	requests []*http.Request
	answers  []int         // next ones; 200 where there are none
	hold     chan struct{} // nil: answers at once
	came     chan struct{} // a batch was taken
}

func newCollector(t *testing.T) *collector {
	t.Helper()
	c := &collector{came: make(chan struct{}, 1000)}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var data spans.TracesData
	if err := proto.Unmarshal(body, &data); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if c.hold != nil {
		<-c.hold
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r)
	if len(c.answers) > 0 {
		status := c.answers[0]
		c.answers = c.answers[1:]
		if status != http.StatusOK {
			w.WriteHeader(status)
			return
		}
	}
	c.got = append(c.got, data.ResourceSpans...)
	c.came <- struct{}{}
}

func (c *collector) spans() []*spans.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*spans.Span
	for _, r := range c.got {
		for _, s := range r.ScopeSpans {
			all = append(all, s.Spans...)
		}
	}
	return all
}

func attributes(s *spans.Span) map[string]string {
	all := map[string]string{}
	for _, a := range s.Attributes {
		all[a.Key] = a.Value.GetStringValue()
		if all[a.Key] == "" {
			all[a.Key] = strings.TrimSpace(strings.SplitN(a.Value.String(), ":", 2)[1])
		}
	}
	return all
}

func options(c *collector) Options {
	return Options{
		Endpoint: c.URL + "/v1/traces", Headers: map[string]string{"X-Key": "k"}, Ratio: 1, Service: "front", Version: "1",
		Metrics: NewMetrics(prometheus.NewRegistry()), Log: hclog.NewNullLogger(),
	}
}

func request() *exchange.Exchange {
	x := &exchange.Exchange{Request: http1.Request{
		Method: "POST", Target: "/v1/chat?key=secret", Authority: "a.test:8000", Scheme: "https", Proto: 11,
		Fields: http1.Fields{{Name: "User-Agent", Value: "curl"}, {Name: "TraceParent", Value: "theirs"}, {Name: "tracestate", Value: "x=1"}},
	}}
	x.Record = exchange.Record{ID: "id-1", ClientIP: "192.0.2.1", Start: time.Now(), Pool: "p", Worker: "p-0", Attempts: 1, Status: 200, Outcome: exchange.OutcomeOK}
	return x
}

func closeNow(t *testing.T, tracer *Tracer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tracer.Close(ctx)
}

func TestSpans(t *testing.T) {
	c := newCollector(t)
	o := options(c)
	tracer := New(o)
	x := request()
	r := tracer.Begin(x, ReadParent(sampled, "x=1"), false)
	r.Try(x, "10.0.0.1:8000")
	first := x.Request.Fields.Get(ParentField)
	r.Tried(0, "connect_failed", errors.New("refused"))
	x.Record.Attempts = 2
	r.Try(x, "/run/w.sock")
	second := x.Request.Fields.Get(ParentField)
	r.Tried(200, "", nil)
	x.Record.FirstByte, x.Record.End = time.Now(), time.Now()
	r.End(x, "/v1")
	closeNow(t, tracer)

	got := c.spans()
	if len(got) != 3 {
		t.Fatalf("%d spans", len(got))
	}
	one, two, server := got[0], got[1], got[2]
	if server.Name != "POST /v1" || server.Kind != spans.Span_SPAN_KIND_SERVER || hex.EncodeToString(server.TraceId) != traceID || hex.EncodeToString(server.ParentSpanId) != spanID || server.TraceState != "x=1" {
		t.Errorf("%v", server)
	}
	for i, s := range []*spans.Span{one, two} {
		if s.Kind != spans.Span_SPAN_KIND_CLIENT || string(s.ParentSpanId) != string(server.SpanId) || string(s.TraceId) != string(server.TraceId) {
			t.Errorf("attempt %d: %v", i, s)
		}
	}
	for s, told := range map[*spans.Span]string{one: first, two: second} {
		if want := "00-" + traceID + "-" + hex.EncodeToString(s.SpanId) + "-01"; told != want {
			t.Errorf("told %s, want %s", told, want)
		}
	}
	if n := len(slices.Collect(x.Request.Fields.Tokens(ParentField))); n != 1 || x.Request.Fields.Get(StateField) != "x=1" {
		t.Errorf("%v", x.Request.Fields)
	}
	about := attributes(server)
	for key, want := range map[string]string{
		"http.request.method": "POST", "url.path": "/v1/chat", "url.scheme": "https", "server.address": "a.test", "user_agent.original": "curl",
		"http.route": "/v1", "client.address": "192.0.2.1", "network.protocol.version": "1.1", "stoker.request_id": "id-1", "stoker.pool": "p",
	} {
		if about[key] != want {
			t.Errorf("%s = %q, want %q", key, about[key], want)
		}
	}
	if one.Status.GetCode() != spans.Status_STATUS_CODE_ERROR || attributes(one)["error.type"] != "connect_failed" || attributes(one)["server.address"] != "10.0.0.1" {
		t.Errorf("%v", one)
	}
	if two.Status.GetCode() != spans.Status_STATUS_CODE_UNSET || server.Status.GetCode() != spans.Status_STATUS_CODE_UNSET || len(server.Events) != 1 {
		t.Errorf("%v %v", two, server)
	}
	if strings.Contains(server.String()+one.String(), "secret") {
		t.Error("a query was sent")
	}
	if h := c.requests[0].Header; h.Get("X-Key") != "k" || h.Get("Content-Type") != "application/x-protobuf" || c.requests[0].URL.Path != "/v1/traces" {
		t.Errorf("%v", h)
	}
	if n := testutil.ToFloat64(o.Metrics.sent); n != 3 {
		t.Errorf("%v counted", n)
	}
}

// What a request says is in a buffer that is used again, and may be no text at all.
func TestWhatSpansKeep(t *testing.T) {
	c := newCollector(t)
	o := options(c)
	tracer := New(o)
	buffer := []byte("x=1POST/pathagent\xff")
	view := func(from, to int) string { return unsafe.String(&buffer[from], to-from) }
	x := request()
	x.Request.Method, x.Request.Target = view(3, 7), view(7, 12)
	x.Request.Fields = http1.Fields{{Name: "User-Agent", Value: view(12, 18)}}
	r := tracer.Begin(x, ReadParent(sampled, view(0, 3)), true)
	r.Try(x, "w")
	r.Tried(200, "", nil)
	r.End(x, "")
	for i := range buffer {
		buffer[i] = 0xfe
	}
	closeNow(t, tracer)
	got := c.spans()
	if len(got) != 2 {
		t.Fatalf("%d spans came", len(got))
	}
	for _, s := range got {
		about := attributes(s)
		if s.TraceState != "x=1" || s.Name != "POST" || about["url.path"] != "/path" || s.Kind == spans.Span_SPAN_KIND_SERVER && about["user_agent.original"] != "agent\ufffd" {
			t.Errorf("%v", s)
		}
	}
}

// What becomes of a request by what it says, and by chance.
func TestSampling(t *testing.T) {
	for name, tc := range map[string]struct {
		parent      string
		ratio       float64
		onlyTrusted bool
		sent        bool
		same        bool // trace as the parent's
	}{
		"begun, all":         {"", 1, false, true, false},
		"begun, none":        {"", 0, false, false, false},
		"as its parent":      {sampled, 0, false, true, true},
		"as its parent, not": {not, 1, false, false, true},
		"not believed, all":  {not, 1, true, true, false},
		"not believed, none": {sampled, 0, true, false, false},
		"no parent":          {"nonsense", 1, false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCollector(t)
			o := options(c)
			o.Ratio, o.OnlyTrusted = tc.ratio, tc.onlyTrusted
			tracer := New(o)
			x := request()
			r := tracer.Begin(x, ReadParent(tc.parent, ""), false)
			r.Try(x, "w")
			told := ReadParent(x.Request.Fields.Get(ParentField), "")
			r.Tried(200, "", nil)
			r.End(x, "")
			closeNow(t, tracer)
			if sent := len(c.spans()) > 0; sent != tc.sent || told.context().IsSampled() != tc.sent {
				t.Errorf("sent %v, told %s", sent, told.Traceparent)
			}
			if same := told.context().TraceID().String() == traceID; same != tc.same {
				t.Errorf("told %s", told.Traceparent)
			}
		})
	}
}

// A collector that is away, slow or refuses: nobody waits, all is counted, one
// line says so, and one that it is back.
func TestCollectorAway(t *testing.T) {
	c := newCollector(t)
	c.answers = []int{400, 503, 200}
	o := options(c)
	var log lines
	o.Log = hclog.New(&hclog.LoggerOptions{Output: &log, Level: hclog.Info})
	tracer := New(o)
	one := func() { x := request(); tracer.Begin(x, Parent{}, true).End(x, "") }
	one()
	waitFor(t, func() bool { return testutil.ToFloat64(o.Metrics.dropped.WithLabelValues(sendFailed)) == 1 })
	one() // 503, and again
	<-c.came
	closeNow(t, tracer)
	if n := strings.Count(log.String(), "cannot be sent"); n != 1 || strings.Count(log.String(), "sent again") != 1 {
		t.Errorf("%s", log.String())
	}
	if n := testutil.ToFloat64(o.Metrics.sent); n != 1 || len(c.requests) != 3 {
		t.Errorf("%v sent, %d requests", n, len(c.requests))
	}
}

func TestQueueIsBounded(t *testing.T) {
	c := newCollector(t)
	c.hold = make(chan struct{})
	o := options(c)
	tracer := New(o)
	const many = queueLength + 1000
	for range many {
		x := request()
		tracer.Begin(x, Parent{}, true).End(x, "")
	}
	if n := testutil.ToFloat64(o.Metrics.dropped.WithLabelValues(queueFull)); n != 1000 {
		t.Errorf("%v dropped", n)
	}
	close(c.hold)
	closeNow(t, tracer)
	if n := len(c.spans()); n != queueLength {
		t.Errorf("%d came", n)
	}
}

// The end does not wait for a collector that does not answer.
func TestCloseGivesUp(t *testing.T) {
	c := newCollector(t)
	c.hold = make(chan struct{})
	defer close(c.hold)
	o := options(c)
	tracer := New(o)
	x := request()
	tracer.Begin(x, Parent{}, true).End(x, "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	tracer.Close(ctx)
	if n := testutil.ToFloat64(o.Metrics.dropped.WithLabelValues(sendFailed)); n != 1 {
		t.Errorf("%v dropped", n)
	}
}

func TestOff(t *testing.T) {
	tracer := New(Options{})
	x := request()
	r := tracer.Begin(x, ReadParent(sampled, ""), true)
	r.Tried(200, "", nil)
	r.End(x, "")
	tracer.Close(t.Context())
	if r != nil {
		t.Error("a trace")
	}
}

func TestFailures(t *testing.T) {
	for _, tc := range []struct {
		outcome exchange.Outcome
		status  int
		want    string
	}{
		{exchange.OutcomeOK, 200, ""},
		{exchange.OutcomeOK, 404, ""},
		{exchange.OutcomeOK, 500, "500"},
		{exchange.OutcomeUpstreamBroke, 200, "upstream_broke"},
		{exchange.OutcomeUpstreamError, 502, "upstream_error"},
		{exchange.OutcomeClientGone, 499, ""},
		{exchange.OutcomeClientGone, 200, ""},
		{exchange.OutcomeUnauthorized, 401, ""},
		{exchange.OutcomeQueueFull, 429, ""},
		{exchange.OutcomeUnavailable, 503, "unavailable"},
	} {
		if got := failureOf(&exchange.Record{Outcome: tc.outcome, Status: tc.status}); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not reached")
		}
	}
}
