package balancer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/sse"
	"stoker/upstream"
)

// Migration says what becomes of a stream of tokens whose worker fails it.
type Migration struct {
	// Mode is continuation.Replay, continuation.Continue, or empty: it breaks.
	Mode string
	// Limit is how often one stream may change workers.
	Limit int
	// Stall is how long a stream that has begun may be without a token; 0: any time.
	Stall time.Duration
	// Seed gives a request a seed that could not be repeated else.
	Seed bool
	// Engine says what the engines can be asked for, where the rest may be.
	Engine continuation.Profile
	// Stream and Memory bound what is held of one stream, and of all in the pool, in bytes.
	Stream, Memory int64
}

// What a stream's worker may have done, beside what transports say.
var (
	errStalled = errors.New("no token for too long")
	errMoved   = errors.New("the stream leaves a worker that is being drained")
)

// refusedError is another worker's that did not take the stream over.
type refusedError struct{ status int }

func (e *refusedError) Error() string {
	return fmt.Sprintf("another worker answered with status %d instead of a stream", e.status)
}

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
	watch watch
	moves int
	// free says whether the stream could go on elsewhere now.
	free *atomic.Int32
	// missed is how often there was no connection to the next.
	missed int
}

var _ exchange.Sink = (*stream)(nil)

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
	if s.plain {
		return err
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

// Interim implements exchange.Sink.
func (s *stream) Interim(status int, fields http1.Fields) error {
	if s.a.begun {
		return nil
	}
	return s.a.Interim(status, fields)
}

// Head implements exchange.Sink. The client gets that of its first worker.
func (s *stream) Head(r *http1.Response, length int64) error {
	events := r.Status == http.StatusOK && length < 0 && isEvents(r.Fields)
	if !s.a.begun {
		s.plain = !events
		return s.a.Head(r, length)
	}
	if !events {
		s.fault = &refusedError{r.Status}
		return s.fault
	}
	return nil
}

func isEvents(fields http1.Fields) bool {
	kind, _, _ := strings.Cut(fields.Get("Content-Type"), ";")
	coding := fields.Get("Content-Encoding")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") && (coding == "" || strings.EqualFold(coding, "identity"))
}

// Write implements exchange.Sink.
func (s *stream) Write(p []byte) (int, error) {
	if s.plain {
		return s.a.Write(p)
	}
	s.watch.enter()
	defer s.watch.leave()
	rest, run := p, p[:0] // run is whole events that go out as they are
	for len(rest) > 0 {
		n := s.split.Next(rest)
		if n < 0 {
			break
		}
		raw := rest[:n]
		rest = rest[n:]
		if len(s.held) > 0 {
			s.held = append(s.held, raw...)
			raw = s.held
		}
		pass, err := s.take(raw)
		if err == nil && pass == continuation.Whole && len(s.held) == 0 {
			run = run[:len(run)+n]
			continue
		}
		if werr := s.write(run); werr != nil {
			return 0, werr
		}
		run = rest[:0]
		if err != nil {
			return 0, err
		}
		switch pass {
		case continuation.Whole:
			err = s.write(raw)
		case continuation.Changed:
			err = s.write(s.events.Changed())
		case continuation.Nothing:
		}
		s.held = s.held[:0]
		if err != nil {
			return 0, err
		}
	}
	if err := s.write(run); err != nil {
		return 0, err
	}
	s.held = append(s.held, rest...)
	if int64(len(s.held)) > s.j.l.rules.Migration.Stream {
		return len(p), s.giveUp()
	}
	return len(p), nil
}

// giveUp lets the stream go on as any other: an event is too large to be held.
func (s *stream) giveUp() error {
	if s.moves > 0 {
		s.fault = errTooLargeEvent
		return s.fault
	}
	s.plain = true
	return s.write(s.held)
}

var errTooLargeEvent = errors.New("an event is too large to be held")

// take takes in one event.
func (s *stream) take(raw []byte) (continuation.Pass, error) {
	if s.first {
		s.first = false
		raw = bytes.TrimPrefix(raw, sse.BOM)
	}
	before := s.events.Shape()
	pass, err := s.events.Take(raw)
	if err != nil {
		s.fault = err
		return pass, err
	}
	if s.events.Progress() {
		s.watch.tick()
	}
	if s.events.Shape() != before {
		s.note()
	}
	if s.moves > 0 && s.events.Caught() {
		s.j.begun()
	}
	return pass, nil
}

func (s *stream) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := s.a.Write(p)
	return err
}

// Flush implements exchange.Sink.
func (s *stream) Flush() error {
	s.watch.enter()
	defer s.watch.leave()
	return s.a.Flush()
}

// Splice implements exchange.Sink: what goes through the kernel nobody can read.
func (s *stream) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if s.plain {
		return s.a.Splice(src, n)
	}
	return rawconn.Copy(flushing{s}, src, n)
}

// flushing writes at once.
type flushing struct{ exchange.Sink }

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Sink.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.Flush()
}

// End implements exchange.Sink. A worker's clean end is the client's only if
// that has had everything.
func (s *stream) End(trailers http1.Fields) error {
	if s.plain {
		return s.a.End(trailers)
	}
	// The end without the empty line after it. Any other event that is not whole
	// no client would heed.
	if last, _ := sse.Parse(s.held, nil); string(last.Data) == "[DONE]" {
		if _, err := s.Write([]byte("\n\n")); err != nil {
			return err
		}
	}
	if !s.events.Whole() {
		s.fault = continuation.ErrEnded
		return s.fault
	}
	return s.a.End(trailers)
}

// Break implements exchange.Sink. Transports do not call it.
func (s *stream) Break(cause error) { s.a.Break(cause) }

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

// maxMissed is how many workers a stream is brought to in vain.
const maxMissed = 16

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
	if s == nil || s.plain || s.events.Whole() || v.outcome == exchange.OutcomeClientGone {
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

// beginStream makes the request's stream, if it is one that could change its
// worker: it reads the body, which whoever comes later must be sent, too.
func (j *journey) beginStream() error {
	x, m := j.x, &j.l.rules.Migration
	if m.Mode == "" || x.Body == nil || x.WebSocket || x.Request.Method != http.MethodPost || !continuation.Concerns(x.Request.Target) {
		return nil
	}
	if coding := x.Request.Fields.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil
	}
	h := &heldBody{from: x.Body, length: x.Length, budget: j.l.budget}
	j.held = h
	whole, err := h.fill(x, min(j.a.table.maxAhead, m.Memory))
	x.Body = h
	if err != nil {
		return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
	}
	if !whole {
		return nil
	}
	if x.Length < 0 && (x.Trailers == nil || len(x.Trailers()) == 0) {
		x.Length, x.Trailers = int64(len(h.data)), nil
	}
	r := continuation.Parse(x.Request.Target, h.data)
	if r == nil || x.Length < 0 {
		return nil
	}
	if m.Seed {
		r = r.Seeded(rand.Uint32() >> 1)
	}
	events := continuation.NewStream(r, m.Engine, m.Stream, j.l.budget)
	if !bytes.Equal(events.First(), h.data) {
		x.Request.Fields = withoutDigests(x.Request.Fields)
		h.data = nil // the other one is sent
	}
	j.s = &stream{j: j, a: j.a, events: events, body: events.First()}
	return nil
}

// endStream gives back what it held, and leaves the exchange as it was.
func (j *journey) endStream() {
	if j.s != nil {
		j.x.Record.ReplayedEvents = j.s.events.Replayed()
		j.s.events.Close()
	}
	if j.held != nil {
		j.x.Body, j.x.Length = j.held.from, j.held.length
		j.held.release()
	}
}
