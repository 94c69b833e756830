package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/sse"
	"stoker/upstream"
)

// script is what an engine sends as a stream: all of it, up to a byte, or so.
type script struct {
	text string
	// size of the pieces in which it comes; 0: at once.
	size int
	end  error // nil: it ends cleanly
	// silent: it stays so until the request is cut.
	silent bool
	status int // of an answer that is no stream
}

// member plays a script.
func (s script) member(name string, bodies *[]string) *fakeMember {
	return &fakeMember{name: name, do: func(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
		body, err := io.ReadAll(x.Body)
		if err != nil || int64(len(body)) != x.Length {
			return &upstream.Failure{Op: upstream.OpClientBody, Err: errors.Join(err, io.ErrUnexpectedEOF)}
		}
		if bodies != nil {
			*bodies = append(*bodies, string(body))
		}
		if s.status != 0 {
			if err := sink.Head(&http1.Response{Status: s.status}, 0); err != nil {
				return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
			}
			return sink.End(nil)
		}
		if err := sink.Head(&http1.Response{Status: 200, Fields: http1.Fields{{Name: "Content-Type", Value: "text/event-stream; charset=utf-8"}}}, -1); err != nil {
			return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
		}
		for text := s.text; text != ""; {
			n := len(text)
			if s.size > 0 {
				n = min(n, s.size)
			}
			if _, err := sink.Write([]byte(text[:n])); err != nil {
				return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
			}
			if err := sink.Flush(); err != nil {
				return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
			}
			text = text[n:]
		}
		if s.silent {
			<-ctx.Done()
			return &upstream.Failure{Op: upstream.OpCanceled, Sent: true, Begun: true, Err: context.Cause(ctx)}
		}
		if s.end != nil {
			return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: s.end}
		}
		if err := sink.End(nil); err != nil {
			return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
		}
		return nil
	}}
}

// words are a stream of chat, as engines send it: every worker calls it something else.
func words(id string, words ...string) string {
	var b strings.Builder
	event := func(choices string) {
		fmt.Fprintf(&b, "data: {\"id\":%q,\"object\":\"chat.completion.chunk\",\"created\":%d,\"model\":\"m\",\"choices\":[%s]}\n\n", id, len(id), choices)
	}
	event(`{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}`)
	for _, w := range words {
		quoted, _ := json.Marshal(w)
		event(`{"index":0,"delta":{"content":` + string(quoted) + `},"finish_reason":null}`)
	}
	event(`{"index":0,"delta":{},"finish_reason":"stop"}`)
	b.WriteString("data: [DONE]\n\n")
	return b.String()
}

// told is what a client makes of a stream.
type told struct {
	text, finish, id   string
	roles, done, kinds int
	err                string
}

func readStream(t *testing.T, stream []byte) told {
	t.Helper()
	var got told
	ids := map[string]bool{}
	var s sse.Scanner
	s.Feed(stream, func(e sse.Event) {
		if string(e.Data) == "[DONE]" {
			got.done++
			return
		}
		var c struct {
			ID      string
			Created int
			Choices []struct {
				Delta  *struct{ Role, Content string }
				Finish string `json:"finish_reason"`
			}
			Error *struct{ Message, Type, Code string }
		}
		if err := json.Unmarshal(e.Data, &c); err != nil {
			t.Fatalf("%q: %v", e.Data, err)
		}
		if c.Error != nil {
			got.err = c.Error.Code
			return
		}
		got.id = c.ID
		ids[fmt.Sprint(c.ID, c.Created)] = true
		for _, c := range c.Choices {
			got.text += c.Delta.Content
			got.finish += c.Finish
			if c.Delta.Role != "" {
				got.roles++
			}
		}
	})
	got.kinds = len(ids)
	return got
}

const streamBody = `{"model":"m","stream":true,"temperature":0,"messages":[{"role":"user","content":"hi"}]}`

// serveStream sends a request through a balancer whose workers play scripts in turn.
func serveStream(t *testing.T, body string, change func(*Migration), scripts ...script) (*exchange.Exchange, *fakeSink, []string) {
	t.Helper()
	var bodies []string
	p := &fakePool{name: "p", err: upstream.ErrNoneReady}
	for i, s := range scripts {
		p.members = append(p.members, s.member(fmt.Sprint("w", i), &bodies))
	}
	rules := DefaultRules()
	rules.Migration = Migration{Mode: continuation.Replay, Limit: 3, Stream: 1 << 20, Memory: 1 << 24}
	if change != nil {
		change(&rules.Migration)
	}
	b := newBalancer(t, Options{Pools: []Pool{p}, Rules: map[string]Rules{"p": rules}})
	sink := &fakeSink{}
	x := newExchange(sink)
	before := io.Reader(strings.NewReader(body))
	x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", before, int64(len(body))
	b.Serve(context.Background(), x)
	if x.Body != before || x.Length != int64(len(body)) {
		t.Error("the exchange is not left as it was")
	}
	if left := b.table.Load().routes[0].to.one.budget; left != nil && left.Left() != rules.Migration.Memory {
		t.Errorf("%d bytes are not given back", rules.Migration.Memory-left.Left())
	}
	return x, sink, bodies
}

