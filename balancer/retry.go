package balancer

import (
	"time"

	"stoker/exchange"
)

// maxMissed is how many workers a request, or a stream that moves, is brought to in vain.
const maxMissed = 16

// mayRetry says whether the request may be tried on another member.
func (j *journey) mayRetry(v *verdict) bool {
	record := &j.x.Record
	if !v.retry || !j.mayMiss(v) && record.Attempts-j.missed >= j.l.rules.Attempts {
		return false
	}
	if !j.retrying { // the budget counts requests
		if !j.l.mayRetry(&j.l.rules, v) {
			record.BudgetExhausted = true
			v.add("it was not tried again, since too many others are (retry.budget_percent)")
			return false
		}
		j.retrying = true
	}
	record.Retries = append(record.Retries, v.code)
	return true
}

// mayMiss says whether a member that refused the connection does not count as one
// that the request was tried on: it has had nothing of it, and has left the pool by it.
// Several that died together once used up all attempts of a request that others could
// have served. One that comes back and refuses again must not keep it for ever. Who
// wants nothing tried again (attempts = 1) has that.
func (j *journey) mayMiss(v *verdict) bool {
	if !v.refused || j.l.rules.Attempts <= 1 {
		return false
	}
	if j.missed == 0 {
		j.missing = time.Now()
	}
	if j.missed >= maxMissed || time.Since(j.missing) > j.l.rules.QueueTimeout {
		return false
	}
	j.missed++
	return true
}

// stranded is the end of a request that finds no place. Who has been on an engine
// that died is told of that: it is what has happened to it.
func (j *journey) stranded(err error) verdict {
	v := classify(err)
	none := v.outcome == exchange.OutcomeUnavailable || v.outcome == exchange.OutcomeQueueFull || v.outcome == exchange.OutcomeQueueTimeout
	if none {
		j.s.strand()
	}
	if none && j.last.died {
		j.last.add(untried(v.outcome))
		return j.last
	}
	return v
}

// untried says why a suspect was not tried once more.
func untried(by exchange.Outcome) string {
	if by == exchange.OutcomeQueueFull {
		return "the worker died, and too many others wait to be tried again (queue.length)"
	}
	if by == exchange.OutcomeUnavailable {
		return "the worker died, and no other became ready for it to be tried again (queue.timeout)"
	}
	return "the worker died, and its turn to be tried again apart from others did not come in time (queue.timeout)"
}
