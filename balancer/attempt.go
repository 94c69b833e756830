package balancer

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"stoker/balancer/compression"
	"stoker/balancer/continuation"
	"stoker/balancer/guard"
	"stoker/balancer/recorder"
	"stoker/balancer/tokens"
	"stoker/balancer/tracing"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/upstream"
)

// attempt is the sink that members answer to. It stands between a transport
// and the client's sink, and notes what passes; all attempts of one request
// share it, since only the first answer that begins can be sent.
type attempt struct {
	carried
	// What is of use to the next request, too.
	fields     http1.Fields         // of head, ours
	pass       guard.Pass           // what the guard has granted
	meter      tokens.Meter         // of the answer
	prefix     upstream.Prefix      // of the prompt, where the pool goes by that
	ending     *continuation.Ending // of a stream of tokens; made at the first
	trailersOf func() http1.Fields  // trailers, bound once
}

// carried is what an attempt has of its request alone.
type carried struct {
	x      *exchange.Exchange
	record *recorder.Recording // nil: nothing is recorded
	begun  bool
	ends   bool // ending says whether the answer is whole

	packing *unpacker // of an answer that the engine has compressed; nil: it has not
	journey journey   // of the request, here for the room alone
	head    http1.Response
	body    limitedBody // of the request, where its length is not known
	// trailersFrom are the client's trailers.
	trailersFrom func() http1.Fields

	table *table // by which the request is carried
	route *route // nil until it is found
	ahead ahead
	fault error // why the answer was none, if the transport does not know
	// target is what the client asked for, where the engine is asked for another.
	target string
	cookie string // that the client is given, see Affinity

	smaller compression.Wish  // what the client accepts
	packed  *compression.Sink // that the answer goes through; nil: none
	trace   *tracing.Request  // nil: none
}

var _ exchange.Upgrader = (*attempt)(nil)

// emptyAttempt is one to be used again and again.
func emptyAttempt() any {
	a := new(attempt)
	a.trailersOf = a.trailers
	return a
}

func (b *Balancer) newAttempt(x *exchange.Exchange) *attempt {
	a := b.attempts.Get().(*attempt)
	a.x, a.record = x, b.recorder.Begin(x)
	if x.Length < 0 && x.Trailers != nil {
		a.trailersFrom, x.Trailers = x.Trailers, a.trailersOf
	}
	return a
}

// free forgets everything but the room for fields.
func (b *Balancer) free(a *attempt) {
	a.ahead.end(a.x)
	a.packing.close()
	a.unpack()
	a.trace.End(a.x, a.route.pattern())
	if a.target != "" {
		a.x.Request.Target = a.target
	}
	a.record.End(a.x)
	a.pass.Leave(a.x)
	clear(a.fields)
	a.carried = carried{}
	a.fields, a.prefix = a.fields[:0], a.prefix[:0]
	b.attempts.Put(a)
}

// Interim implements exchange.Sink. 100 is kept back: Expect was not passed on,
// so it answers nothing that the client has asked.
func (a *attempt) Interim(status int, fields http1.Fields) error {
	if status == http.StatusContinue {
		return nil
	}
	return a.x.Sink.Interim(status, fields)
}

// Head implements exchange.Sink. The request's id is ours, whatever the engine
// may call it.
func (a *attempt) Head(r *http1.Response, length int64) error {
	r, err := a.open(r, length)
	if err != nil {
		return err
	}
	a.note(r)
	a.measure(r)
	err = a.x.Sink.Head(&a.head, a.compress(length))
	a.forget()
	return err
}

// note makes the answer's head of an upstream's.
func (a *attempt) note(r *http1.Response) {
	a.begun = true
	a.journey.begun()
	a.x.Record.FirstByte = time.Now()
	a.x.Record.Status = r.Status
	a.fields = a.fields[:0]
	for _, f := range r.Fields {
		if !isName(f.Name, requestIDField) && !a.pass.Owns(f.Name) {
			a.fields = append(a.fields, f)
		}
	}
	if a.route != nil && !a.route.response.empty() {
		a.fields = a.route.response.apply(a.fields)
	}
	if a.cookie != "" {
		a.fields = giveCookie(a.fields, a.cookie)
	}
	a.fields = append(a.fields, http1.Field{Name: requestIDField, Value: a.x.Record.ID})
	a.fields = a.pass.AppendFields(a.fields)
	a.head = http1.Response{Status: r.Status, Reason: r.Reason, Fields: a.fields}
	a.record.Head(&a.head, a.x.Record.FirstByte)
}