var answer = []string{"Ein", " Heizer", " heizt", " – mit", " „Kohle“", " in\nŁódź", " 火", "."}

// TestStreamCutAnywhere cuts a stream after every byte, in pieces of every kind.
func TestStreamCutAnywhere(t *testing.T) {
	whole := words("first", answer...)
	for cut := 0; cut <= len(whole); cut++ {
		for _, end := range []error{nil, io.ErrUnexpectedEOF} {
			x, sink, _ := serveStream(t, streamBody, nil,
				script{text: whole[:cut], size: 1 + cut%37, end: end},
				script{text: words("another", answer...), size: 1 + cut%11})
			got := readStream(t, sink.body)
			want := told{text: strings.Join(answer, ""), finish: "stop", id: "first", roles: 1, done: 1, kinds: 1}
			if !strings.Contains(whole[:cut], "\n\n") {
				want.id = "another"
			}
			if got != want || !sink.ended || sink.broken != nil || x.Record.Outcome != exchange.OutcomeOK {
				t.Fatalf("cut after %d bytes, %v: %+v, ended %t, broken %v, %+v\n%s", cut, end, got, sink.ended, sink.broken, x.Record, sink.body)
			}
		}
	}
}

func TestStreamMoves(t *testing.T) {
	half := words("first", answer...)[:600]
	other := words("other", "Ein", " anderer", ".")
	for _, tc := range []struct {
		name    string
		body    string
		change  func(*Migration)
		scripts []script
		outcome exchange.Outcome
		moves   string
		not     string
		err     string
	}{
		{name: "whole", scripts: []script{{text: words("first", answer...)}}, outcome: exchange.OutcomeOK},
		{name: "off", change: func(m *Migration) { m.Mode = "" }, scripts: []script{{text: half, end: io.ErrUnexpectedEOF}}, outcome: exchange.OutcomeUpstreamBroke},
		{name: "twice", scripts: []script{
			{text: half, end: io.ErrUnexpectedEOF},
			{text: words("second", answer...)[:300], end: io.ErrUnexpectedEOF},
			{text: words("third", answer...)},
		}, outcome: exchange.OutcomeOK, moves: "replay/broke replay/broke"},
		{name: "too often", change: func(m *Migration) { m.Limit = 1 }, scripts: []script{
			{text: half, end: io.ErrUnexpectedEOF}, {text: half, end: io.ErrUnexpectedEOF}, {text: words("third", answer...)},
		}, outcome: exchange.OutcomeUpstreamBroke, moves: "replay/broke", not: "limit", err: "stream_broken"},
		{
			name: "another answer", scripts: []script{{text: half, end: io.ErrUnexpectedEOF}, {text: other}},
			outcome: exchange.OutcomeUpstreamBroke, moves: "replay/broke", not: "diverged", err: "stream_broken",
		},
		{
			name: "a shorter answer", scripts: []script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", answer[:1]...)}},
			outcome: exchange.OutcomeUpstreamBroke, moves: "replay/broke", not: "diverged", err: "stream_broken",
		},
		{
			name: "random", body: strings.Replace(streamBody, `"temperature":0`, `"temperature":0.8`, 1),
			scripts: []script{{text: half, end: io.ErrUnexpectedEOF}}, outcome: exchange.OutcomeUpstreamBroke, not: "not_repeatable", err: "stream_broken",
		},
		{
			name: "random, and nothing sent", body: strings.Replace(streamBody, `"temperature":0`, `"temperature":0.8`, 1),
			scripts: []script{{text: words("first", answer...)[:200], end: io.ErrUnexpectedEOF}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/broke",
		},
		{
			name: "seeded", body: strings.Replace(streamBody, `"temperature":0`, `"seed":7`, 1),
			scripts: []script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", answer...)}}, outcome: exchange.OutcomeOK, moves: "replay/broke",
		},
		{
			name: "seeded by us", body: strings.Replace(streamBody, `"temperature":0,`, ``, 1), change: func(m *Migration) { m.Seed = true },
			scripts: []script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", answer...)}}, outcome: exchange.OutcomeOK, moves: "replay/broke",
		},
		{
			name: "clean end", scripts: []script{{text: half[:strings.LastIndex(half, "\n\n")+2]}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/ended",
		},
		{
			name: "error event", scripts: []script{{text: half[:strings.LastIndex(half, "\n\n")+2] + "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\ndata: [DONE]\n\n"}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/error",
		},
		{
			name: "error of an old llama-server", scripts: []script{{text: half[:strings.LastIndex(half, "\n\n")+2] + "error: {\"message\":\"x\",\"code\":500}\n\n"}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/error",
		},
		{
			name: "the request's own fault", scripts: []script{{text: half[:strings.LastIndex(half, "\n\n")+2] + "data: {\"error\":{\"message\":\"context\",\"type\":\"invalid_request_error\",\"code\":\"own\"}}\n\n"}},
			outcome: exchange.OutcomeOK, err: "own",
		},
		{
			name: "refused elsewhere", scripts: []script{{text: half, end: io.ErrUnexpectedEOF}, {status: 503}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/broke replay/refused",
		},
		{
			name: "nobody left", scripts: []script{{text: half, end: io.ErrUnexpectedEOF}},
			outcome: exchange.OutcomeUnavailable, moves: "replay/broke", not: continuation.GivenUpNoWorker, err: "stream_broken",
		},
		{
			name: "too large, with what only we have asked for", body: strings.Replace(streamBody, `"temperature":0`, `"stream_options":{"include_usage":true}`, 1),
			change: func(m *Migration) {
				m.Mode, m.Stream = continuation.Continue, 256
				m.Engine, _ = continuation.ProfileOf("vllm")
			},
			scripts: []script{{text: words("first", strings.Repeat("x", 1000)), size: 10}},
			outcome: exchange.OutcomeUpstreamBroke, not: continuation.GivenUpTooLarge, err: "stream_broken",
		},
		{
			name: "too large", change: func(m *Migration) { m.Stream = 16 }, scripts: []script{{text: words("first", strings.Repeat("x", 100), "y")[:500], size: 10, end: io.ErrUnexpectedEOF}},
			outcome: exchange.OutcomeUpstreamBroke,
		},
		{
			name: "no memory", change: func(m *Migration) { m.Memory = 50 }, scripts: []script{{text: half, end: io.ErrUnexpectedEOF}},
			outcome: exchange.OutcomeUpstreamBroke,
		},
		{
			name: "no end but [DONE]", scripts: []script{{text: half[:strings.LastIndex(half, "\n\n")+2] + "data: [DONE]\n\n"}, {text: words("other", answer...)}},
			outcome: exchange.OutcomeOK, moves: "replay/ended",
		},
		{
			name: "broke after its end", scripts: []script{{text: strings.TrimSuffix(words("first", answer...), "data: [DONE]\n\n"), end: io.ErrUnexpectedEOF}},
			outcome: exchange.OutcomeOK, moves: "tail/broke",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			body := tc.body
			if body == "" {
				body = streamBody
			}
			x, sink, bodies := serveStream(t, body, tc.change, tc.scripts...)
			var moves []string
			for _, m := range x.Record.Moves {
				moves = append(moves, m.Mode+"/"+m.Reason)
			}
			if x.Record.Outcome != tc.outcome || strings.Join(moves, " ") != tc.moves || x.Record.NotMoved != tc.not {
				t.Errorf("%s, %v, not moved: %q (%v)", x.Record.Outcome, moves, x.Record.NotMoved, x.Record.Err)
			}
			got := readStream(t, sink.body)
			if got.err != tc.err {
				t.Errorf("the client is told %q", got.err)
			}
			if ok := tc.outcome == exchange.OutcomeOK; ok != sink.ended || ok == (sink.broken != nil) || ok && got.done != 1 && tc.err == "" || !ok && got.done != 0 {
				t.Errorf("ended %t, broken %v, %+v", sink.ended, sink.broken, got)
			}
			if tc.outcome == exchange.OutcomeOK && tc.err == "" && (got.text != strings.Join(answer, "") || got.roles != 1 || got.kinds != 1 || got.finish != "stop") {
				t.Errorf("%+v", got)
			}
			for i, b := range bodies {
				if b != bodies[0] {
					t.Errorf("worker %d was sent %s, and the first %s", i, b, bodies[0])
				}
			}
		})
	}
}

// TestStreamStalls: pings are no tokens.
func TestStreamStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		half := words("first", answer...)[:600]
		x, sink, _ := serveStream(t, streamBody, func(m *Migration) { m.Stall = 4 * time.Second },
			script{text: half[:strings.LastIndex(half, "\n\n")+2] + ": ping\n\n", silent: true}, script{text: words("other", answer...)})
		if got := readStream(t, sink.body); got.text != strings.Join(answer, "") || x.Record.Outcome != exchange.OutcomeOK || x.Record.Moves[0].Reason != "stalled" {
			t.Errorf("%+v, %+v", got, x.Record)
		}
		if took := time.Since(began); took < 4*time.Second || took > 5*time.Second {
			t.Errorf("a stall was seen after %v", took)
		}
	})
}

// nowhere is a client that takes everything.
type nowhere struct{ fakeSink }

func (*nowhere) Write(p []byte) (int, error) { return len(p), nil }

// BenchmarkStreamSink is what a token costs between the transport and the front,
// in a pool that lets streams move and in one that does not. A chunk's whole way
// costs some 16 µs, mostly in the kernel.
func BenchmarkStreamSink(b *testing.B) {
	event := []byte(`data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],"created":1795946969,"id":"chatcmpl-EbyuHQyBApk2RdoJFPYl4snk1Eex2Bkl","model":"/opt/tiny/tiny.gguf","system_fingerprint":"b11669-Debian","object":"chat.completion.chunk"}` + "\n\n")
	for _, mode := range []string{"", continuation.Replay} {
		b.Run("migrate="+mode, func(b *testing.B) {
			rules := DefaultRules()
			rules.Migration = Migration{Mode: mode, Limit: 3, Stream: 1 << 20, Memory: 1 << 24, Stall: time.Minute}
			b.ReportAllocs()
			m := &fakeMember{name: "w", do: func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
				_ = sink.Head(&http1.Response{Status: 200, Fields: http1.Fields{{Name: "Content-Type", Value: "text/event-stream"}}}, -1)
				for b.Loop() {
					_, _ = sink.Write(event)
					_ = sink.Flush()
				}
				return nil
			}}
			bal := newBalancer(b, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{m}}}, Rules: map[string]Rules{"p": rules}})
			x := newExchange(&nowhere{})
			x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", strings.NewReader(streamBody), int64(len(streamBody))
			bal.Serve(context.Background(), x)
		})
	}
}

