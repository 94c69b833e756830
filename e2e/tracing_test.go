//go:build e2e

package e2e

import (
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	spans "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// collector is a small one, of OTLP over HTTP.
type collector struct {
	away atomic.Bool
	mu   sync.Mutex
	got  map[string]*spans.Span // by id
}

func (c *collector) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	if c.away.Load() {
		panic(http.ErrAbortHandler)
	}
	body, _ := io.ReadAll(r.Body)
	var data spans.TracesData
	if r.URL.Path != "/v1/traces" || proto.Unmarshal(body, &data) != nil {
		panic(http.ErrAbortHandler)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, resource := range data.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, s := range scope.Spans {
				c.got[hex.EncodeToString(s.SpanId)] = s
			}
		}
	}
}

func (c *collector) span(id string) *spans.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.got[id]
}

// TestTracing: spans from client to engine, in each way in which clients speak,
// also while the collector is away; the last ones are sent at the end.
func TestTracing(t *testing.T) {
	waits(t)
	c := &collector{got: map[string]*spans.Span{}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: c}
	c.away.Store(true)
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	s := newSecure(t)
	m := start(t, fmt.Sprintf("%s[tracing]\nendpoint = \"http://%s\"\n[[routes]]\npath = \"/traced\"\npool = \"a\"\n[[pools]]\nname = \"a\"\n[[pools.servers]]\naddress = %q\n", s.config, l.Addr(), startEverywhere(t, "a"))).ready()
	all := ways(t, m, s)
	for range 3 {
		all[0].ask(t, ask{path: "/traced/x"}).expect(200)
	}
	m.eventually("the log says that the collector is away", func() bool { return strings.Contains(m.logText(), "traces cannot be sent") })
	c.away.Store(false)

	const trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	engineSaw := map[string]string{} // by way
	for _, w := range all {
		a := w.ask(t, ask{path: "/traced/x?secret=1", fields: "Traceparent: 00-" + trace + "-" + parent + "-01\nTracestate: a=1"})
		a.expect(200)
		engineSaw[w.name] = a.seen.Header.Get("Traceparent")
		if a.seen.Header.Get("Tracestate") != "a=1" {
			t.Errorf("%s: %v", w.name, a.seen.Header)
		}
	}
	for _, w := range all {
		fields := strings.Split(engineSaw[w.name], "-")
		if len(fields) != 4 || fields[1] != trace || fields[2] == parent || fields[3] != "01" {
			t.Errorf("%s: the engine was told %s", w.name, engineSaw[w.name])
			continue
		}
		m.eventually("the spans have come", func() bool { return c.span(fields[2]) != nil })
		attempt := c.span(fields[2])
		m.eventually("its parent, too", func() bool { return c.span(hex.EncodeToString(attempt.ParentSpanId)) != nil })
		request := c.span(hex.EncodeToString(attempt.ParentSpanId))
		if hex.EncodeToString(request.ParentSpanId) != parent || request.Name != "GET /traced" || strings.Contains(request.String(), "secret") {
			t.Errorf("%s: %v", w.name, request)
		}
	}
	if n := m.metric("stoker_trace_spans_dropped_total", `reason="send_failed"`); n == 0 {
		t.Error("nothing is counted as dropped")
	}
	last := all[0].ask(t, ask{path: "/traced/last"}).seen.Header.Get("Traceparent")
	m.stop()
	if fields := strings.Split(last, "-"); len(fields) != 4 || c.span(fields[2]) == nil {
		t.Errorf("the last span (%s) was not sent", last)
	}
	if n := strings.Count(m.logText(), "traces cannot be sent"); n != 1 {
		t.Errorf("said %d times that the collector is away", n)
	}
}
