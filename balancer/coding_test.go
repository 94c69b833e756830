package balancer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// packed is a stream as an engine compresses it, flushed after every event, and how
// long it is without what a gzip ends with.
func packed(stream string) (whole []byte, flushed int) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	for event := range strings.SplitAfterSeq(stream, "\n\n") {
		_, _ = z.Write([]byte(event))
		_ = z.Flush()
	}
	flushed = b.Len()
	_ = z.Close()
	return b.Bytes(), flushed
}

// TestCompressedStreams: what an engine has compressed unasked is looked into as any
// other stream, or refused.
func TestCompressedStreams(t *testing.T) {
	plain := words("first", answer...)
	cut := plain[:strings.Index(plain, "Kohle")]
	cut = cut[:strings.LastIndex(cut, "\n\n")+2]
	all, flushed := packed(plain)
	part, _ := packed(cut)
	damaged := bytes.Clone(part)
	damaged[len(damaged)-7]++
	for _, tc := range []struct {
		name, coding, target string
		sent                 []byte
		says                 string // what the client has of it
		status               int
		outcome              exchange.Outcome
		why                  error
	}{
		{name: "whole", coding: "gzip", sent: all, says: plain, status: 200, outcome: exchange.OutcomeOK},
		{name: "in two", coding: "X-GZIP", sent: append(bytes.Clone(part), packedRest(plain, cut)...), says: plain, status: 200, outcome: exchange.OutcomeOK},
		{name: "whole, but the gzip's end", coding: "gzip", sent: all[:flushed], says: plain, status: 200, outcome: exchange.OutcomeOK},
		{name: "ended politely", coding: "gzip", sent: part, says: cut, status: 200, outcome: exchange.OutcomeUpstreamBroke, why: continuation.ErrEnded},
		{name: "damaged", coding: "gzip", sent: damaged, says: cut, status: 200, outcome: exchange.OutcomeUpstreamBroke, why: gzip.ErrChecksum},
		{name: "none", coding: "gzip", sent: []byte(plain), status: 200, outcome: exchange.OutcomeUpstreamBroke, why: gzip.ErrHeader},
		{name: "nothing", coding: "gzip", status: 200, outcome: exchange.OutcomeUpstreamBroke, why: continuation.ErrEnded},
		{name: "brotli", coding: "br", sent: []byte("?"), status: 502, outcome: exchange.OutcomeUpstreamError, why: errCoding},
		{name: "twice", coding: "gzip, gzip", sent: []byte("?"), status: 502, outcome: exchange.OutcomeUpstreamError, why: errCoding},
		{name: "elsewhere", coding: "br", target: "/v1/responses", sent: []byte("?"), says: "?", status: 200, outcome: exchange.OutcomeOK},
	} {
		for name, migration := range map[string]Migration{
			"off":       {},
			"replay":    {Mode: continuation.Replay, Stream: 1 << 20, Memory: 1 << 24},
			"too large": {Mode: continuation.Replay, Stream: 16, Memory: 1 << 24},
		} {
			for _, size := range []int{1, 7, 1 << 20} {
				m := &fakeMember{name: "w", do: func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
					return playCoded(sink, tc.coding, tc.sent, size)
				}}
				rules := DefaultRules()
				rules.Migration = migration
				b := newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{m, m}, err: upstream.ErrNoneReady}}, Rules: map[string]Rules{"p": rules}})
				sink := &fakeSink{}
				x := newExchange(sink)
				target := tc.target
				if target == "" {
					target = "/v1/chat/completions"
				}
				x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, target, strings.NewReader(streamBody), int64(len(streamBody))
				b.Serve(t.Context(), x)
				got, _, _ := strings.Cut(string(sink.body), "data: {\"error\":") // for the client of a stream that could move
				whole := tc.outcome == exchange.OutcomeOK
				if x.Record.Outcome != tc.outcome || x.Record.Status != tc.status || !errors.Is(x.Record.Err, tc.why) || tc.status == 200 && got != tc.says || tc.status == 200 && sink.ended != whole {
					t.Errorf("%s, %s, by %d: %s %d, ended %t, %v\n%q", tc.name, name, size, x.Record.Outcome, x.Record.Status, sink.ended, x.Record.Err, got)
				}
				if coding := sink.head.Fields.Get("Content-Encoding"); tc.target == "" && coding != "" {
					t.Errorf("%s, %s: the client is told that it is %s", tc.name, name, coding)
				}
				if tc.status == 502 && m.failed > 0 {
					t.Errorf("%s, %s: the worker is blamed", tc.name, name)
				}
			}
		}
	}
}

func packedRest(plain, cut string) []byte {
	rest, _ := packed(strings.TrimPrefix(plain, cut))
	return rest
}

// playCoded is an engine's answer, in pieces.
func playCoded(sink exchange.Sink, coding string, sent []byte, size int) error {
	lost := func(err error) error {
		return &upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err}
	}
	fields := http1.Fields{{Name: "Content-Type", Value: "text/event-stream"}, {Name: "Content-Encoding", Value: coding}}
	if err := sink.Head(&http1.Response{Status: 200, Fields: fields}, -1); err != nil {
		return lost(err)
	}
	for piece := range slices.Chunk(sent, size) {
		if _, err := sink.Write(piece); err != nil {
			return lost(err)
		}
		if err := sink.Flush(); err != nil {
			return lost(err)
		}
	}
	if err := sink.End(nil); err != nil {
		return lost(err)
	}
	return nil
}

// TestCompressedStreamMoves: one that breaks off goes on at a worker that does not compress.
func TestCompressedStreamMoves(t *testing.T) {
	plain := words("first", answer...)
	_, flushed := packed(plain[:strings.Index(plain, "Kohle")])
	all, _ := packed(plain)
	first := &fakeMember{name: "w0", do: func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
		return playCoded(sink, "gzip", all[:flushed-20], 100)
	}}
	second := script{text: words("other", answer...)}.member("w1", nil)
	rules := DefaultRules()
	rules.Migration = Migration{Mode: continuation.Replay, Limit: 3, Stream: 1 << 20, Memory: 1 << 24}
	b := newBalancer(t, Options{Pools: []Pool{&fakePool{name: "p", members: []*fakeMember{first, second}, err: upstream.ErrNoneReady}}, Rules: map[string]Rules{"p": rules}})
	sink := &fakeSink{}
	x := newExchange(sink)
	x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", strings.NewReader(streamBody), int64(len(streamBody))
	b.Serve(t.Context(), x)
	if got := readStream(t, sink.body); got.text != strings.Join(answer, "") || x.Record.Outcome != exchange.OutcomeOK || len(x.Record.Moves) != 1 {
		t.Errorf("%+v, %+v", got, x.Record)
	}
}
