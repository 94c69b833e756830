package balancer

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/upstream"
)

// TestQuestionableEnds: after which ends a member is asked whether it is well, before
// anybody else is sent there.
func TestQuestionableEnds(t *testing.T) {
	whole := words("first", answer...)
	cut := whole[:strings.Index(whole, "Kohle")]
	cut = cut[:strings.LastIndex(cut, "\n\n")+2]
	reset := errors.New("connection reset by peer")
	for _, tc := range []struct {
		name       string
		mode       string
		script     script
		questioned bool
	}{
		{"whole", "", script{text: whole}, false},
		{"ended politely", "", script{text: cut}, true},
		{"reset", "", script{text: cut, end: reset}, false},
		{"an error's status", "", script{status: 500}, false},
		{"whole, and it could move", continuation.Replay, script{text: whole}, false},
		{"ended politely, and moves", continuation.Replay, script{text: cut}, true},
		{"silent", continuation.Replay, script{text: cut, silent: true}, true},
		{"reset, and moves", continuation.Replay, script{text: cut, end: reset}, false},
		{"an error event", continuation.Replay, script{text: cut + "data: {\"error\":{\"message\":\"x\",\"code\":500}}\n\n"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := upstream.NewPool("p", upstream.PoolOptions{QueueLength: 9, QueueTimeout: time.Minute})
				first := p.Add("w0", 1)
				first.SetReady(true)
				scripts := scripted{p, []script{tc.script, {text: whole}}}
				rules := DefaultRules()
				rules.Migration = Migration{Mode: tc.mode, Limit: 3, Stream: 1 << 20, Memory: 1 << 24, Stall: 4 * time.Second}
				b := newBalancer(t, Options{Pools: []Pool{&scripts}, Rules: map[string]Rules{"p": rules}})
				x := newExchange(&fakeSink{})
				x.Request.Method, x.Request.Target, x.Body, x.Length = http.MethodPost, "/v1/chat/completions", strings.NewReader(streamBody), int64(len(streamBody))
				go func() {
					time.Sleep(time.Minute / 2)
					if _, open := first.Questions(); open != tc.questioned {
						t.Errorf("half a minute later it is questioned: %t", open)
					}
					asked, _ := first.Questions()
					first.Vouch(asked)
				}()
				b.Serve(t.Context(), x)
				if asked, _ := first.Questions(); (asked == 1) != tc.questioned {
					t.Errorf("questioned %d times", asked)
				}
				if x.Record.Queued > 0 != (tc.questioned && tc.mode != "") {
					t.Errorf("it waited for %v until somebody vouched for its only worker", x.Record.Queued)
				}
				time.Sleep(time.Minute)
			})
		})
	}
}

// scripted is a pool whose requests are answered by scripts, one after another.
type scripted struct {
	*upstream.Pool

	scripts []script
}

func (s *scripted) Acquire(ctx context.Context, want *Want) (Lease, error) {
	l, err := Over(s.Pool).Acquire(ctx, want)
	if err != nil {
		return nil, err
	}
	next := s.scripts[0]
	s.scripts = s.scripts[1:]
	return acted{l.(*upstream.Member), next.member("", nil)}, nil
}

// acted is a lease whose member's part somebody else plays.
type acted struct {
	*upstream.Member

	actor *fakeMember
}

func (a acted) Do(ctx context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	return a.actor.Do(ctx, x, sink)
}
