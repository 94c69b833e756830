package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/config"
)

func TestJudge(t *testing.T) {
	bad := errors.New("503")
	mute := fmt.Errorf("x: %w", context.DeadlineExceeded)
	gone := fmt.Errorf("x: %w", errRefused)
	full := failed(failAnswered, "429, %w", errNoProof)
	health := config.Health{Failures: 3, Successes: 2}
	// What moved before a result: b: while nothing was out, m: while the probe was.
	cases := []struct {
		name    string
		results []error
		moves   string
		want    []verdict
	}{
		{"two good ones", []error{nil, nil, nil}, "", []verdict{unclear, well, well}},
		{"three bad answers", []error{bad, bad, bad}, "", []verdict{unclear, unclear, sick}},
		{"three without an answer", []error{mute, mute, mute}, "", []verdict{unclear, unclear, hung}},
		{"one of them an answer", []error{mute, bad, mute}, "", []verdict{unclear, unclear, sick}},
		{"a good one between", []error{mute, mute, nil, mute, mute}, "", []verdict{unclear, unclear, unclear, unclear, unclear}},
		{"refused", []error{gone}, "", []verdict{sick}},
		{"refused, though bytes came", []error{gone}, "m", []verdict{sick}},
		{"busy", []error{mute, mute, mute, mute}, "mmmm", []verdict{unclear, unclear, unclear, unclear}},
		{"busy, and answering badly at once", []error{bad, bad, bad, bad}, "bbbb", []verdict{unclear, unclear, unclear, unclear}},
		{"busy, then hung", []error{mute, mute, mute, mute}, "m---", []verdict{unclear, unclear, unclear, hung}},
		{"hung just before a probe", []error{mute, mute, mute}, "b--", []verdict{unclear, unclear, hung}},
		{"a sign of life just before the last", []error{mute, mute, mute, mute, mute}, "--m--", []verdict{unclear, unclear, unclear, unclear, unclear}},
		{"refused for its load", []error{full, full, full, full}, "", []verdict{unclear, unclear, unclear, unclear}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			var bytes uint64
			m := newFakeMember()
			m.moved = func() uint64 { return bytes }
			j := newJudge(health, m, new(signs))
			for i, err := range c.results {
				if i < len(c.moves) && c.moves[i] == 'b' {
					bytes++
				}
				j.asks()
				if i < len(c.moves) && c.moves[i] == 'm' {
					bytes++
				}
				if got := j.hear(err); got != c.want[i] {
					t.Errorf("after %d results: %d, want %d", i+1, got, c.want[i])
				}
			}
		})
	}
}

// While a generation before has requests there nobody here sees what comes of them.
func TestJudgeIsBlind(t *testing.T) {
	m := newFakeMember()
	m.elsewhere = 1
	j := newJudge(config.Health{Failures: 2}, m, new(signs))
	for range 10 {
		j.asks()
		if got := j.hear(context.DeadlineExceeded); got != unclear {
			t.Fatalf("silence: %d", got)
		}
	}
	for _, want := range []verdict{unclear, sick} {
		j.asks()
		if got := j.hear(errors.New("503")); got != want {
			t.Errorf("a bad answer: %d, want %d", got, want)
		}
	}
}

// TestSilence: an engine whose probes are good, with requests that get not a byte.
func TestSilence(t *testing.T) {
	stall := func(p *config.Pool) {
		p.Health.StallTimeout = config.Duration(5 * time.Second)
		p.Health.Canary.Path = "/v1/completions"
		p.Health.Canary.Timeout = config.Duration(4 * time.Second)
	}
	cases := []struct {
		name     string
		pool     func(*config.Pool)
		script   behaviour
		moved    func(time.Duration) uint64
		inFlight int
		idleFrom time.Duration // requests are given up; 0: never
		until    time.Duration
		want     string
		doubts   string
		canaries int
	}{
		{
			// Seen without anything at 62 s; 5 s later the canary, and 4 s later no token.
			name: "hung: health is good, no token", script: behaviour{muteFrom: time.Minute, deaf: true},
			moved: func(d time.Duration) uint64 { return uint64(min(d, time.Minute)) }, inFlight: 3, until: 80 * time.Second,
			want:   "loading 0s, ready 0s, stopping 1m11s, backoff 1m13s, starting 1m13s, loading 1m13s, ready 1m13s",
			doubts: "true 1m7s", canaries: 1,
		},
		{
			name: "hung, and its clients give up", script: behaviour{muteFrom: time.Minute, deaf: true},
			moved: func(d time.Duration) uint64 { return uint64(min(d, time.Minute)) }, inFlight: 3, idleFrom: 63 * time.Second, until: 80 * time.Second,
			want:   "loading 0s, ready 0s, stopping 1m11s, backoff 1m13s, starting 1m13s, loading 1m13s, ready 1m13s",
			doubts: "true 1m7s", canaries: 1,
		},
		{
			name: "long prompts: every canary is good", script: behaviour{}, inFlight: 3, until: 10 * time.Minute,
			want: "loading 0s, ready 0s", canaries: 119,
		},
		{
			name: "streams move: no canary is ever sent", script: behaviour{muteFrom: time.Minute}, inFlight: 3, until: 10 * time.Minute,
			moved: func(d time.Duration) uint64 { return uint64(d / time.Second) },
			want:  "loading 0s, ready 0s",
		},
		{
			name: "idle: no canary either", script: behaviour{muteFrom: time.Minute}, until: 10 * time.Minute,
			want: "loading 0s, ready 0s",
		},
		{
			// Every seven seconds: at the next probe it is seen without anything again, and 5 s later the canary.
			name: "the engine is full, and says so", script: behaviour{unsure: true}, inFlight: 3, until: 75 * time.Second,
			want: "loading 0s, ready 0s", canaries: 10,
		},
		{
			name: "no canary is configured", script: behaviour{muteFrom: time.Minute}, inFlight: 3, until: time.Hour,
			pool: func(p *config.Pool) { p.Health.StallTimeout = config.Duration(5 * time.Second) },
			want: "loading 0s, ready 0s",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPool()
				if c.pool == nil {
					c.pool = stall
				}
				c.pool(p)
				// Else a canary's answer and that of the probe of the same instant would come in any order.
				c.script.sings = time.Millisecond
				l := newLife(t, p, c.script, behaviour{})
				began := time.Now()
				if c.moved != nil {
					l.member.moved = func() uint64 { return c.moved(time.Since(began)) }
				}
				l.begin()
				l.member.requests(c.inFlight)
				if c.idleFrom > 0 {
					time.AfterFunc(c.idleFrom, func() { l.member.requests(0) })
				}
				time.Sleep(c.until)
				l.want(strings.Split(c.want, ", ")...)
				e := l.keepers.first()
				if got := e.sung(); got != c.canaries {
					t.Errorf("%d canaries, want %d", got, c.canaries)
				}
				if got := l.member.history(); c.doubts != "" && !strings.HasPrefix(got, c.doubts) {
					t.Errorf("doubts %s, want %s", got, c.doubts)
				}
				if len(c.doubts) > 0 && !slices.Equal(e.stops, []string{fmt.Sprintf("%d/2s", syscall.SIGTERM)}) {
					t.Errorf("stopped by %q, want TERM and 2 s", e.stops)
				}
				l.stop(request{wish: wishStop, hurry: true})
			})
		})
	}
}

