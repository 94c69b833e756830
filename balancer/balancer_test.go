package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/upstream"
)

// fakePool hands out its members in order.
type fakePool struct {
	name    string
	members []*fakeMember
	err     error // when there are no more
	wants   []Want
}

func (p *fakePool) Name() string { return p.name }

func (p *fakePool) Acquire(ctx context.Context, want *Want) (Lease, error) {
	p.wants = append(p.wants, *want)
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	if len(p.members) == 0 {
		return nil, p.err
	}
	m := p.members[0]
	p.members = p.members[1:]
	m.held++
	return m, nil
}

// fakeMember behaves as do says.
type fakeMember struct {
	name                    string
	do                      func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error
	held, released, refused int
	failed, answered        int
}

func (m *fakeMember) Name() string { return m.name }
func (m *fakeMember) Release()     { m.released++ }
func (m *fakeMember) Refused()     { m.refused++ }
func (m *fakeMember) Failed()      { m.failed++ }
func (m *fakeMember) Answered()    { m.answered++ }

func (m *fakeMember) Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	return m.do(ctx, x, sink)
}

// fakeSink keeps what it gets.
type fakeSink struct {
	interim []int
	head    *http1.Response
	length  int64
	body    []byte
	ended   bool
	broken  error
	err     error // for Write
}

func (s *fakeSink) Interim(status int, _ http1.Fields) error {
	s.interim = append(s.interim, status)
	return nil
}

func (s *fakeSink) Head(r *http1.Response, length int64) error {
	s.head, s.length = &http1.Response{Status: r.Status, Fields: r.Fields.Clone()}, length
	return nil
}

func (s *fakeSink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	s.body = append(s.body, p...)
	return len(p), nil
}
func (s *fakeSink) Flush() error                               { return nil }
func (s *fakeSink) Splice(*rawconn.Conn, int64) (int64, error) { return 7, nil }
func (s *fakeSink) End(http1.Fields) error                     { s.ended = true; return nil }
func (s *fakeSink) Break(cause error)                          { s.broken = cause }

func (s *fakeSink) field(name string) string {
	var all []string
	for _, f := range s.head.Fields {
		if strings.EqualFold(f.Name, name) {
			all = append(all, f.Value)
		}
	}
	return strings.Join(all, "|")
}

func answers(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
	_ = sink.Head(&http1.Response{Status: 200, Fields: http1.Fields{{Name: "X-Request-ID", Value: "theirs"}, {Name: "A", Value: "b"}}}, 2)
	_, _ = sink.Write([]byte("ok"))
	return sink.End(nil)
}

func fails(f upstream.Failure) func(context.Context, *exchange.Exchange, exchange.Sink) error {
	return func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
		if f.Begun {
			_ = sink.Head(&http1.Response{Status: 200}, -1)
			_, _ = sink.Write([]byte("half"))
		}
		return &f
	}
}

func newExchange(sink exchange.Sink) *exchange.Exchange {
	return &exchange.Exchange{
		Request: http1.Request{Method: "GET", Target: "/v1/models?key=secret", Authority: "a.test:8000", Scheme: "http", Proto: 11},
		Client:  netip.MustParseAddrPort("192.0.2.7:4000"),
		Sink:    sink,
	}
}

