package supervisor

import (
	"testing"
	"testing/synctest"
	"time"

	"stoker/config"
)

// TestQuestions: an engine on which a stream has ended as on one that is about to
// end gets nothing new until it has proven itself by an answer to what was asked
// after that; and a question alone kills nobody.
func TestQuestions(t *testing.T) {
	canary := func(p *config.Pool) {
		p.Health.StallTimeout = config.Duration(10 * time.Second)
		p.Health.Canary.Path = "/v1/completions"
		p.Health.Canary.Timeout = config.Duration(4 * time.Second)
	}
	for _, tc := range []struct {
		name     string
		pool     func(*config.Pool)
		script   behaviour
		moved    func(time.Duration) uint64
		inFlight int
		until    time.Duration
		want     []string
		vouched  string
		canaries int
	}{
		{name: "no canary: a good probe", until: 2 * time.Minute, want: []string{"loading 0s", "ready 0s"}, vouched: "1 1m1s"},
		{
			name: "a canary is asked at once", pool: canary, script: behaviour{sings: 300 * time.Millisecond}, until: 2 * time.Minute,
			want: []string{"loading 0s", "ready 0s"}, vouched: "1 1m1.3s", canaries: 1,
		},
		{
			name: "refused for its load", pool: canary, script: behaviour{sings: 300 * time.Millisecond, unsure: true}, until: 2 * time.Minute,
			want: []string{"loading 0s", "ready 0s"}, vouched: "1 1m1.3s", canaries: 1,
		},
		{
			name: "no token, though its health is good, and nothing is in flight: hung after stall_timeout", pool: canary, script: behaviour{muteFrom: time.Minute}, until: 2 * time.Minute,
			// It is silent since 61. Canaries go out then, with the next probe, and when it has been silent for long enough.
			want: []string{"loading 0s", "ready 0s", "stopping 1m15s", "backoff 1m15s", "starting 1m15s", "loading 1m15s", "ready 1m15s"}, canaries: 3,
		},
		{
			name: "other streams move: no canary is waited for", pool: canary, script: behaviour{muteFrom: time.Minute, lateBy: 10 * time.Millisecond, sickFrom: time.Minute},
			moved: func(d time.Duration) uint64 { return uint64(d / time.Millisecond) }, inFlight: 5, until: 2 * time.Minute,
			want: []string{"loading 0s", "ready 0s"}, vouched: "1 1m1.01s", canaries: 1,
		},
		{
			name: "nobody listens", script: behaviour{sickFrom: 60500 * time.Millisecond, refuses: true}, until: 61 * time.Second,
			want: []string{"loading 0s", "ready 0s", "draining 1m1s", "stopping 1m1s", "backoff 1m1s", "starting 1m1s", "loading 1m1s", "ready 1m1s"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPool()
				p.Health.Interval = config.Duration(5 * time.Second)
				if tc.pool != nil {
					tc.pool(p)
				}
				l := newLife(t, p, tc.script, behaviour{})
				began := time.Now()
				if tc.moved != nil {
					l.member.moved = func() uint64 { return tc.moved(time.Since(began)) }
				}
				l.begin()
				l.member.requests(tc.inFlight)
				time.Sleep(61 * time.Second)
				l.member.question()
				synctest.Wait()
				if h := l.w.judged.Load(); tc.pool != nil && h.State != "questioned" {
					t.Errorf("health %+v", h)
				}
				time.Sleep(tc.until - 61*time.Second)
				synctest.Wait()
				l.want(tc.want...)
				if got := l.member.vouchers(); got != tc.vouched {
					t.Errorf("vouched for: %q, want %q", got, tc.vouched)
				}
				if got := l.keepers.first().sung(); got != tc.canaries {
					t.Errorf("%d canaries, want %d", got, tc.canaries)
				}
				l.stop(request{wish: wishStop, hurry: true})
			})
		})
	}
}

// TestProbesFromBefore: a good answer to what was asked before a question is none to it.
func TestProbesFromBefore(t *testing.T) {
	m := newFakeMember()
	v := newVigil(config.Health{Failures: 3, Successes: 1}, m, &checks{})
	defer v.end()
	v.prepare()
	m.question()
	v.hear(nil)
	if _, open := m.Questions(); !open {
		t.Error("vouched for by a probe from before")
	}
	v.prepare()
	v.hear(nil)
	if _, open := m.Questions(); open {
		t.Error("a good answer to what was asked after it is not heeded")
	}
}