// forget keeps the status alone: the transport lets go of what the rest views.
func (a *attempt) forget() {
	a.head.Reason, a.head.Fields = "", nil
	clear(a.fields)
}

// Upgrade implements exchange.Upgrader.
func (a *attempt) Upgrade(r *http1.Response) (exchange.Tunnel, error) {
	up, able := a.x.Sink.(exchange.Upgrader)
	if !able {
		return nil, errNoUpgrade
	}
	a.note(r)
	t, err := up.Upgrade(&a.head)
	a.forget()
	if err != nil {
		return nil, err
	}
	return &tunnel{t, a}, nil
}

// prepare makes of the client's request the one that the engine gets.
func (a *attempt) prepare(r *route) {
	x := a.x
	if x.Request.Method == http.MethodPost && continuation.Concerns(x.Request.Target) {
		// What an engine has compressed has to be unpacked, to tell its end from a
		// break. Who wants the answer smaller has that from us.
		x.Request.Fields = x.Request.Fields.Without("Accept-Encoding")
	}
	a.rename(r)
	if r.rewrite != nil {
		// A copy: the front may let go of what it has read before the log is written.
		a.target = strings.Clone(x.Request.Target)
		x.Request.Target = r.rewritten(a.target)
	}
	if !r.request.empty() {
		x.Request.Fields = r.request.apply(x.Request.Fields)
	}
}

// Write implements exchange.Sink.
func (a *attempt) Write(p []byte) (int, error) {
	if a.packing == nil {
		return a.write(p)
	}
	n, err := a.packing.Write(p)
	a.noteDamage()
	return n, err
}

// noteDamage takes in that what the engine has compressed cannot be unpacked.
func (a *attempt) noteDamage() {
	if err := a.packing.fault(); err != nil {
		a.fault = &upstream.Failure{Op: upstream.OpMalformed, Sent: true, Begun: true, Err: err}
	}
}

// write sends what is not compressed.
func (a *attempt) write(p []byte) (int, error) {
	a.journey.relieve() // its prompt is read
	a.record.Write(p)
	a.meter.Write(p)
	if a.ends {
		a.ending.Write(p)
	}
	n, err := a.x.Sink.Write(p)
	a.x.Record.BytesOut += int64(n)
	return n, err
}

// Flush implements exchange.Sink.
func (a *attempt) Flush() error { return a.x.Sink.Flush() }

// Splice implements exchange.Sink. What goes through the kernel nobody can read.
func (a *attempt) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if a.ends {
		return rawconn.Copy(flushing{a}, src, n)
	}
	a.journey.relieve()
	moved, err := a.x.Sink.Splice(src, n)
	a.x.Record.BytesOut += moved
	a.record.Skip(moved)
	a.meter.Skip()
	return moved, err
}

// End implements exchange.Sink. An engine's clean end is the client's only where
// it is an end.
func (a *attempt) End(trailers http1.Fields) error {
	if err := a.packing.end(); err != nil {
		a.noteDamage()
		return err
	}
	if a.ends && !a.ending.Whole() {
		a.fault = cutShort()
		return continuation.ErrEnded
	}
	return a.x.Sink.End(trailers)
}

// Break implements exchange.Sink. Transports do not call it.
func (a *attempt) Break(cause error) { a.x.Sink.Break(cause) }

// isFault says, for the record, whether a member had something of the request
// and failed: what it may have died of. Blame is another matter, see classify.
func isFault(err error) bool {
	if err == nil {
		return false // without the allocation that asking takes
	}
	var failure *upstream.Failure
	if !errors.As(err, &failure) || !failure.Sent {
		return false
	}
	return failure.Op != upstream.OpCanceled && failure.Op != upstream.OpClientBody && failure.Op != upstream.OpClientWrite
}
