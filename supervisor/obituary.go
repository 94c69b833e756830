package supervisor

import (
	"time"

	"stoker/supervisor/keeper"
)

// Death is an engine's end that nobody wished: an exit of any kind, code 0
// included, and a kill because it was found hanging or never became ready.
type Death struct {
	Pool   string `json:"pool"`
	Worker string `json:"worker"`
	// PID the engine had.
	PID int `json:"pid"`
	// Reason is one word of a closed set, the metrics' label; Cause says it in words.
	Reason string     `json:"reason"`
	Cause  string     `json:"cause"`
	Exit   ExitStatus `json:"exit"`
	// Started is when the engine was executed, Ended when the exit was seen.
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"`
	// Noticed is when the worker was taken out of service: after Ended for an
	// engine that died by itself, before it for one that was killed. What was in
	// flight at the earlier of the two was in flight when it happened.
	Noticed time.Time `json:"noticed"`
	// Failures in a row, this one not counted.
	Failures int `json:"failures"`
	// Watched: another master owned the engine and reports its death; this one only
	// finished requests on it. Output and Failures are not known then.
	Watched bool `json:"watched,omitempty"`
	// Output is the engine's last 64 KiB at most, raw; empty where its keeper died too.
	Output []byte `json:"-"`
}

// Uptime is how long the engine ran; 0 where its start is not known.
func (d *Death) Uptime() time.Duration {
	if d.Started.IsZero() {
		return 0
	}
	return max(d.Ended.Sub(d.Started), 0)
}

// Moment is when requests in flight were at risk: see Noticed.
func (d *Death) Moment() time.Time {
	if d.Noticed.Before(d.Ended) {
		return d.Noticed
	}
	return d.Ended
}

// mournWatched tells of an engine that a successor owns, so that the requests
// which were here are known, too. Who asked for its end is not known here: where
// somebody did, the successor tells whether it was unwished.
func (w *worker) mournWatched(why cause) {
	facts := w.engine.State()
	if w.onDeath == nil || facts.EnginePID == 0 {
		return
	}
	exit := newExitStatus(facts.Exit)
	_ = w.onDeath(Death{
		Pool: w.pool.Name, Worker: w.name, PID: facts.EnginePID,
		Reason: string(why.reason), Cause: why.text, Exit: *exit,
		Started: facts.StartedAt, Ended: exit.At, Noticed: time.Now(), Watched: true,
	})
}

// mourn tells whoever wants to know that the engine has ended unwished, and
// returns what is to be logged of it. An attempt that came to no engine is none
// of these.
func (w *worker) mourn(facts keeper.State, why cause, tail []byte) []any {
	if w.onDeath == nil || !why.reason.failure() || facts.EnginePID == 0 {
		return nil
	}
	return w.onDeath(Death{
		Pool: w.pool.Name, Worker: w.name, PID: facts.EnginePID,
		Reason: string(why.reason), Cause: why.text, Exit: *w.lastExit,
		Started: facts.StartedAt, Ended: w.lastExit.At, Noticed: w.since,
		Failures: w.failures, Output: tail,
	})
}
