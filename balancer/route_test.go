package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// Of any hundred in a row each pool gets its share, give or take one.
func TestSplitIsEven(t *testing.T) {
	lanes := map[string]*lane{}
	for _, name := range []string{"a", "b", "c"} {
		lanes[name] = newLane(&fakePool{name: name}, DefaultRules())
	}
	for _, weights := range [][3]int{{95, 5, 0}, {1, 1, 1}, {0, 0, 7}, {1, 98, 1}, {1 << 20, 1 << 20, 0}} {
		d := split([]config.Share{{Pool: "a", Weight: weights[0]}, {Pool: "b", Weight: weights[1]}, {Pool: "c", Weight: weights[2]}}, lanes)
		sum := weights[0] + weights[1] + weights[2]
		for hundred := range 50 {
			got := map[*lane]int{}
			for range 100 {
				got[d.next()]++
			}
			for i, name := range []string{"a", "b", "c"} {
				want := 100 * float64(weights[i]) / float64(sum)
				if n := float64(got[lanes[name]]); n > want+2 || n < want-2 || want == 0 && n > 0 {
					t.Fatalf("%v: of the hundred %d %s got %v", weights, hundred, name, n)
				}
			}
		}
	}
}

// post makes an exchange with a body.
func post(body io.Reader, length int64, sink exchange.Sink) *exchange.Exchange {
	x := newExchange(sink)
	x.Request.Method, x.Request.Target = "POST", "/v1/chat"
	x.Body, x.Length = body, length
	return x
}

func byModelRoutes(pool Pool) Options {
	return Options{Pools: []Pool{pool}, Routes: []config.Route{{
		Name: "m", Path: "/v1", Models: []string{"m"}, Aliases: map[string]string{"alias": "other name"}, Pool: pool.Name(), Rewrite: "/v2",
	}}, MaxAhead: 1 << 20}
}

// A body that was read ahead is all there when a member is not reached and
// another is tried; afterwards the exchange is its front's again, as it was.
func TestBodyThatWasReadAheadIsSentAgain(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		for _, length := range []int64{0, -1} {
			t.Run(fmt.Sprint(size, length), func(t *testing.T) {
				text := `{"p":"` + strings.Repeat("x", size) + `","model":"alias"}`
				want := strings.Replace(text, "alias", "other name", 1)
				fail := fails(upstream.Failure{Op: upstream.OpDial, Replayable: true, Err: syscall.ECONNREFUSED})
				var got []byte
				var sent int64
				var target string
				take := func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					got, _ = io.ReadAll(x.Body)
					sent, target = x.Length, x.Request.Target
					return answers(ctx, x, sink)
				}
				pool := &fakePool{name: "p", members: []*fakeMember{{name: "m0", do: fail}, {name: "m1", do: take}}}
				sink := &fakeSink{}
				body := strings.NewReader(text)
				if length == 0 {
					length = int64(len(text))
				}
				x := post(body, length, sink)
				newBalancer(t, byModelRoutes(pool)).Serve(t.Context(), x)
				if string(got) != want || sent != int64(len(want)) || target != "/v2/chat" || x.Record.Attempts != 2 || x.Record.Route != "m" {
					t.Errorf("got %d of %d bytes, told %d, at %s; %+v", len(got), len(want), sent, target, x.Record)
				}
				if x.Body != io.Reader(body) || x.Length != length || x.Request.Target != "/v1/chat" {
					t.Errorf("left %v, length %d, target %s", x.Body, x.Length, x.Request.Target)
				}
			})
		}
	}
}

// What a client calls a model is its own matter: no log has it.
func TestUnknownModelIsNotLogged(t *testing.T) {
	sink := &fakeSink{}
	text := `{"model":"my secret"}`
	x := post(strings.NewReader(text), int64(len(text)), sink)
	newBalancer(t, byModelRoutes(&fakePool{name: "p"})).Serve(t.Context(), x)
	want := "{\"error\":{\"message\":\"The model `my secret` does not exist\",\"type\":\"invalid_request_error\",\"param\":\"model\",\"code\":\"model_not_found\"}}\n"
	if sink.head.Status != 404 || string(sink.body) != want || x.Record.Outcome != exchange.OutcomeNoRoute ||
		x.Record.Err == nil || strings.Contains(x.Record.Err.Error(), "secret") {
		t.Errorf("got %d %s, and %v for the log", sink.head.Status, sink.body, x.Record.Err)
	}
}

// brokenBody gives some bytes and then an error.
type brokenBody struct {
	text string
	err  error
}

func (b *brokenBody) Read(p []byte) (int, error) {
	if b.text == "" {
		return 0, b.err
	}
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, nil
}

