package crash

import (
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"stoker/balancer/recorder"
	"stoker/exchange"
	"stoker/supervisor"
)

// ID names the report of a death. It is known before anything of it is written:
// the clients of its suspects may be told, and it is the same for all who hear of it.
func ID(d *supervisor.Death) string {
	return d.Ended.UTC().Format(idLayout) + "-" + d.Worker
}

// Report is all that is known of a death.
type Report struct {
	// ID of the death.
	ID string `json:"id"`
	// Version of the stoker that wrote it.
	Version string `json:"version,omitempty"`
	// Generation of the master that saw the death.
	Generation int              `json:"generation,omitempty"`
	Death      supervisor.Death `json:"death"`
	// Uptime of the engine in seconds.
	Uptime float64 `json:"uptime_seconds"`
	// Pool is the state of the pool's workers when the report was made.
	Pool json.RawMessage `json:"pool,omitempty"`
	// Recorded is false where no flight recorder was there to name suspects.
	Recorded bool `json:"recorded"`
	// Summaries has an entry for each suspect, in the same order.
	Summaries []Summary `json:"suspects"`
	// Suspects are the requests that were in flight on the engine, whole.
	Suspects []recorder.Exchange `json:"-"`
	// Trimmed is how many of the last suspects have no bodies, for want of room.
	Trimmed int `json:"trimmed,omitempty"`
}

// Summary is a suspect in a line.
type Summary struct {
	ID      string    `json:"id"`
	Start   time.Time `json:"start"`
	Method  string    `json:"method"`
	Target  string    `json:"target"`
	Size    int64     `json:"request_bytes"`
	Status  int       `json:"status,omitempty"`
	Outcome string    `json:"outcome,omitempty"`
	// File is where all of it is, relative to the report.
	File string `json:"file"`
}

// name of the report's directory.
func (r *Report) name() string {
	// Without the exit, each master has an id of its own.
	if r.Death.Watched && r.Death.Reason != "keeper_lost" {
		return r.ID + partMark + strconv.Itoa(r.Generation)
	}
	return r.ID
}

// isSpare says that a report goes before older ones: see Store.Keep.
func (r *Report) isSpare() bool { return r.Death.Failures > 0 && len(r.Summaries) == 0 }

// begun are the outcomes of answers that an upstream had begun; empty: in flight.
var begun = []exchange.Outcome{
	"", exchange.OutcomeOK, exchange.OutcomeUpstreamBroke, exchange.OutcomeClientGone, exchange.OutcomeDrained, exchange.OutcomeShutdown,
}

// Answered says whether the engine had begun to answer a suspect. What the
// client was told otherwise, such as 502, came from us, or from another worker.
func (r *Report) Answered(x *recorder.Exchange) bool {
	if x.Response == nil || x.Worker != r.Death.Worker {
		return false
	}
	return slices.Contains(begun, exchange.Outcome(x.Outcome))
}

// rank puts the likeliest culprit first: who kills an engine has as a rule just
// come, and has had no answer yet.
func (r *Report) rank() {
	slices.SortStableFunc(r.Suspects, func(a, b recorder.Exchange) int {
		switch first, second := r.Answered(&a), r.Answered(&b); {
		case first && !second:
			return 1
		case second && !first:
			return -1
		default:
			return b.Start.Compare(a.Start)
		}
	})
}

func summary(x *recorder.Exchange, file string) Summary {
	return Summary{
		ID: x.ID, Start: x.Start, Method: x.Request.Method, Target: x.Request.Target,
		Size: x.Request.Body.Size, Status: x.Status, Outcome: x.Outcome, File: file,
	}
}

// withoutBodies is x with the sizes of its bodies alone.
func withoutBodies(x recorder.Exchange) recorder.Exchange {
	x.Request.Body = recorder.Body{Size: x.Request.Body.Size, Omitted: x.Request.Body.Size}
	if x.Response != nil {
		answer := *x.Response
		answer.Body = recorder.Body{Size: answer.Body.Size, Omitted: answer.Body.Size}
		x.Response = &answer
	}
	return x
}
