package supervisor

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"stoker/supervisor/keeper"
)

// Every end that nobody wished is told once; a wished one, and an engine that never ran, are not.
func TestDeathsAreTold(t *testing.T) {
	cases := []struct {
		name   string
		script []behaviour
		want   []string // reason, code, signal, uptime, moment before the end
	}{
		{"exits 0", []behaviour{{lives: time.Hour}}, []string{"exited 0  1h0m0s 0s last words"}},
		{"exits 1", []behaviour{{lives: time.Hour, exit: crash}}, []string{"exited 1  1h0m0s 0s last words"}},
		{"killed", []behaviour{{lives: time.Hour, exit: killed}}, []string{"signaled -1 SIGKILL 1h0m0s 0s last words"}},
		{"aborts", []behaviour{{lives: time.Hour, exit: keeper.Exit{Code: -1, Signal: int(syscall.SIGABRT), Core: true}}}, []string{"signaled -1 SIGABRT 1h0m0s 0s last words"}},
		{"never ready", []behaviour{{loads: 2 * time.Hour, ends: 2 * time.Second}}, []string{"start_timeout 0  20m2s 2s last words"}},
		{"hangs", []behaviour{{sickFrom: time.Hour, deaf: true}}, []string{"hung -1 SIGKILL 1h0m10s 2s last words"}},
		{"stopped", []behaviour{{}}, nil},
		{"cannot be executed", []behaviour{{execError: "no such file"}}, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPool()
				p.Restart.MaxFailures = 1
				l := newLife(t, p, c.script...)
				var got []string
				l.w.onDeath = func(d Death) []any {
					got = append(got, fmt.Sprintf("%s %d %s %s %s %s", d.Reason, d.Exit.Code, d.Exit.Signal, d.Uptime(), d.Ended.Sub(d.Moment()), strings.TrimSpace(string(d.Output))))
					return nil
				}
				l.begin()
				time.Sleep(90 * time.Minute)
				l.stop(request{wish: wishStop, hurry: true})
				if !slices.Equal(got, c.want) {
					t.Errorf("\n got %q\nwant %q", got, c.want)
				}
			})
		})
	}
}
