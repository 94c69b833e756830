package balancer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// TestEnginesAreNotAskedToCompress what is to be read, see attempt.prepare.
func TestEnginesAreNotAskedToCompress(t *testing.T) {
	for _, tc := range []struct {
		method, target, want string
	}{
		{http.MethodPost, "/v1/chat/completions", ""},
		{http.MethodPost, "/v1/completions?a=b", ""},
		{http.MethodPost, "/v1/embeddings", "gzip"},
		{http.MethodGet, "/v1/completions", "gzip"},
	} {
		got := "none"
		m := &fakeMember{name: "w", do: func(_ context.Context, x *exchange.Exchange, sink exchange.Sink) error {
			got = x.Request.Fields.Get("Accept-Encoding")
			if err := sink.Head(&http1.Response{Status: http.StatusOK}, 0); err != nil {
				return err
			}
			return sink.End(nil)
		}}
		b := newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{m}, err: upstream.ErrNoneReady}}})
		x := newExchange(&fakeSink{})
		x.Request.Method, x.Request.Target = tc.method, tc.target
		x.Request.Fields = append(x.Request.Fields, http1.Field{Name: "accept-encoding", Value: "gzip"})
		b.Serve(t.Context(), x)
		if got != tc.want || x.Record.Outcome != exchange.OutcomeOK {
			t.Errorf("%s %s: the engine is asked for %q, want %q; %s", tc.method, tc.target, got, tc.want, x.Record.Outcome)
		}
	}
}

// TestCleanEnds: an engine's clean end is passed on as one where its answer is
// whole, as far as that can be known, whether streams may move or not.
func TestCleanEnds(t *testing.T) {
	whole := words("first", answer...)
	cut := whole[:strings.Index(whole, "Kohle")]
	cut = cut[:strings.LastIndex(cut, "\n\n")+2]
	const foreign = "data: one\n\ndata: two\n\ndata: thr"
	events := http1.Fields{{Name: "Content-Type", Value: "text/event-stream; charset=utf-8"}}
	for _, tc := range []struct {
		name, target, text string
		method             string
		fields             http1.Fields
		status             int
		length             int64
		breaks             bool
	}{
		{name: "whole", text: whole},
		{name: "cut", text: cut, breaks: true},
		{name: "cut, of completions", target: "/v1/completions?x=y", text: strings.ReplaceAll(cut, `"delta":{"content":`, `"x":{"y":`), breaks: true},
		{name: "cut, elsewhere", target: "/openai/deployments/a/chat/completions", text: cut, breaks: true},
		{name: "cut within an event", text: cut + "data: {", breaks: true},
		{name: "nothing", breaks: true},
		{name: "no [DONE]", text: strings.TrimSuffix(whole, "data: [DONE]\n\n")},
		{name: "its length was said", text: cut, length: int64(len(cut))},
		{name: "another path", target: "/v1/responses", text: cut},
		{name: "no POST", text: cut, method: http.MethodGet},
		{name: "an error's status", text: cut, status: 500},
		{name: "no events", text: cut, fields: http1.Fields{{Name: "Content-Type", Value: "text/plain"}}},
		{name: "another form", text: foreign},
		{name: "another form, and [DONE]", text: "data: one\n\ndata: [DONE]\n\n"},
		{name: "llama-server's own", target: "/completions", text: "data: {\"content\":\"a\",\"stop\":false}\n\ndata: {\"content\":\"\",\"stop\":true}\n\n"},
	} {
		for name, migration := range map[string]Migration{
			"off":       {},
			"replay":    {Mode: continuation.Replay, Limit: 0, Stream: 1 << 20, Memory: 1 << 24},
			"too large": {Mode: continuation.Replay, Limit: 0, Stream: 16, Memory: 1 << 24},
		} {
			if name == "replay" && tc.name == "no [DONE]" {
				continue // it is added there
			}
			t.Run(tc.name+", "+name, func(t *testing.T) {
				fields, status, length, target, method := tc.fields, tc.status, tc.length, tc.target, tc.method
				if fields == nil {
					fields = events
				}
				if status == 0 {
					status = 200
				}
				if length == 0 {
					length = -1
				}
				if target == "" {
					target = "/v1/chat/completions"
				}
				if method == "" {
					method = http.MethodPost
				}
				m := &fakeMember{name: "w", do: func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
					if err := sink.Head(&http1.Response{Status: status, Fields: fields}, length); err != nil {
						return err
					}
					for rest := tc.text; rest != ""; {
						n := min(100, len(rest))
						if _, err := sink.Write([]byte(rest[:n])); err != nil {
							return err
						}
						rest = rest[n:]
					}
					if err := sink.End(nil); err != nil { // as transports say it
						return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
					}
					return nil
				}}
				rules := DefaultRules()
				rules.Migration = migration
				b := newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{m, m}, err: upstream.ErrNoneReady}}, Rules: map[string]Rules{"p": rules}})
				for range 2 { // of which the second has the first one's memory
					sink := &fakeSink{}
					x := newExchange(sink)
					x.Request.Method, x.Request.Target, x.Body, x.Length = method, target, strings.NewReader(streamBody), int64(len(streamBody))
					b.Serve(t.Context(), x)
					if broke := sink.broken != nil; broke != tc.breaks || sink.ended == broke || broke != (x.Record.Outcome == exchange.OutcomeUpstreamBroke) || broke && !errors.Is(x.Record.Err, continuation.ErrEnded) {
						t.Errorf("ended %t, broken %v, %s", sink.ended, sink.broken, x.Record.Outcome)
					}
					if got := string(sink.body); !strings.HasPrefix(got, tc.text) && (name != "replay" || !strings.HasPrefix(tc.text, got[:strings.LastIndex(got, "data: {\"error\"")])) {
						t.Errorf("the client has had %q", got)
					}
				}
			})
		}
	}
}
