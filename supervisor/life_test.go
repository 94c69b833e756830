package supervisor

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/config"
	"stoker/supervisor/keeper"
)

var (
	killed = keeper.Exit{Code: -1, Signal: int(syscall.SIGKILL)}
	crash  = keeper.Exit{Code: 1}
)

// TestLife is the state table as test cases: what the engines do, what is
// asked and when → every state entered, with the exact time.
func TestLife(t *testing.T) {
	stop := func(l *life) { l.w.ask(context.Background(), request{wish: wishStop}) }
	hurry := func(l *life) { l.w.ask(context.Background(), request{wish: wishStop, hurry: true}) }
	drain := func(l *life) { l.w.ask(context.Background(), request{wish: wishStop, drain: true}) }
	release := func(l *life) { l.w.ask(context.Background(), request{wish: wishRelease}) }
	requests := func(n int) func(*life) { return func(l *life) { l.member.requests(n) } }
	kick := func(l *life) { l.member.kick <- struct{}{} }
	type act struct {
		after time.Duration // since the last one
		do    func(*life)
	}
	cases := []struct {
		name   string
		pool   func(*config.Pool)
		script []behaviour
		acts   []act
		until  time.Duration // since the last act
		want   string
		starts int
	}{
		{
			name:   "loads, serves, stops",
			script: []behaviour{{loads: 40 * time.Millisecond, ends: 3 * time.Second}},
			acts:   []act{{time.Minute, stop}},
			until:  time.Minute,
			want:   "loading 0s, ready 50ms, stopping 1m0s, stopped 1m3s", starts: 1,
		},
		{
			name:   "exit code 0 that nobody wished",
			script: []behaviour{{lives: time.Hour, loads: time.Nanosecond}, {}},
			until:  2 * time.Hour,
			want:   "loading 0s, ready 50ms, stopping 1h0m0s, backoff 1h0m0s, starting 1h0m0s, loading 1h0m0s, ready 1h0m0s", starts: 2,
		},
		{
			name:   "killed, and its children live on for a while",
			script: []behaviour{{lives: time.Hour, exit: killed, leaves: 4 * time.Second}, {}},
			until:  2 * time.Hour,
			want:   "loading 0s, ready 0s, stopping 1h0m0s, backoff 1h0m4s, starting 1h0m4s, loading 1h0m4s, ready 1h0m4s", starts: 2,
		},
		{
			name:   "crash loop: at once, 1 s, 2 s, 4 s, given up",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 5 },
			script: []behaviour{{lives: time.Second, loads: time.Hour, exit: crash}},
			until:  time.Hour,
			want: "loading 0s, stopping 1s, backoff 1s, starting 1s, loading 1s, stopping 2s, backoff 2s, starting 3s, loading 3s, " +
				"stopping 4s, backoff 4s, starting 6s, loading 6s, stopping 7s, backoff 7s, starting 11s, loading 11s, stopping 12s, failed 12s",
			starts: 5,
		},
		{
			name:   "crashes just after ready are not forgotten",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 3 },
			script: []behaviour{{lives: 9 * time.Minute, exit: crash}},
			until:  time.Hour,
			want: "loading 0s, ready 0s, stopping 9m0s, backoff 9m0s, starting 9m0s, loading 9m0s, ready 9m0s, stopping 18m0s, backoff 18m0s, " +
				"starting 18m1s, loading 18m1s, ready 18m1s, stopping 27m1s, failed 27m1s",
			starts: 3,
		},
		{
			name:   "failures are forgotten after ten minutes of ready",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 2 },
			script: []behaviour{{lives: 10 * time.Minute, exit: crash}},
			until:  25 * time.Minute,
			want: "loading 0s, ready 0s, stopping 10m0s, backoff 10m0s, starting 10m0s, loading 10m0s, ready 10m0s, stopping 20m0s, backoff 20m0s, " +
				"starting 20m0s, loading 20m0s, ready 20m0s",
			starts: 3,
		},
		{
			name:   "cannot be executed",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 2 },
			script: []behaviour{{execError: "exec: \"engine\": executable file not found in $PATH"}},
			until:  time.Hour,
			want:   "stopping 0s, backoff 0s, starting 0s, stopping 0s, failed 0s", starts: 2,
		},
		{
			name:   "never ready",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 1 },
			script: []behaviour{{loads: time.Hour, ends: 2 * time.Second}},
			until:  time.Hour,
			want:   "loading 0s, stopping 20m0s, failed 20m2s", starts: 1,
		},
		{
			name:   "keeper never says hello",
			pool:   func(p *config.Pool) { p.Restart.MaxFailures = 1 },
			script: []behaviour{{spawnFails: true}},
			until:  time.Hour,
			want:   "failed 10s", starts: 1,
		},
		{
			name:   "stop while a keeper does not say hello",
			script: []behaviour{{spawnFails: true}},
			acts:   []act{{3 * time.Second, stop}},
			until:  time.Hour,
			want:   "stopped 3s", starts: 1,
		},
		{
			name:   "stop while loading",
			script: []behaviour{{loads: time.Hour, ends: 2 * time.Second}},
			acts:   []act{{time.Minute, stop}},
			until:  time.Hour,
			want:   "loading 0s, stopping 1m0s, stopped 1m2s", starts: 1,
		},
		{
			name:   "deaf to TERM",
			script: []behaviour{{deaf: true}},
			acts:   []act{{time.Minute, stop}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, stopping 1m0s, stopped 1m30s", starts: 1,
		},
		{
			name:   "deaf to TERM, hurried while stopping",
			script: []behaviour{{deaf: true}},
			acts:   []act{{time.Minute, stop}, {5 * time.Second, hurry}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, stopping 1m0s, stopped 1m5s", starts: 1,
		},
		{
			name:   "hurried from ready",
			script: []behaviour{{ends: 3 * time.Second}},
			acts:   []act{{time.Minute, hurry}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, stopping 1m0s, stopped 1m0s", starts: 1,
		},
		{
			name:   "survives KILL",
			script: []behaviour{{immortal: true}},
			acts:   []act{{time.Minute, stop}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, stopping 1m0s, failed 1m40s", starts: 1,
		},
		{
			name:   "drained: waits for its requests",
			script: []behaviour{{ends: time.Second}},
			acts:   []act{{0, requests(2)}, {time.Minute, drain}, {7 * time.Second, requests(0)}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m7s, stopped 1m8s", starts: 1,
		},
		{
			name:   "drained: no longer than drain_timeout",
			script: []behaviour{{ends: time.Second}},
			acts:   []act{{0, requests(2)}, {time.Minute, drain}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m30s, stopped 1m31s", starts: 1,
		},
		{
			name:   "drained, and the pool's policy is not to wait",
			script: []behaviour{{ends: time.Second}},
			pool:   func(p *config.Pool) { p.Drain = "stop" },
			acts:   []act{{0, requests(2)}, {time.Minute, drain}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m0s, stopped 1m1s", starts: 1,
		},
		{
			name:   "released: nothing is cut, whatever the policy",
			script: []behaviour{{}},
			pool:   func(p *config.Pool) { p.Drain = "stop" },
			acts:   []act{{0, requests(1)}, {time.Minute, release}, {time.Second, requests(0)}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, released 1m1s", starts: 1,
		},
		{
			name:   "exit during draining",
			script: []behaviour{{lives: 65 * time.Second, exit: crash}},
			acts:   []act{{0, requests(2)}, {time.Minute, drain}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m5s, stopped 1m5s", starts: 1,
		},
		{
			name:   "drain, then stop: no more waiting",
			script: []behaviour{{ends: time.Second}},
			acts:   []act{{0, requests(2)}, {time.Minute, drain}, {time.Second, stop}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m1s, stopped 1m2s", starts: 1,
		},
		{
			name:   "stop during backoff",
			script: []behaviour{{lives: time.Second, loads: time.Hour, exit: crash}},
			acts:   []act{{2500 * time.Millisecond, stop}},
			until:  time.Hour,
			want:   "loading 0s, stopping 1s, backoff 1s, starting 1s, loading 1s, stopping 2s, backoff 2s, stopped 2.5s", starts: 2,
		},
		{
			name:   "released: the engine runs on",
			script: []behaviour{{}},
			acts:   []act{{0, requests(1)}, {time.Minute, release}, {time.Second, requests(0)}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, draining 1m0s, released 1m1s", starts: 1,
		},
		{
			name:   "released while loading",
			script: []behaviour{{loads: time.Hour}},
			acts:   []act{{time.Minute, release}},
			until:  time.Hour,
			want:   "loading 0s, released 1m0s", starts: 1,
		},
		{
			name:   "hangs: three probes of 2 s, 1 s apart, then 2 s until KILL, whatever its requests",
			script: []behaviour{{sickFrom: time.Minute, deaf: true}, {}},
			acts:   []act{{0, requests(1)}},
			until:  2 * time.Minute,
			want:   "loading 0s, ready 0s, stopping 1m8s, backoff 1m10s, starting 1m10s, loading 1m10s, ready 1m10s", starts: 2,
		},
		{
			name:   "answers badly: its requests may finish",
			script: []behaviour{{sickFrom: time.Minute, complains: true, ends: time.Second}, {}},
			acts:   []act{{0, requests(1)}, {75 * time.Second, requests(0)}},
			until:  time.Minute,
			want:   "loading 0s, ready 0s, draining 1m2s, stopping 1m15s, backoff 1m16s, starting 1m16s, loading 1m16s, ready 1m16s", starts: 2,
		},
		{
			name:   "stopped by a signal: takes connections, and is dead",
			script: []behaviour{{stoppedAt: time.Minute, ends: time.Second}, {}},
			until:  2 * time.Minute,
			want:   "loading 0s, ready 0s, stopping 1m8s, backoff 1m9s, starting 1m9s, loading 1m9s, ready 1m9s", starts: 2,
		},
		{
			name:   "nobody listens: out at the first probe",
			script: []behaviour{{sickFrom: time.Minute, refuses: true, ends: time.Second}, {}},
			until:  61 * time.Second,
			want:   "loading 0s, ready 0s, draining 1m0s, stopping 1m0s, backoff 1m1s, starting 1m1s, loading 1m1s, ready 1m1s", starts: 2,
		},
		{
			name:   "a refused dial is probed at once",
			script: []behaviour{{sickFrom: time.Minute, refuses: true}, {}},
			acts:   []act{{60500 * time.Millisecond, kick}},
			until:  time.Second,
			// 60 s is an ordinary probe's time; half a second later is not.
			pool: func(p *config.Pool) { p.Health.Interval = config.Duration(7 * time.Second) },
			want: "loading 0s, ready 0s, draining 1m0.5s, stopping 1m0.5s, backoff 1m0.5s, starting 1m0.5s, loading 1m0.5s, ready 1m0.5s", starts: 2,
		},
		{
			name:   "a refused dial, but it is well: let in again, no transition",
			script: []behaviour{{}},
			acts:   []act{{time.Second, kick}},
			until:  500 * time.Millisecond,
			want:   "loading 0s, ready 0s, ready 1s", starts: 1,
		},
		{
			name:   "keeper killed while ready",
			script: []behaviour{{loseKeeper: time.Minute}, {}},
			until:  2 * time.Minute,
			want:   "loading 0s, ready 0s, stopping 1m0s, backoff 1m0s, starting 1m0s, loading 1m0s, ready 1m0s", starts: 2,
		},
		{
			name:   "keeper killed while stopping",
			script: []behaviour{{loseKeeper: time.Minute, deaf: true}},
			acts:   []act{{59 * time.Second, stop}},
			until:  time.Hour,
			want:   "loading 0s, ready 0s, stopping 59s, stopped 1m0s", starts: 1,
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPool()
				if c.pool != nil {
					c.pool(p)
				}
				l := newLife(t, p, c.script...)
				l.begin()
				for _, a := range c.acts {
					time.Sleep(a.after)
					synctest.Wait()
					a.do(l)
				}
				time.Sleep(c.until)
				l.want(strings.Split(c.want, ", ")...)
				if got := l.keepers.starts(); got != c.starts {
					t.Errorf("%d starts, want %d", got, c.starts)
				}
				l.stop(request{wish: wishStop, hurry: true})
			})
		})
	}
}

// Requests wait for a worker that loads, however long that takes, and for the
// next engine of one that died once. In a crash loop they do not.
func TestWhoIsExpected(t *testing.T) {
	dies := behaviour{lives: 10 * time.Second, loads: time.Hour, exit: crash}
	for _, c := range []struct {
		name   string
		script []behaviour
		after  time.Duration
		want   bool
	}{
		{"loading for long", []behaviour{{loads: time.Hour}}, 10 * time.Minute, true},
		{"dead once", []behaviour{dies, {loads: time.Hour}}, 15 * time.Second, true},
		{"dead twice", []behaviour{dies, dies, {loads: time.Hour}}, 25 * time.Second, false},
		{"dead after a long life", []behaviour{{lives: time.Hour, exit: crash}, {loads: time.Hour}}, time.Hour + time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, testPool(), c.script...)
				l.begin()
				time.Sleep(c.after)
				synctest.Wait()
				if got := l.member.isExpected(); got != c.want {
					t.Errorf("expected: %v, want %v", got, c.want)
				}
				l.stop(request{wish: wishStop, hurry: true})
				if l.member.isExpected() {
					t.Errorf("expected after the end")
				}
			})
		})
	}
}

// A saturated engine answers its probes late or never, for as long as it is
// saturated. While its streams move it is not touched.
func TestBusyIsNotDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{sickFrom: time.Minute})
		began := time.Now()
		l.member.moved = func() uint64 { return uint64(min(time.Since(began), 10*time.Minute) / time.Millisecond) }
		l.begin()
		time.Sleep(10 * time.Minute)
		l.want("loading 0s", "ready 0s")
		// From here on nothing moves any more.
		time.Sleep(20 * time.Second)
		l.want("loading 0s", "ready 0s", "stopping 10m8s", "backoff 10m8s", "starting 10m8s", "loading 10m8s", "ready 10m8s")
		l.stop(request{wish: wishStop, hurry: true})
	})
}