func newBalancer(tb testing.TB, o Options) *Balancer {
	tb.Helper()
	b, err := New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func TestServe(t *testing.T) {
	dial := fails(upstream.Failure{Op: upstream.OpDial, Replayable: true, Err: syscall.ECONNREFUSED})
	read := fails(upstream.Failure{Op: upstream.OpRead, Sent: true, Replayable: true, Err: io.ErrUnexpectedEOF})
	begun := fails(upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: io.ErrUnexpectedEOF})
	type do = func(context.Context, *exchange.Exchange, exchange.Sink) error
	for _, tc := range []struct {
		name     string
		members  []do
		status   int
		body     string
		broken   bool
		outcome  exchange.Outcome
		attempts int
		worker   string
		refused  int // members taken out
	}{
		{"the first answers", []do{answers}, 200, "ok", false, exchange.OutcomeOK, 1, "m0", 0},
		{"the second answers", []do{dial, answers}, 200, "ok", false, exchange.OutcomeOK, 2, "m1", 1},
		{"three do not listen", []do{dial, dial, dial, answers}, 200, "ok", false, exchange.OutcomeOK, 4, "m3", 3},
		{"nobody listens", slices.Repeat([]do{dial}, 30), 502, "connect_failed", false, exchange.OutcomeUpstreamError, maxMissed + 3, fmt.Sprint("m", maxMissed+2), maxMissed + 3},
		{"nobody is left to try", []do{dial}, 429, "queue_timeout", false, exchange.OutcomeQueueTimeout, 1, "m0", 1},
		{"what was sent is not sent again", []do{read, answers}, 502, "connection_lost", false, exchange.OutcomeUpstreamError, 1, "m0", 0},
		{"what has begun is broken", []do{begun, answers}, 200, "half", true, exchange.OutcomeUpstreamBroke, 1, "m0", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pool := &fakePool{name: "p", err: upstream.ErrQueueTimeout}
			for i, do := range tc.members {
				pool.members = append(pool.members, &fakeMember{name: fmt.Sprint("m", i), do: do})
			}
			members := slices.Clone(pool.members)
			sink := &fakeSink{}
			x := newExchange(sink)
			newBalancer(t, Options{Pools: []Pool{pool}}).Serve(t.Context(), x)
			if sink.head.Status != tc.status || !strings.Contains(string(sink.body), tc.body) {
				t.Errorf("got %d %q", sink.head.Status, sink.body)
			}
			if (sink.broken != nil) != tc.broken || sink.ended == tc.broken {
				t.Errorf("broken %v, ended %v", sink.broken, sink.ended)
			}
			r := x.Record
			if r.Outcome != tc.outcome || r.Attempts != tc.attempts || r.Worker != tc.worker || r.Pool != "p" ||
				r.Status != tc.status || r.BytesOut != int64(len(sink.body)) || r.FirstByte.IsZero() {
				t.Errorf("record %+v", r)
			}
			if got := sink.field("X-Request-Id"); got != r.ID || got == "" {
				t.Errorf("answer's id %q, ours %q", got, r.ID)
			}
			refused := 0
			for _, m := range members {
				if m.held != m.released {
					t.Errorf("%s: held %d times, released %d", m.name, m.held, m.released)
				}
				refused += m.refused
			}
			if refused != tc.refused {
				t.Errorf("%d members were taken out, want %d", refused, tc.refused)
			}
			for i, w := range pool.wants {
				if i > 0 && w.Failed != Lease(members[i-1]) {
					t.Errorf("attempt %d avoids %v", i+1, w.Failed)
				}
			}
		})
	}
}

func TestServeWhenTheClientIsGone(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(exchange.ErrClientGone)
	sink := &fakeSink{}
	x := newExchange(sink)
	newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p"}}}).Serve(ctx, x)
	if sink.head != nil || sink.broken == nil || x.Record.Status != 499 || x.Record.Outcome != exchange.OutcomeClientGone || !x.Record.FirstByte.IsZero() {
		t.Errorf("sink %+v, record %+v", sink, x.Record)
	}
}

func TestOwnErrorsHaveOpenAIsForm(t *testing.T) {
	for _, method := range []string{"POST", "HEAD"} {
		t.Run(method, func(t *testing.T) {
			sink := &fakeSink{}
			x := newExchange(sink)
			x.Request.Method = method
			newBalancer(t, Options{Pools: []Pool{&fakePool{err: upstream.ErrQueueFull}}}).Serve(t.Context(), x)
			if sink.head.Status != http.StatusTooManyRequests || sink.field("Retry-After") != "1" ||
				sink.field("Content-Type") != "application/json" || sink.field("X-Request-Id") != x.Record.ID || !sink.ended {
				t.Errorf("got %+v", sink.head)
			}
			if method == "HEAD" {
				if len(sink.body) > 0 || sink.length == 0 {
					t.Errorf("HEAD: length %d, body %q", sink.length, sink.body)
				}
				return
			}
			var got struct {
				Error struct{ Message, Type, Code string }
			}
			if err := json.Unmarshal(sink.body, &got); err != nil || int64(len(sink.body)) != sink.length {
				t.Fatalf("length %d, %v: %q", sink.length, err, sink.body)
			}
			if e := got.Error; e.Type != "overloaded" || e.Code != "queue_full" || e.Message == "" {
				t.Errorf("got %+v", e)
			}
		})
	}
}

// A client that does not take our refusal either is left alone.
func TestRefusalThatCannotBeWritten(t *testing.T) {
	sink := &fakeSink{err: errors.New("broken pipe")}
	newBalancer(t, Options{Pools: []Pool{&fakePool{err: upstream.ErrQueueFull}}}).Serve(t.Context(), newExchange(sink))
	if sink.ended || sink.broken == nil {
		t.Errorf("got %+v", sink)
	}
}