// leaving is a lease whose worker is being drained once the client has had
// something.
type leaving struct {
	Lease

	leave chan func() bool
}

func (l leaving) OnMove(leave func() bool) (forget func()) {
	l.leave <- leave
	return func() {}
}

// leavingPool hands out such leases.
type leavingPool struct {
	*fakePool

	leave chan func() bool
}

func (p leavingPool) Acquire(ctx context.Context, want *Want) (Lease, error) {
	l, err := p.fakePool.Acquire(ctx, want)
	if err != nil {
		return nil, err
	}
	return leaving{l, p.leave}, nil
}

// TestStreamLeavesDrainedWorker: a stream that can be repeated leaves at once, and
// one that cannot stays.
func TestStreamLeavesDrainedWorker(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		leaves     bool
	}{
		{"repeatable", streamBody, true},
		{"random", strings.Replace(streamBody, `"temperature":0`, `"temperature":1`, 1), false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				half := words("first", answer...)[:900]
				first := script{text: half[:strings.LastIndex(half, "\n\n")+2], silent: true}
				p := leavingPool{&fakePool{name: "p", err: upstream.ErrNoneReady}, make(chan func() bool, 2)}
				p.members = []*fakeMember{first.member("w0", nil), script{text: words("other", answer...)}.member("w1", nil)}
				rules := DefaultRules()
				rules.Migration = Migration{Mode: continuation.Replay, Limit: 3, Stream: 1 << 20, Memory: 1 << 24}
				b := newBalancer(t, Options{Pools: []Pool{p}, Rules: map[string]Rules{"p": rules}})
				sink := &fakeSink{}
				x := newExchange(sink)
				x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", strings.NewReader(tc.body), int64(len(tc.body))
				ctx, cancel := context.WithCancelCause(context.Background())
				done := make(chan struct{})
				go func() {
					b.Serve(ctx, x)
					close(done)
				}()
				synctest.Wait()
				if got := (<-p.leave)(); got != tc.leaves {
					t.Errorf("leaves: %t", got)
				}
				if !tc.leaves {
					cancel(exchange.ErrClientGone)
				}
				<-done
				cancel(nil)
				if tc.leaves && (x.Record.Outcome != exchange.OutcomeOK || x.Record.Moves[0].Reason != "drained" || readStream(t, sink.body).text != strings.Join(answer, "")) {
					t.Errorf("%+v\n%s", x.Record, sink.body)
				}
				if !tc.leaves && x.Record.Outcome != exchange.OutcomeClientGone {
					t.Errorf("%+v", x.Record)
				}
			})
		})
	}
}