// Two at a time of five; those who wait for their turn are not "starting".
func TestMaxStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPool()
		p.MaxStarting = 2
		shared := &turns{limit: 2}
		var lives []*life
		for range 5 {
			l := newLife(t, p, behaviour{loads: 10 * time.Second, ends: 3 * time.Second})
			l.w.turns = shared
			lives = append(lives, l)
			l.begin()
			synctest.Wait()
		}
		for range 40 {
			loading := 0
			for _, l := range lives {
				if l.w.published.Load().state.takesTurn() {
					loading++
				}
			}
			if loading > 2 {
				t.Fatalf("%d workers load after %s", loading, time.Since(lives[0].began))
			}
			time.Sleep(time.Second)
		}
		for i, l := range lives {
			if got := l.w.published.Load(); got.state != Ready || got.restarts != 0 {
				t.Errorf("worker %d is %s with %d restarts", i, got.state, got.restarts)
			}
		}
		began := time.Now()
		for _, l := range lives {
			l.w.ask(context.Background(), request{wish: wishStop})
		}
		for _, l := range lives {
			<-l.w.done
		}
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("five stops of 3 s each took %s", took)
		}
	})
}

// The slot starts again only when the devices are free.
func TestGoneCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{lives: time.Minute, exit: crash}, behaviour{})
		l.place.gone = 20 * time.Second
		l.begin()
		time.Sleep(2 * time.Minute)
		l.want("loading 0s", "ready 0s", "stopping 1m0s", "backoff 1m0s", "starting 1m20s", "loading 1m20s", "ready 1m20s")
		l.stop(request{wish: wishStop})
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{lives: time.Minute, exit: crash}, behaviour{})
		l.place.gone = time.Hour
		l.begin()
		time.Sleep(150 * time.Second)
		l.want("loading 0s", "ready 0s", "stopping 1m0s", "backoff 1m0s", "starting 2m0s", "loading 2m0s", "ready 2m0s")
		l.stop(request{wish: wishStop})
	})
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{lives: time.Minute, exit: crash}, behaviour{})
		l.place.gone = time.Hour
		l.begin()
		time.Sleep(70 * time.Second)
		l.stop(request{wish: wishStop})
		l.want("loading 0s", "ready 0s", "stopping 1m0s", "backoff 1m0s", "stopped 1m10s")
	})
}
