package continuation

// Modes of a pool.
const (
	// Replay sends the same request to another worker.
	Replay = "replay"
	// Continue does, too, and where that would give another answer asks for the rest alone.
	Continue = "continue"
)

// Plan is what is to be done about a stream whose worker has failed it.
type Plan uint8

// The plans.
const (
	// Give up, visibly.
	GiveUp Plan = iota
	// Repeating: the same request goes to another worker, and what the client
	// has had of the answer is held back.
	Repeating
	// Going on: a request for the rest goes to another worker.
	GoingOn
	// Finishing: nothing is missing that needs a worker.
	Finishing
)

// Facts are what Decide goes by.
type Facts struct {
	Mode string
	// Moves is how often the stream has changed workers, Limit how often it may.
	Moves, Limit int
	// Said: the client has had something of the answer itself.
	Said bool
	// Deterministic: whoever is asked gives the same answer. Diverged: somebody
	// did not, or has said what no other would.
	Deterministic, Diverged bool
	// Continues: the answer is text, and who is asked for the rest can give it.
	Continues bool
	// Spent: the client has had as many tokens as it asked for.
	Spent bool
	// Lost: the answer has become too large to be remembered.
	Lost bool
	// Foreign: what the client has had is not in OpenAI's form.
	Foreign bool
	// Finished: every choice has its end; Complete: so has the stream, or what
	// is missing of it is known.
	Finished, Complete bool
}

// Reasons for which a stream is given up.
const (
	GivenUpLimit      = "limit"
	GivenUpDiverged   = "diverged"
	GivenUpRandom     = "not_repeatable"
	GivenUpTooLarge   = "too_large"
	GivenUpNoWorker   = "no_worker"
	GivenUpSuspected  = "suspect"
	GivenUpUnfinished = "usage_unknown"
	GivenUpForeign    = "unknown_form"
)

// Decide says what becomes of a stream, and if it is given up, why.
//
//	finished, and the rest is known                          finishing
//	another kind of stream                                   given up: unknown_form
//	moved as often as it may be                              given up: limit
//	nothing of the answer was sent                           repeating, whatever the request
//	too much was sent to be remembered                       given up: too_large
//	deterministic, and nobody has said anything else         repeating
//	finished, and the usage is missing                       given up: usage_unknown
//	mode continue, text, and all tokens asked for were sent  finishing, if the usage is known; else given up: usage_unknown
//	mode continue, and text that can be continued            going on
//	a worker has said something else                         given up: diverged
//	else                                                     given up: not_repeatable
func Decide(f Facts) (Plan, string) {
	switch {
	case f.Finished && f.Complete:
		return Finishing, ""
	case f.Foreign:
		return GiveUp, GivenUpForeign
	case f.Moves >= f.Limit:
		return GiveUp, GivenUpLimit
	case !f.Said:
		return Repeating, ""
	case f.Lost:
		return GiveUp, GivenUpTooLarge
	case f.Deterministic && !f.Diverged:
		return Repeating, ""
	case f.Finished:
		return GiveUp, GivenUpUnfinished
	case f.Mode == Continue && f.Continues && f.Spent && f.Complete:
		return Finishing, ""
	case f.Mode == Continue && f.Continues && f.Spent:
		return GiveUp, GivenUpUnfinished
	case f.Mode == Continue && f.Continues:
		return GoingOn, ""
	case f.Diverged:
		return GiveUp, GivenUpDiverged
	}
	return GiveUp, GivenUpRandom
}
