package balancer

import (
	"context"
	"strings"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// weighing is a member that is charged for prompts.
type weighing struct {
	fakeMember
	relieved []int
	atBody   int // how often it was relieved when its answer's body had begun
}

func (m *weighing) Relieve(tokens int) { m.relieved = append(m.relieved, tokens) }

func TestPromptsWeighUntilTheAnswerBegins(t *testing.T) {
	body := strings.Repeat("x", 4000)
	for _, tc := range []struct {
		name         string
		kind         string
		length       int64
		fails        bool
		tokens       int
		relieved     int
		relievedBody int
	}{
		{"an answer", "application/json", 4000, false, 1000, 1, 1},
		{"no answer", "application/json", 4000, true, 1000, 1, 0},
		{"of unknown length", "application/json", -1, false, 0, 0, 0},
		{"no text", "image/png", 4000, false, 0, 0, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := &weighing{}
			m.do = func(_ context.Context, _ *exchange.Exchange, sink exchange.Sink) error {
				if tc.fails {
					return &upstream.Failure{Op: upstream.OpRead, Sent: true}
				}
				_ = sink.Head(&http1.Response{Status: 200}, 2)
				if len(m.relieved) != 0 {
					t.Error("the head says nothing of the prompt: some engines send it before they read it")
				}
				_, _ = sink.Write([]byte("o"))
				_, _ = sink.Write([]byte("k"))
				m.atBody = len(m.relieved)
				return sink.End(nil)
			}
			var want Want
			pool := funcPool{func(_ context.Context, w *Want) (Lease, error) {
				want = *w
				if w.Tokens > 0 {
					*w.Charged = w.Tokens
				}
				return m, nil
			}}
			rules := DefaultRules()
			rules.WeighPrompts, rules.Attempts = true, 1
			x := post(strings.NewReader(body), tc.length, &fakeSink{})
			x.Request.Fields = http1.Fields{{Name: "Content-Type", Value: tc.kind}}
			newBalancer(t, Options{Pools: []Pool{pool}, Rules: map[string]Rules{"p": rules}}).Serve(t.Context(), x)
			if want.Tokens != tc.tokens || len(m.relieved) != tc.relieved || m.atBody != tc.relievedBody {
				t.Errorf("%d tokens, relieved %v, %d times before the body's second piece", want.Tokens, m.relieved, m.atBody)
			}
		})
	}
}
