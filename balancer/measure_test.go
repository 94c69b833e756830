package balancer

import (
	"context"
	"strings"
	"testing"

	"stoker/balancer/tokens"
	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
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
