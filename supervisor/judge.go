package supervisor

import (
	"errors"
	"fmt"
	"time"

	"stoker/config"
)

// # How the health of a ready upstream is judged
//
// Nothing that an engine says of itself is the whole truth: a hung one may
// answer /health for ever, and a saturated one may not answer it at all. So two
// things are held against each other: what its probes say, and progress, which
// is bytes of answers that pass, counters of its own metrics page that grow, and
// probes that are answered after their time.
//
//	state     means                                     leaves on
//	well      probes are good; where there are          a probe failed, progress     → busy
//	          requests, something has come of late      a probe failed, no progress  → doubtful
//	                                                    requests, no progress        → silent
//	busy      probes fail, and there is progress:       probe good                   → well
//	          a saturated engine; nothing is done       a probe failed, no progress  → doubtful
//	doubtful  a probe has failed, and nothing has come  probe good                   → well
//	          while it waited: new requests go          progress                     → busy
//	          elsewhere, or wait                        failed too often: answered   → sick
//	                                                      badly, or nobody listens
//	                                                    failed too often: no answer  → hung
//	silent    probes are good, there are requests, and  progress, canary good        → well
//	          nothing comes: after stall_timeout a      a probe failed               → doubtful
//	          canary is sent, and new requests go       canary failed, no progress   → hung
//	          elsewhere, or wait
//	sick      its requests may finish, then it is       terminal
//	          stopped
//	hung      nothing will finish: it is killed         terminal
//
// What a canary is told that is no token and no failure (404, 429, 503) proves
// nothing. As long as a generation before this one has requests there, whose
// bytes pass through another process, no progress can be told from none, and
// only what an engine answers counts.

// verdict is what the probes so far amount to.
type verdict int

const (
	unclear verdict = iota
	well            // enough good probes in a row
	sick            // enough bad ones, or nobody listens
	hung            // no sign of life
)

// judge turns the results of probes into verdicts. It belongs to one goroutine.
type judge struct {
	successes, failures int
	stall               time.Duration
	progress            func() uint64
	busy                func() int  // requests that are there
	blind               func() bool // requests are there whose bytes nobody here sees

	seen    uint64 // progress as of the last result
	started uint64 // as of the probe that is out
	called  uint64 // as of the canary that is out

	good, bad int
	answered  bool  // one of the bad ones was an answer
	last      error // of the last failed probe, nil after a good one
	// silentSince is since when requests are there and nothing has come.
	silentSince time.Time
	calling     bool // a canary is out
}

func newJudge(h config.Health, m member, signs *signs) *judge {
	j := &judge{
		successes: max(h.Successes, 1), failures: max(h.Failures, 1), stall: h.StallTimeout.Std(),
		progress: func() uint64 { return m.Progress() + signs.count.Load() },
		busy:     func() int { return m.InFlight() + int(signs.busy.Load()) },
		blind:    func() bool { return m.Elsewhere() > 0 },
	}
	j.seen = j.progress()
	j.started = j.seen
	return j
}

// asks notes that a probe goes out.
func (j *judge) asks() { j.started = j.progress() }

// moved reports whether there was progress since the last result, came since the
// probe went out.
func (j *judge) moved() bool { return j.progress() != j.seen }
func (j *judge) came() bool  { return j.progress() != j.started }

// hear takes the result of one more probe.
func (j *judge) hear(err error) verdict {
	now := j.progress()
	before, meanwhile := now != j.seen, now != j.started
	j.seen = now
	j.listen(before)
	j.last = err
	switch {
	case err == nil:
		j.good, j.bad, j.answered = j.good+1, 0, false
		if j.good >= j.successes {
			return well
		}
		return unclear
	case errors.Is(err, errRefused):
		j.good, j.bad, j.answered = 0, j.failures, true
		return sick
	case errors.Is(err, errNoProof), answered(err) && before, !answered(err) && (meanwhile || j.blind()):
		j.good, j.bad, j.answered = 0, 0, false
		return unclear
	case before: // and nothing while it waited: the first in a row
		j.bad, j.answered = 0, false
	}
	j.good, j.bad = 0, j.bad+1
	j.answered = j.answered || answered(err)
	switch {
	case j.bad < j.failures:
		return unclear
	case j.answered:
		return sick
	default:
		return hung
	}
}

// listen keeps the time of silence. It begins when requests are first seen
// without anything coming, and does not end when their clients give up:
// impatient ones would hide a hung engine for ever.
func (j *judge) listen(came bool) {
	switch {
	case came || j.blind():
		j.silentSince = time.Time{}
	case j.silentSince.IsZero() && j.busy() > 0:
		j.silentSince = time.Now()
	}
}

// silence is how long nothing has come of requests.
func (j *judge) silence() time.Duration {
	if j.silentSince.IsZero() {
		return 0
	}
	return time.Since(j.silentSince)
}

// stalled says that it is time for a canary.
func (j *judge) stalled() bool { return j.stall > 0 && j.bad == 0 && j.silence() >= j.stall }

// calls notes that a canary goes out, for its silence or for a question alone.
func (j *judge) calls(silent bool) { j.called, j.calling = j.progress(), silent }

// hearCanary takes what came of it.
func (j *judge) hearCanary(err error) verdict {
	silent := j.calling || j.stalled() // it may have become so meanwhile
	j.calling = false
	switch now := j.progress(); {
	case err != nil && !errors.Is(err, errNoProof) && now == j.called && !j.blind():
		if !silent {
			return unclear
		}
		j.last = err
		return hung
	case err == nil && !j.silentSince.IsZero() && j.busy() > 0:
		j.silentSince = time.Now() // what is silent may only be long
	default:
		j.silentSince = time.Time{}
	}
	return unclear
}

// doubtful says that no new request should go there.
func (j *judge) doubtful() bool { return j.bad > 0 || j.calling }

// complaint explains sick and hung.
func (j *judge) complaint() string {
	switch {
	case errors.Is(j.last, errRefused):
		return j.last.Error()
	case j.bad == 0:
		return fmt.Sprintf("not a byte for %s with requests in flight, although its probes are good; %v", readable(j.silence()), j.last)
	default:
		return fmt.Sprintf("%d probes in a row failed and nothing came from it meanwhile; the last: %v", j.bad, j.last)
	}
}

// Health is how a ready worker or server is judged: see judge.
type Health struct {
	// State is well, busy, doubtful, silent or questioned.
	State string `json:"state"`
	// Reason says it in words; empty when it is well.
	Reason string `json:"reason,omitempty"`
}

// health is for people.
func (j *judge) health() Health {
	switch {
	case j.bad > 0:
		return Health{"doubtful", fmt.Sprintf("%d of %d: %v", j.bad, j.failures, j.last)}
	case j.last != nil:
		return Health{"busy", fmt.Sprintf("answers come, probes fail: %v", j.last)}
	case j.calling:
		return Health{"silent", fmt.Sprintf("not a byte for %s; a canary was sent", readable(j.silence()))}
	case j.silence() >= shownSilence && j.busy() > 0:
		return Health{"silent", fmt.Sprintf("not a byte for %s", readable(j.silence()))}
	default:
		return Health{State: "well"}
	}
}

// shownSilence is what is worth showing: shorter ones are everyday prompts.
const shownSilence = 10 * time.Second
