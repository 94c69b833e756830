package balancer

import (
	"bytes"
	"errors"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/upstream"
)

// concerns says whether the end of an attempt is one that another worker could
// make good.
func (s *stream) concerns(v *verdict) bool {
	if s == nil || s.plain || v.outcome == exchange.OutcomeOK {
		return false
	}
	failure, ok := errors.AsType[*upstream.Failure](v.err)
	switch {
	case !ok:
		return false
	case failure.Op == upstream.OpCanceled:
		return errors.Is(failure.Err, errMoved)
	case failure.Op == upstream.OpClientBody, failure.Op == upstream.OpClientWrite:
		return false
	}
	return s.a.begun
}

// next says whether another worker is to be tried after v, and if not how the
// request ends.
func (s *stream) next(v verdict) (again bool, end verdict) {
	record := &s.j.x.Record
	// Whom it did not reach has cost it nothing: two workers that died together
	// once used up a stream's moves before either had left the pool.
	if s.moves > 0 && !sent(v) && s.missed < maxMissed {
		s.missed++
		return true, v
	}
	if continuation.Diverged(s.fault) {
		s.events.Diverge()
	}
	plan, why := continuation.Decide(s.facts())
	if errors.Is(s.fault, errTooLargeEvent) {
		plan, why = continuation.GiveUp, continuation.GivenUpTooLarge
	}
	if v.died && plan != continuation.Finishing && !s.j.again {
		plan, why = continuation.GiveUp, continuation.GivenUpSuspected
	}
	record.ReplayedEvents = s.events.Replayed()
	switch plan {
	case continuation.Repeating:
		s.events.Repeat()
		s.body = s.events.First()
		s.moves++
		record.Moves = append(record.Moves, exchange.Move{Mode: continuation.Replay, Reason: s.reason(&v)})
		return true, v
	case continuation.Finishing:
		record.Moves = append(record.Moves, exchange.Move{Mode: modeTail, Reason: s.reason(&v)})
		return false, s.finish()
	case continuation.GoingOn:
		s.body = s.events.GoOn()
		s.moves++
		record.Moves = append(record.Moves, exchange.Move{Mode: continuation.Continue, Reason: s.reason(&v)})
		return true, v
	case continuation.GiveUp:
	}
	record.NotMoved = why
	return false, v
}

// strand is told that no worker could be had in time.
func (s *stream) strand() {
	if s != nil && s.a.begun && !s.plain {
		s.j.x.Record.NotMoved = continuation.GivenUpNoWorker
	}
}

// modeTail is a stream's of which nothing was missing that needs a worker.
const modeTail = "tail"

// reason says in one word why a stream leaves its worker.
func (s *stream) reason(v *verdict) string {
	_, refused := errors.AsType[*refusedError](s.fault)
	switch {
	case v.died:
		return "died"
	case errors.Is(v.err, errMoved):
		return "drained"
	case errors.Is(v.err, errStalled):
		return "stalled"
	case refused:
		return "refused"
	case continuation.Diverged(s.fault):
		return "diverged"
	case errors.Is(s.fault, continuation.ErrEvent):
		return "error"
	case errors.Is(s.fault, continuation.ErrEnded):
		return "ended"
	}
	return "broke"
}

// finish gives the client what is missing.
func (s *stream) finish() verdict {
	err := s.write(s.events.Tail())
	if err == nil {
		err = s.a.End(nil)
	}
	if err != nil {
		return classify(&upstream.Failure{Op: upstream.OpClientWrite, Sent: true, Begun: true, Err: err})
	}
	return classify(nil)
}

// lament tells the client in its own stream what has become of it. The connection
// breaks as well: not every client reads this, and none must take what it has
// had for the whole.
func (s *stream) lament(v verdict) {
	if s == nil || s.plain || s.events.Whole() || s.events.Foreign() || v.outcome == exchange.OutcomeClientGone {
		return
	}
	if v.outcome != exchange.OutcomePoison {
		v.code, v.message = "stream_broken", "the answer broke off and nobody could go on with it: what has come of it is not the whole"
	}
	if v.kind == "" {
		v.kind = typeUpstreamError
	}
	out := append([]byte("data: "), bytes.TrimSpace(errorBody(v))...)
	if s.write(append(out, "\n\n"...)) == nil {
		_ = s.a.Flush() // who cannot be written to will see it broken all the same
	}
}