// What ends a body ends the request while it is read ahead too, and no other
// route is tried.
func TestBodiesThatCannotBeReadAhead(t *testing.T) {
	for _, tc := range []struct {
		name    string
		length  int64
		err     error
		status  int
		outcome exchange.Outcome
	}{
		{"the client hangs up", 100, exchange.ErrClientGone, 499, exchange.OutcomeClientGone},
		{"the client hangs up in a body of unknown length", -1, exchange.ErrClientGone, 499, exchange.OutcomeClientGone},
		{"the client is slow", 100, exchange.ErrClientSlow, 408, exchange.OutcomeClientError},
		{"the master ends", -1, exchange.ErrShutdown, 503, exchange.OutcomeShutdown},
		{"no HTTP", -1, http1.SyntaxError("bad chunk"), 400, exchange.OutcomeClientError},
		{"it ends before its length", 100, io.EOF, 400, exchange.OutcomeClientError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			sink := &fakeSink{}
			x := post(&brokenBody{`{"model":"m"`, tc.err}, tc.length, sink)
			o := byModelRoutes(&fakePool{name: "p", err: errors.New("somebody asked for a place")})
			o.Routes = append(o.Routes, config.Route{Pool: "p"})
			newBalancer(t, o).Serve(t.Context(), x)
			if x.Record.Outcome != tc.outcome || x.Record.Status != tc.status || x.Record.Attempts != 0 || x.Record.Pool != "" {
				t.Errorf("record %+v", x.Record)
			}
		})
	}
}

// Memory is held while it is needed, and no longer than until the body was sent.
func TestReadAheadGivesItsMemoryBack(t *testing.T) {
	var held bool
	var b *Balancer
	take := func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
		h := x.Body.(*ahead)
		if h.buf == nil || b.aheadHeld.Load() < 1<<19 {
			t.Error("nothing is held before the body is sent")
		}
		_, _ = io.Copy(io.Discard, x.Body)
		held = h.buf != nil || h.parts[0] != nil || h.parts[2] != nil
		return answers(ctx, x, sink)
	}
	text := `{"p":"` + strings.Repeat("x", 1<<19) + `","model":"alias"}`
	pool := &fakePool{name: "p", members: []*fakeMember{{do: take}}}
	b = newBalancer(t, byModelRoutes(pool))
	b.Serve(t.Context(), post(strings.NewReader(text), int64(len(text)), &fakeSink{}))
	if held || b.aheadHeld.Load() != 0 {
		t.Errorf("the prompt is held for as long as its answer takes; %d bytes are held after it", b.aheadHeld.Load())
	}
}

// All bodies together take no more memory than there is for them, and who finds
// none is told to come again.
func TestReadAheadIsBounded(t *testing.T) {
	o := byModelRoutes(&fakePool{name: "p", members: []*fakeMember{{do: answers}}})
	o.AheadMemory = 100 << 10
	b := newBalancer(t, o)
	for _, tc := range []struct{ size, status int }{{200 << 10, 503}, {10 << 10, 200}} {
		text := `{"p":"` + strings.Repeat("x", tc.size) + `","model":"m"}`
		sink := &fakeSink{}
		x := post(strings.NewReader(text), -1, sink)
		b.Serve(t.Context(), x)
		if sink.head.Status != tc.status || b.aheadHeld.Load() != 0 || tc.status == 503 && (sink.field("Retry-After") == "" || x.Record.Outcome != exchange.OutcomeLimited) {
			t.Errorf("%d bytes: got %d, and %d bytes are held; %+v", tc.size, sink.head.Status, b.aheadHeld.Load(), x.Record)
		}
	}
}

// Trailers come after the body as it was sent, so that stays one of unknown length.
func TestReadAheadKeepsTrailers(t *testing.T) {
	var got string
	take := func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
		body, _ := io.ReadAll(x.Body)
		got = fmt.Sprint(string(body), x.Length, x.Trailers())
		return answers(ctx, x, sink)
	}
	x := post(strings.NewReader(`{"model":"alias"}`), -1, &fakeSink{})
	x.Trailers = func() http1.Fields { return http1.Fields{{Name: "A", Value: "b"}} }
	newBalancer(t, byModelRoutes(&fakePool{name: "p", members: []*fakeMember{{do: take}}})).Serve(t.Context(), x)
	if want := `{"model":"other name"}-1 [{A b}]`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// What a client only announces takes no memory.
func TestReadAheadBelievesNoLength(t *testing.T) {
	data := make([]byte, 0, usualBody)
	if got := cap(grow(data, 8<<20)); got > 4*usualBody {
		t.Errorf("room for %d bytes after %d have come", got, cap(data))
	}
}

