package balancer

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"stoker/balancer/continuation"
	"stoker/balancer/tokens"
	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

func TestTokensAreCounted(t *testing.T) {
	const usage = `"usage":{"prompt_tokens":10,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4}}`
	stream := []string{`data: {"model":"engine's","choices":[{}]}` + "\n\n", `data: {"choices":[{}]}` + "\n\ndata: {\"choices\":[]," + usage + "}\n\n", "data: [DONE]\n\n"}
	for _, tc := range []struct {
		name   string
		fields http1.Fields
		status int
		pieces []string
		counts bool
		model  string // none is counted where it is empty
	}{
		{"a stream", http1.Fields{{Name: "Content-Type", Value: "text/event-stream; charset=utf-8"}}, 200, stream, true, "alias"},
		{"a document", http1.Fields{{Name: "content-type", Value: "application/json"}}, 200, []string{`{"model":"x",`, usage + `}`}, true, "alias"},
		{"an error", http1.Fields{{Name: "Content-Type", Value: "application/json"}}, 429, []string{`{` + usage + `}`}, true, ""},
		{"a compressed one", http1.Fields{{Name: "Content-Type", Value: "application/json"}, {Name: "Content-Encoding", Value: "gzip"}}, 200, []string{`{` + usage + `}`}, true, ""},
		{"a text", http1.Fields{{Name: "Content-Type", Value: "text/plain"}}, 200, []string{`{` + usage + `}`}, true, ""},
		{"not wanted", http1.Fields{{Name: "Content-Type", Value: "application/json"}}, 200, []string{`{` + usage + `}`}, false, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			says := func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
				_ = sink.Head(&http1.Response{Status: tc.status, Fields: tc.fields}, -1)
				for _, piece := range tc.pieces {
					_, _ = sink.Write([]byte(piece))
				}
				return sink.End(nil)
			}
			o := byModelRoutes(&fakePool{name: "p", members: []*fakeMember{{do: says}}})
			o.Tokens = tokens.NewMetrics(nil)
			o.Tokens.Configure([]string{"m", "alias"})
			rules := DefaultRules()
			rules.CountTokens = tc.counts
			o.Rules = map[string]Rules{"p": rules}
			o.Routes = append(o.Routes, config.Route{Pool: "p"})
			text := `{"model":"alias"}`
			sink := &fakeSink{}
			newBalancer(t, o).Serve(t.Context(), post(strings.NewReader(text), int64(len(text)), sink))
			if string(sink.body) != strings.Join(tc.pieces, "") {
				t.Errorf("the client got %q", sink.body)
			}
			s := o.Tokens.Summaries()
			if tc.model == "" && len(s) == 0 {
				return
			}
			if len(s) != 1 || s[0].Pool != "p" || s[0].Model != tc.model || s[0].PromptTokens != 10 || s[0].CompletionTokens != 2 || *s[0].CachedShare != .4 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestMovesAreCounted: by the model that its answer names, or its request where
// nothing is counted.
func TestMovesAreCounted(t *testing.T) {
	half := words("first", answer...)[:600]
	for name, tc := range map[string]struct {
		counts  bool
		scripts []script
		want    tokens.Summary
		metrics string
	}{
		"moved": {
			true,
			[]script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", answer...)}},
			tokens.Summary{Model: "m", Migrated: 1, ReplayedTokens: 3},
			`stoker_streams_migrated_total{mode="replay",model="m",pool="p",reason="broke"} 1`,
		},
		"moved, in a pool that is not counted": {
			false,
			[]script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", answer...)}},
			tokens.Summary{Model: "m", Migrated: 1, ReplayedTokens: 3},
			`stoker_replayed_tokens_total{model="m",pool="p"} 3`,
		},
		"moved, and broken": {
			true,
			[]script{{text: half, end: io.ErrUnexpectedEOF}, {text: words("other", "Ein", " anderer")}},
			tokens.Summary{Model: "m", Migrated: 1, MigrationsFailed: 1, ReplayedTokens: 2},
			`stoker_stream_migrations_failed_total{model="m",pool="p",reason="diverged"} 1`,
		},
		"not moved": {true, []script{{text: words("first", answer...)}}, tokens.Summary{Model: "m"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p := &fakePool{name: "p", err: upstream.ErrNoneReady}
			for _, s := range tc.scripts {
				p.members = append(p.members, s.member("w", nil))
			}
			rules := DefaultRules()
			rules.CountTokens = tc.counts
			rules.Migration = Migration{Mode: continuation.Replay, Limit: 3, Stream: 1 << 20, Memory: 1 << 24}
			counts := tokens.NewMetrics(nil)
			counts.Configure([]string{"m"})
			b := newBalancer(t, Options{Pools: []Pool{p}, Rules: map[string]Rules{"p": rules}, Tokens: counts})
			x := newExchange(&fakeSink{})
			x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", strings.NewReader(streamBody), int64(len(streamBody))
			b.Serve(t.Context(), x)
			s := counts.Summaries()
			if len(s) != 1 || s[0].Model != tc.want.Model || s[0].Migrated != tc.want.Migrated || s[0].MigrationsFailed != tc.want.MigrationsFailed || s[0].ReplayedTokens != tc.want.ReplayedTokens {
				t.Errorf("%+v", s)
			}
			registry := prometheus.NewRegistry()
			NewMetrics(registry).Observe(x)
			page := httptest.NewRecorder()
			promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(page, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
			if text := page.Body.String(); !strings.Contains(text, tc.metrics) || tc.metrics == "" && strings.Contains(text, "migrat") {
				t.Errorf("%s", text)
			}
		})
	}
}
