package balancer

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"

	"stoker/balancer/continuation"
	"stoker/internal/sse"
	"stoker/upstream"
)

// What a stream's worker may have done, beside what transports say.
var (
	errStalled = errors.New("no token for too long")
	errMoved   = errors.New("the stream leaves a worker that is being drained")
)

// stream is the sink of a request for a stream of tokens, in a pool that lets
// such streams change their worker. It stands between the transport and attempt,
// passes on whole events alone, and notes what they say: package continuation
// knows what that is. In other pools, and for other requests, there is none.
//
//	worker's end                                   then
//	before the client has had a head               as any other request's, see classify
//	after [DONE]                                   the end
//	anything else, no matter how                   continuation.Decide
type stream struct {
	j      *journey
	a      *attempt
	events *continuation.Stream
	body   []byte
	reader bytes.Reader

	split sse.Splitter
	held  []byte // of an event that is not whole yet
	first bool   // no event has come yet from the present worker
	plain bool   // the answer is no stream of events
	fault error  // why the present worker's part is over, if the transport does not know
	// packing of what the present worker has compressed; nil: it has not.
	packing *unpacker
	watch   watch
	moves   int
	// free says whether the stream could go on elsewhere now.
	free *atomic.Int32
	// missed is how often there was no connection to the next.
	missed int
}

// carry lets a member answer, and says how that ended as far as the stream's
// worker is concerned.
func (s *stream) carry(ctx context.Context, lease Lease) error {
	s.split, s.held, s.first, s.fault = sse.Splitter{}, s.held[:0], true, nil
	s.reader.Reset(s.body)
	s.j.x.Body, s.j.x.Length = &s.reader, int64(len(s.body))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.free = new(atomic.Int32)
	s.note()
	if m, ok := lease.(interface {
		OnMove(leave func() bool) (forget func())
	}); ok {
		free := s.free
		defer m.OnMove(func() bool {
			goes := free.CompareAndSwap(mayMove, moves)
			if goes {
				cancel(errMoved)
			}
			return goes
		})()
	}
	s.watch.begin(s.j.l.rules.Migration.Stall, s.moves > 0, func() { cancel(errStalled) })
	err := lease.Do(ctx, s.j.x, s)
	s.watch.end()
	s.packing.close()
	s.packing = nil
	return s.outcome(err)
}

// Whether a stream could go on elsewhere.
const (
	mustStay int32 = iota
	mayMove
	moves // it has been asked to, and does
)

// note keeps free true to what has been sent.
func (s *stream) note() {
	was := s.free.Load()
	switch can := s.canMove(); {
	case can && was == mustStay:
		s.free.Store(mayMove)
	case !can && was == mayMove:
		s.free.CompareAndSwap(mayMove, mustStay)
	}
}

// canMove says whether another worker could go on.
func (s *stream) canMove() bool {
	plan, _ := continuation.Decide(s.facts())
	return !s.plain && (plan == continuation.Repeating || plan == continuation.GoingOn)
}

// facts are what is known of the stream.
func (s *stream) facts() continuation.Facts {
	facts, m := s.events.Facts(), &s.j.l.rules.Migration
	facts.Mode, facts.Limit, facts.Moves = m.Mode, m.Limit, s.moves
	return facts
}

// outcome is a worker's end as classify is to see it.
func (s *stream) outcome(err error) error {
	if s.plain && s.fault == nil {
		return s.a.whole(err)
	}
	if s.fault != nil {
		return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: s.fault}
	}
	failure, ok := errors.AsType[*upstream.Failure](err)
	if !ok {
		return err
	}
	failure.Replayable = true
	failure.Begun = s.a.begun
	if failure.Op == upstream.OpCanceled && errors.Is(failure.Err, errStalled) {
		failure.Op = upstream.OpRead
	}
	return failure
}
