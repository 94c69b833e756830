package supervisor

import (
	"testing"
	"time"

	"stoker/config"
)

func TestDecideRestart(t *testing.T) {
	policy := config.DefaultPool("p").Restart
	limited := policy
	limited.MaxFailures = 3
	odd := config.Restart{Delay: config.Duration(3 * time.Second), MaxDelay: config.Duration(2 * time.Second)}
	cases := []struct {
		policy   config.Restart
		failures int
		luck     float64
		restart  bool
		delay    time.Duration
		reason   string
	}{
		{policy, 1, 0.9, true, 0, "restart at once"},
		{policy, 2, 0, true, time.Second, "restart in 1s, failure 2 in a row"},
		{policy, 2, 0.5, true, 875 * time.Millisecond, "restart in 880ms, failure 2 in a row"},
		{policy, 3, 0, true, 2 * time.Second, "restart in 2s, failure 3 in a row"},
		{policy, 7, 0, true, 32 * time.Second, "restart in 32s, failure 7 in a row"},
		{policy, 8, 0, true, time.Minute, "restart in 1m0s, failure 8 in a row"},
		{policy, 1 << 40, 0, true, time.Minute, "restart in 1m0s, failure 1099511627776 in a row"},
		{policy, 9, 1, true, 45 * time.Second, "restart in 45s, failure 9 in a row"},
		{limited, 2, 0, true, time.Second, "restart in 1s, failure 2 in a row"},
		{limited, 3, 0, false, 0, "given up after 3 failures in a row (restart.max_failures)"},
		{odd, 2, 0, true, 2 * time.Second, "restart in 2s, failure 2 in a row"},
		{config.Restart{}, 5, 0, true, 0, "restart in 0s, failure 5 in a row"},
	}
	for _, c := range cases {
		got := decideRestart(c.policy, c.failures, c.luck)
		if want := (decision{c.restart, c.delay, c.reason}); got != want {
			t.Errorf("failure %d with luck %v: %+v, want %+v", c.failures, c.luck, got, want)
		}
	}
}

func TestFailuresAfter(t *testing.T) {
	cases := []struct {
		before   int
		readyFor time.Duration
		want     int
	}{
		{0, 0, 1},
		{4, 0, 5},
		{4, 10*time.Minute - 1, 5},
		{4, 10 * time.Minute, 1},
	}
	for _, c := range cases {
		if got := failuresAfter(c.before, c.readyFor, 10*time.Minute); got != c.want {
			t.Errorf("%d before, ready for %s: %d, want %d", c.before, c.readyFor, got, c.want)
		}
	}
	if got := failuresAfter(4, 0, 0); got != 5 {
		t.Errorf("reset_after 0 and never ready: %d, want 5", got)
	}
}
