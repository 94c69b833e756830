package supervisor

import (
	"fmt"
	"time"

	"stoker/config"
)

// decision is what happens after a death.
type decision struct {
	// restart after delay; false: give up.
	restart bool
	delay   time.Duration
	// reason continues the sentence "the worker died; …".
	reason string
}

// decideRestart says what to do after the given number of failures in a row,
// this one included (≥ 1). The first restart is immediate; the second waits
// r.Delay, doubled each time up to r.MaxDelay. luck in [0, 1) shortens a delay
// by up to a quarter, so that workers that died together do not come back
// together; a limit is never exceeded by it.
func decideRestart(r config.Restart, failures int, luck float64) decision {
	if r.MaxFailures > 0 && failures >= r.MaxFailures {
		return decision{reason: fmt.Sprintf("given up after %d failures in a row (restart.max_failures)", failures)}
	}
	if failures <= 1 {
		return decision{restart: true, reason: "restart at once"}
	}
	delay := min(r.Delay.Std(), r.MaxDelay.Std())
	for range failures - 2 {
		if delay >= r.MaxDelay.Std()/2 {
			delay = r.MaxDelay.Std()
			break
		}
		delay *= 2
	}
	delay -= time.Duration(float64(delay) / 4 * luck)
	return decision{
		restart: true,
		delay:   delay,
		reason:  fmt.Sprintf("restart in %s, failure %d in a row", readable(delay), failures),
	}
}

// failuresAfter counts one more failure. Those before are forgotten when the
// engine had been ready for resetAfter; readyFor is 0 when it never was.
func failuresAfter(before int, readyFor, resetAfter time.Duration) int {
	if readyFor > 0 && readyFor >= resetAfter {
		return 1
	}
	return before + 1
}

// readable rounds d to what a person cares for.
func readable(d time.Duration) string {
	switch {
	case d >= time.Minute:
		return d.Round(time.Second).String()
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}