func TestAttemptPassesOn(t *testing.T) {
	sink := &fakeSink{}
	x := newExchange(sink)
	m := &fakeMember{do: func(_ context.Context, _ *exchange.Exchange, s exchange.Sink) error {
		_ = s.Interim(100, nil)
		_ = s.Interim(103, nil)
		_ = s.Head(&http1.Response{Status: 200}, -1)
		_, _ = s.Write([]byte("abc"))
		_, _ = s.Splice(nil, 100)
		return s.End(nil)
	}}
	newBalancer(t, Options{Pools: []Pool{&fakePool{members: []*fakeMember{m}}}}).Serve(t.Context(), x)
	if !slices.Equal(sink.interim, []int{103}) || x.Record.BytesOut != 10 {
		t.Errorf("interim %v, %d bytes", sink.interim, x.Record.BytesOut)
	}
}

func TestCheck(t *testing.T) {
	for _, tc := range []struct {
		method, target, authority string
		proto                     int
		want                      error
	}{
		{"GET", "/", "a", 11, nil},
		{"GET", "//x/../%00?a b"[:10], "a:80", 11, nil},
		{"OPTIONS", "*", "a", 11, nil},
		{"GET", "/", "[::1]:80", 20, nil},
		{"GET", "/", "", 10, nil},
		{"GET", "/ü", "a", 11, nil},
		{"CONNECT", "a:443", "a:443", 11, errMethod},
		{"TRACE", "/", "a", 11, errMethod},
		{"GET", "*", "a", 11, errTarget},
		{"GET", "", "a", 11, errTarget},
		{"GET", "mailto:x", "a", 11, errTarget},
		{"GET", "/a b HTTP/1.1", "a", 20, errTarget},
		{"GET", "/a\r\nX: y", "a", 20, errTarget},
		{"GET", "/a#b", "a", 11, errTarget},
		{"GET", "/", "", 11, errAuthority},
		{"GET", "/", "a b", 20, errAuthority},
		{"GET", "/", "a/b", 20, errAuthority},
		{"GET", "/", "user@a", 20, errAuthority},
		{"GET", "/", "a\r\nX: y", 20, errAuthority},
	} {
		err := check(&http1.Request{Method: tc.method, Target: tc.target, Authority: tc.authority, Proto: tc.proto})
		if !errors.Is(err, tc.want) || tc.want == nil && err != nil {
			t.Errorf("%s %q at %q: got %v, want %v", tc.method, tc.target, tc.authority, err, tc.want)
		}
	}
}

func TestRoutes(t *testing.T) {
	var pools []Pool
	for _, name := range []string{"v1", "chat", "host", "rest"} {
		pools = append(pools, &fakePool{name: name})
	}
	b := newBalancer(t, Options{Pools: pools, Routes: []config.Route{
		{Path: "/v1/chat/", Pool: "chat"},
		{Path: "/v1", Pool: "v1"},
		{Host: "Models.Example", Path: "/", Pool: "host"},
		{Host: "models.example", Path: "/never", Pool: "rest"},
		{Host: "[::1]", Pool: "rest"},
	}})
	for _, tc := range []struct{ authority, target, want string }{
		{"a", "/v1", "v1"},
		{"a", "/v1/", "v1"},
		{"a", "/v1?x=/v1/chat", "v1"},
		{"a", "/v1/models", "v1"},
		{"a", "/v1/chat", "chat"},
		{"a", "/v1/chat/completions", "chat"},
		{"a", "/v1/chatter", "v1"},
		{"a", "/v10", ""},
		{"a", "/V1", ""},
		{"a", "/", ""},
		{"models.example", "/", "host"},
		{"MODELS.example.:8443", "/never", "host"},
		{"models.example.org", "/", ""},
		{"models.example", "*", "host"},
		{"[::1]:80", "/x", "rest"},
		{"[::1]", "*", "rest"},
	} {
		q := ask(&http1.Request{Target: tc.target, Authority: tc.authority}, given{})
		r, err := b.table.Load().routes.find(&q)
		got := ""
		if err == nil {
			got = r.to.next().pool.Name()
		}
		if got != tc.want {
			t.Errorf("%s%s: got %q, want %q", tc.authority, tc.target, got, tc.want)
		}
	}
	for name, o := range map[string]Options{
		"no pool":            {},
		"two, and no route":  {Pools: pools[:2]},
		"route to elsewhere": {Pools: pools, Routes: []config.Route{{Pool: "x"}}},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
