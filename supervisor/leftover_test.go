package supervisor

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/supervisor/keeper"
)

// leave puts an engine into the slot as an earlier master would have left it.
func leave(l *life, b behaviour, fingerprint string, epoch uint64) *fakeEngine {
	e := newFakeEngine(b, 500, launch{intent: keeper.Intent{
		Epoch: epoch, Label: map[string]string{labelAddress: "127.0.0.1:9", labelFingerprint: fingerprint},
	}})
	l.keepers.leftover = e
	return e
}

func TestLeftovers(t *testing.T) {
	cases := []struct {
		name    string
		prepare func(*life)
		want    string
		starts  int
		exit    string
	}{
		{
			name:    "the same configuration: adopted",
			prepare: func(l *life) { leave(l, behaviour{}, "same", 6) },
			want:    "loading 0s, ready 0s",
		},
		{
			name: "its keeper has not executed it yet: nobody knows its pid",
			prepare: func(l *life) {
				e := leave(l, behaviour{}, "same", 6)
				e.state.Phase, e.state.EnginePID = keeper.Starting, 0
				time.AfterFunc(2*time.Second, func() {
					e.mu.Lock()
					defer e.mu.Unlock()
					e.state.Phase, e.state.EnginePID = keeper.Running, 501
					e.notify()
				})
			},
			want: "loading 2s, ready 2s",
		},
		{
			name: "busy: it answers late, and serves",
			prepare: func(l *life) {
				e := leave(l, behaviour{sickFrom: time.Minute, lateBy: 7 * time.Second}, "same", 6)
				e.born = e.born.Add(-time.Hour)
			},
			want: "loading 0s, ready 7s",
		},
		{
			name: "hung, and has had its time to load",
			prepare: func(l *life) {
				e := leave(l, behaviour{loads: time.Hour, ends: time.Second}, "same", 6)
				e.state.StartedAt = e.born.Add(-time.Hour)
			},
			want:   "loading 0s, stopping 1m0s, backoff 1m1s, starting 1m1s, loading 1m1s, ready 1m1s",
			starts: 1, exit: "exited with code 0",
		},
		{
			name:    "another configuration: ended first",
			prepare: func(l *life) { leave(l, behaviour{ends: 3 * time.Second}, "other", 6) },
			want:    "stopping 0s, backoff 3s, starting 3s, loading 3s, ready 3s",
			starts:  1, exit: "exited with code 0",
		},
		{
			name: "has ended meanwhile: reported, and started again",
			prepare: func(l *life) {
				leave(l, behaviour{}, "same", 6).finish(keeper.Exit{Code: 37})
			},
			want:   "stopping 0s, backoff 0s, starting 0s, loading 0s, ready 0s",
			starts: 1, exit: "exited with code 37",
		},
		{
			name: "keeper dead, exit written down",
			prepare: func(l *life) {
				l.keepers.attachErr = keeper.ErrKeeperDead
				l.keepers.report.Exit = &keeper.Exit{Code: -1, Signal: int(syscall.SIGSEGV)}
			},
			want:   "backoff 0s, starting 0s, loading 0s, ready 0s",
			starts: 1, exit: "killed by SIGSEGV",
		},
		{
			name:    "keeper dead, nothing written down",
			prepare: func(l *life) { l.keepers.attachErr = keeper.ErrKeeperDead },
			want:    "backoff 0s, starting 0s, loading 0s, ready 0s",
			starts:  1,
		},
		{
			name: "forged: not touched, and nothing is started beside it",
			prepare: func(l *life) {
				l.keepers.attachErr = keeper.ErrForeign
				l.w.pool.Restart.MaxFailures = 1
			},
			want: "failed 0s",
		},
		{
			name: "silent: nothing is started beside it",
			prepare: func(l *life) {
				l.keepers.attachErr = errSilent
				l.w.pool.Restart.MaxFailures = 2
			},
			want: "backoff 5s, starting 5s, failed 10s",
		},
		{
			name: "owned by a higher epoch: left alone",
			prepare: func(l *life) {
				leave(l, behaviour{}, "same", 99)
				l.w.pool.Restart.MaxFailures = 1
			},
			want: "failed 0s",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, testPool(), behaviour{})
				c.prepare(l)
				l.begin()
				time.Sleep(90 * time.Second)
				l.want(strings.Split(c.want, ", ")...)
				if got := l.keepers.starts(); got != c.starts {
					t.Errorf("%d starts, want %d", got, c.starts)
				}
				if exit := l.w.published.Load().lastExit; c.exit != "" && (exit == nil || exit.Text != c.exit) {
					t.Errorf("last exit %+v, want %q", exit, c.exit)
				}
				l.stop(request{wish: wishStop, hurry: true})
			})
		})
	}
}

// Ctrl-C while a leftover is being looked at must not leave it behind.
func TestStopEndsLeftover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{})
		e := leave(l, behaviour{ends: time.Second}, "same", 6)
		l.begin()
		l.stop(request{wish: wishStop})
		if e.State().Phase != keeper.Ended || !e.acked || !e.closed {
			t.Errorf("leftover: phase %s, acked %t, closed %t", e.State().Phase, e.acked, e.closed)
		}
		if l.keepers.starts() != 0 {
			t.Error("an engine was started")
		}
	})
}

// An orphan that cannot be ended blocks its slot: never two engines on one.
func TestOrphanThatCannotBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{loseKeeper: time.Minute})
		l.keepers.orphanErr = errors.New("not permitted")
		l.begin()
		time.Sleep(time.Hour)
		l.want("loading 0s", "ready 0s", "stopping 1m0s", "failed 1m0s")
		if !l.w.published.Load().stuck {
			t.Error("not said to be stuck")
		}
	})
}