func TestFewRoutesCostNothing(t *testing.T) {
	for _, routes := range []int{0, 1, 300} {
		b := newBalancer(t, manyRoutes(routes))
		x := newExchange(&fakeSink{})
		a := &attempt{carried: carried{x: x}}
		table := b.table.Load()
		if n := testing.AllocsPerRun(100, func() {
			q := ask(&x.Request, a)
			r, err := table.routes.find(&q)
			if err != nil || r.to.next() == nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%d routes: %v allocations", routes, n)
		}
	}
}

// manyRoutes are n-1 that do not match, and one that does.
func manyRoutes(n int) Options {
	o := Options{Pools: []Pool{&fakePool{name: "p"}}}
	for i := range n - 1 {
		r := config.Route{Host: fmt.Sprintf("host-%d.example.com", i), Pool: "p"}
		switch i % 3 {
		case 1:
			r = config.Route{Path: fmt.Sprintf("/v1/models/%d", i), Methods: []string{"GET"}, Pool: "p"}
		case 2:
			r = config.Route{Path: fmt.Sprintf("/{tenant}/models/%d", i), Headers: map[string]string{"X-Tenant": "a*"}, Pool: "p"}
		}
		o.Routes = append(o.Routes, r)
	}
	if n > 0 {
		o.Routes = append(o.Routes, config.Route{Split: []config.Share{{Pool: "p", Weight: 1}}})
	}
	return o
}

func BenchmarkRoutes(b *testing.B) {
	for _, n := range []int{0, 1, 10, 100, 300, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table := newBalancer(b, manyRoutes(n)).table.Load()
			x := newExchange(&fakeSink{})
			a := &attempt{carried: carried{x: x}}
			b.ReportAllocs()
			for b.Loop() {
				q := ask(&x.Request, a)
				if _, err := table.routes.find(&q); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What is explained is what happens.
func TestExplain(t *testing.T) {
	o := Options{Pools: []Pool{&fakePool{name: "a"}, &fakePool{name: "b"}}, Routes: []config.Route{
		{Name: "wild", Host: "*.x.test", Redirect: "https://{host}{uri}"},
		{Path: "/p", Exact: true, Pool: "a"},
		{Path: "/m", Methods: []string{"PUT"}, Pool: "a"},
		{Path: "/h", Headers: map[string]string{"A": "b*"}, Pool: "a"},
		{Name: "model", Path: "/v1", Models: []string{"m*"}, Aliases: map[string]string{"x": "y"}, Rewrite: "/", Split: []config.Share{{Pool: "a", Weight: 3}, {Pool: "b", Weight: 1}}},
	}}
	b := newBalancer(t, o)
	model := func(s string) *string { return &s }
	for _, tc := range []struct {
		question Question
		want     string // as JSON
	}{
		{Question{Request: http1.Request{Method: "GET", Target: "/q?r", Authority: "a.x.test", Scheme: "http"}}, `{"routes":[{"number":1,"name":"wild","matches":true}],"route":"wild","status":308,"location":"https://a.x.test/q?r"}`},
		{
			Question{Request: http1.Request{Method: "POST", Target: "/v1/chat", Authority: "h"}, Model: model("x")},
			`{"routes":[{"number":1,"name":"wild","matches":false,"why":"host is \"h\", not \"*.x.test\""},` +
				`{"number":2,"matches":false,"why":"path is \"/v1/chat\", not \"/p\" exactly"},` +
				`{"number":3,"matches":false,"why":"path is \"/v1/chat\", not \"/m\" or below it"},` +
				`{"number":4,"matches":false,"why":"path is \"/v1/chat\", not \"/h\" or below it"},` +
				`{"number":5,"name":"model","matches":true}],"route":"model","pools":[{"pool":"a","percent":75},{"pool":"b","percent":25}],"target":"/chat","model":"y"}`,
		},
		{Question{Request: http1.Request{Method: "GET", Target: "/m", Authority: "h"}}, `"why":"method is GET, not PUT"`},
		{Question{Request: http1.Request{Method: "GET", Target: "/h", Authority: "h"}}, `"why":"there is no field A"`},
		{Question{Request: http1.Request{Method: "GET", Target: "/h", Authority: "h", Fields: http1.Fields{{Name: "a", Value: "c"}}}}, `"why":"field A is not \"b*\""`},
		{Question{Request: http1.Request{Method: "POST", Target: "/v1", Authority: "h"}, Model: model("z")}, `"why":"model is \"z\", not \"m*\" or \"x\""`},
		{Question{Request: http1.Request{Method: "POST", Target: "/v1", Authority: "h"}, Model: model("z")}, `"status":404,"code":"model_not_found"`},
		{Question{Request: http1.Request{Method: "GET", Target: "/v1", Authority: "h"}}, `"status":404,"code":"no_route"`},
		{Question{Request: http1.Request{Method: "TRACE", Target: "/v1", Authority: "h"}}, `"code":"method_not_supported"`},
	} {
		if tc.question.Request.Proto = 11; tc.question.Request.Scheme == "" {
			tc.question.Request.Scheme = "http"
		}
		got, err := json.Marshal(b.Explain(&tc.question))
		if err != nil || !strings.Contains(string(got), tc.want) {
			t.Errorf("got  %s\nwant %s, %v", got, tc.want, err)
		}
	}
}

// listing answers as an engine asked for its models.
func listing(text string, asked *int, keys *[]string) func(context.Context, *exchange.Exchange, exchange.Sink) error {
	return func(_ context.Context, x *exchange.Exchange, sink exchange.Sink) error {
		*asked++
		*keys = append(*keys, x.Request.Fields.Get("Authorization"))
		_ = sink.Head(&http1.Response{Status: 200}, int64(len(text)))
		_, _ = sink.Write([]byte(text))
		return sink.End(nil)
	}
}

// A list is asked for once, kept for a while and for one key, and lacks the
// pools that do not answer.
func TestModelListIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked int
		var keys []string
		up := &fakeMember{name: "u", do: listing(`{"data":[{"id":"a","object":"model"},{"id":"hidden"},{"id":"b"}]}`, &asked, &keys)}
		down := funcPool{func(ctx context.Context, _ *Want) (Lease, error) {
			<-ctx.Done() // as a queue for an engine that loads
			return nil, context.Cause(ctx)
		}}
		b := newBalancer(t, Options{
			Pools: []Pool{&fakePool{name: "up", members: []*fakeMember{up, up, up, up}}, down},
			Routes: []config.Route{
				{Path: "/v1/models", Exact: true, ListModels: true},
				{Path: "/v1", Models: []string{"a", "b"}, Aliases: map[string]string{"b": "a"}, Pool: "up"},
				{Path: "/v1", Models: []string{"p"}, Pool: "p"},
				{Host: "other.test", Pool: "up"},
			},
		})
		get := func(key string) string {
			sink := &fakeSink{}
			x := newExchange(sink)
			if key != "" {
				x.Request.Fields = http1.Fields{{Name: "authorization", Value: key}}
			}
			x.Request.Target = "/v1/models?x"
			b.Serve(t.Context(), x)
			return fmt.Sprint(sink.head.Status, " ", string(sink.body))
		}
		const want = `200 {"object":"list","data":[{"id":"b","object":"model"},{"id":"a","object":"model"}]}`
		began := time.Now()
		for range 3 {
			if got := get(""); got != want {
				t.Errorf("got %s", got)
			}
		}
		if asked != 1 || time.Since(began) != listPatience {
			t.Errorf("asked %d times, in %s", asked, time.Since(began))
		}
		get("Bearer other")
		if asked != 2 || keys[1] != "Bearer other" {
			t.Errorf("asked %d times, with %v", asked, keys)
		}
		time.Sleep(listTime)
		get("")
		if asked != 3 {
			t.Errorf("asked %d times", asked)
		}
		// All are down.
		time.Sleep(2 * listTime)
		up.do = fails(upstream.Failure{Op: upstream.OpDial, Err: syscall.ECONNREFUSED})
		if got := get(""); !strings.HasPrefix(got, "503 ") {
			t.Errorf("got %s", got)
		}
	})
}

// BenchmarkReadAhead is what looking for the model adds to a request.
func BenchmarkReadAhead(b *testing.B) {
	for _, size := range []int{100, 10 << 10, 1 << 20} {
		for _, looked := range []bool{false, true} {
			b.Run(fmt.Sprintf("%d bytes/by model %v", size, looked), func(b *testing.B) {
				text := `{"p":"` + strings.Repeat(`say \"hi\" `, size/11) + `","model":"m"}`
				drop := &fakeMember{do: func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
					_, _ = io.Copy(io.Discard, x.Body)
					return answers(ctx, x, sink)
				}}
				o := byModelRoutes(funcPool{func(context.Context, *Want) (Lease, error) { return drop, nil }})
				o.MaxAhead = 2 << 20
				if !looked {
					o.Routes = []config.Route{{Path: "/v1", Pool: "p", Rewrite: "/v2"}}
				}
				s := newBalancer(b, o)
				body := strings.NewReader("")
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					body.Reset(text)
					x := post(struct{ io.Reader }{body}, int64(len(text)), &fakeSink{})
					if s.Serve(b.Context(), x); x.Record.Status != 200 {
						b.Fatalf("%+v", x.Record)
					}
				}
			})
		}
	}
}