// TestSlowHealth: an engine that answers its probes too late to be good is
// alive, however long that goes on.
func TestSlowHealth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{sickFrom: time.Minute, lateBy: 5 * time.Second})
		l.begin()
		l.member.requests(20)
		time.Sleep(30 * time.Minute)
		l.want("loading 0s", "ready 0s")
		l.stop(request{wish: wishStop, hurry: true})
	})
}

// TestDoubt: no new request goes to an engine after the first probe without an
// answer, and they come back with the first sign of life.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool()
		p.Health.Failures = 5
		l := newLife(t, p, behaviour{sickFrom: time.Minute, lateBy: 7 * time.Second})
		l.begin()
		time.Sleep(63 * time.Second)
		synctest.Wait()
		if got := l.member.history(); got != "true 1m2s" {
			t.Errorf("doubts %q", got)
		}
		if h := l.w.judged.Load(); h.State != "doubtful" || !strings.Contains(h.Reason, "1 of 5") {
			t.Errorf("health %+v", h)
		}
		time.Sleep(6 * time.Second) // the first answer came at 67 s
		synctest.Wait()
		if got := l.member.history(); got != "true 1m2s, false 1m8s" {
			t.Errorf("doubts %q", got)
		}
		l.stop(request{wish: wishStop, hurry: true})
	})
}

// TestHungSignal: one that was told to leave a trace, and is killed all the same.
func TestHungSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool()
		p.Stop.HungSignal, p.Stop.HungGrace = "ABRT", config.Duration(5*time.Second)
		l := newLife(t, p, behaviour{sickFrom: time.Minute, deaf: true}, behaviour{})
		l.begin()
		time.Sleep(2 * time.Minute)
		l.want("loading 0s", "ready 0s", "stopping 1m8s", "backoff 1m13s", "starting 1m13s", "loading 1m13s", "ready 1m13s")
		if got, want := l.keepers.first().stops, []string{fmt.Sprintf("%d/5s", syscall.SIGABRT)}; !slices.Equal(got, want) {
			t.Errorf("stopped by %q, want %q", got, want)
		}
		if l.w.failures != 1 {
			t.Errorf("%d failures, want 1: nobody wished it", l.w.failures)
		}
		l.stop(request{wish: wishStop, hurry: true})
	})
}

// TestCanaryAsProbe: sent as often as any probe, but not while answers come.
func TestCanaryAsProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool()
		p.Health.Kind = kindCanary
		p.Health.Canary.Timeout = config.Duration(2 * time.Second)
		l := newLife(t, p, behaviour{muteFrom: 2 * time.Minute})
		began := time.Now()
		l.member.moved = func() uint64 { return uint64(min(time.Since(began), time.Minute)) }
		usual := l.w.newChecks
		l.w.newChecks = func(h config.Health, a string) *checks {
			c := usual(h, a)
			c.usual = c.canary
			return c
		}
		l.begin()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := l.keepers.first().sung(); got != 1 { // to be let in
			t.Errorf("%d canaries while answers came, want 1", got)
		}
		time.Sleep(90 * time.Second)
		l.want("loading 0s", "ready 0s", "stopping 2m8s", "backoff 2m8s", "starting 2m8s", "loading 2m8s", "ready 2m8s")
		l.stop(request{wish: wishStop, hurry: true})
	})
}
