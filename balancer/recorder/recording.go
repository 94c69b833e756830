package recorder

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// maxAttempts is how many attempts of one exchange are remembered.
const maxAttempts = 4

// Recording is one exchange being recorded. All methods may be called on nil,
// which records nothing. Its exchange's goroutine calls them, but for the body,
// which a transport may read in another.
type Recording struct {
	// What the neighbours in its lists touch comes first, in one line of the
	// processor's cache; all but the end is guarded by the recorder's lock.
	prev, next     *Recording
	earlier, later *Recording
	ring           *ring
	end            time.Time // zero while in flight

	recorder *Recorder
	body     body
	// seq names what is recorded here: a recording is used again.
	seq atomic.Uint64

	// asked is when a death first asked for it, from the start on; 0: none has.
	asked atomic.Int64

	mu sync.Mutex
	// reserve is blocks to be filled next; the recorder's lock guards it when
	// the recording is not in flight.
	reserve  chain
	begun    bool  // what follows is that of seq
	foreign  bool  // it was told by another recorder: see inherit
	heads    chain // of the request, see appendHead, and from split on that of the answer
	split    int64
	request  capture // bodies
	response capture
	length   int64 // of the request's body as declared, see exchange.Exchange
	whole    bool  // the request's body has been read to its end
	attempts []attempt
	only     [1]attempt // room for attempts: few exchanges need more
	start    time.Time
	first    time.Time // of the answer's bytes
	pool     string
	status   int
	outcome  exchange.Outcome
	failure  string
}

// attempt is one upstream's share in an exchange.
type attempt struct {
	worker string
	// From the exchange's start; no end: 0.
	start, end time.Duration
	fault      bool
	status     int
	failure    string
}

// begin records the head. Somebody may still hold the recording from its life before.
func (rec *Recording) begin(x *exchange.Exchange) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.begun, rec.start, rec.length = true, x.Record.Start, x.Length
	if rec.start.IsZero() {
		rec.start = time.Now()
	}
	rec.whole = x.Body == nil
	room := rec.recorder.scratch.Get().(*[]byte)
	*room = rec.recorder.redact.appendHead((*room)[:0], x)
	rec.extend(&rec.heads, *room, headLimit)
	rec.split = rec.heads.size
	rec.recorder.scratch.Put(room)
	if x.Body != nil {
		rec.body = body{from: x.Body, rec: rec}
		x.Body = &rec.body
	}
}

// release forgets everything.
func (rec *Recording) release(give func(*chain)) {
	for _, c := range [...]*chain{&rec.heads, &rec.request.head, &rec.request.tail, &rec.response.head, &rec.response.tail} {
		give(c)
	}
	rec.request, rec.response = capture{}, capture{}
	rec.asked.Store(0)
	rec.begun, rec.foreign, rec.split, rec.length, rec.whole, rec.status = false, false, 0, 0, false, 0
	rec.attempts, rec.only = nil, [1]attempt{}
	rec.start, rec.first, rec.end = time.Time{}, time.Time{}, time.Time{}
	rec.pool, rec.outcome, rec.failure = "", "", ""
}

// Try says that the exchange is given to a worker at a time.
func (rec *Recording) Try(pool, worker string, at time.Time) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.pool = pool
	a := attempt{worker: worker, start: at.Sub(rec.start)}
	switch len(rec.attempts) {
	case 0:
		rec.only[0] = a
		rec.attempts = rec.only[:]
	case maxAttempts:
		rec.attempts[maxAttempts-1] = a
	default:
		rec.attempts = append(rec.attempts, a)
	}
}

// Tried says that the worker has done with it, and when. fault: it had something of
// the request, and failed by itself.
func (rec *Recording) Tried(at time.Time, err error, fault bool) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	a := &rec.attempts[len(rec.attempts)-1]
	a.end, a.fault, a.status = max(at.Sub(rec.start), 1), fault, rec.status
	if err != nil {
		a.failure = err.Error()
	}
}

// Head records the answer's, which came at a time.
func (rec *Recording) Head(r *http1.Response, at time.Time) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.first, rec.status = at, r.Status
	room := rec.recorder.scratch.Get().(*[]byte)
	*room = append(strconv.AppendInt((*room)[:0], int64(r.Status), 10), '\n')
	*room = rec.recorder.redact.appendFields(*room, r.Fields)
	rec.extend(&rec.heads, *room, rec.split+headLimit)
	rec.recorder.scratch.Put(room)
}

// Write records bytes of the answer's body.
func (rec *Recording) Write(p []byte) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	rec.write(&rec.response, p, rec.recorder.bodies)
	rec.mu.Unlock()
}

// Skip counts bytes of the answer's body that were moved inside the kernel:
// to copy them here would cost what that has saved.
func (rec *Recording) Skip(n int64) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	rec.skip(&rec.response, n)
	rec.mu.Unlock()
}

// End says how the exchange has ended, and takes itself off x.Body. The
// recording must not be used afterwards.
func (rec *Recording) End(x *exchange.Exchange) {
	if rec == nil {
		return
	}
	if x.Body == io.Reader(&rec.body) {
		x.Body = rec.body.from
	}
	rec.body = body{}
	rec.mu.Lock()
	rec.end = rec.start.Add(rec.took(x.Record.Outcome))
	rec.pool, rec.status, rec.outcome = x.Record.Pool, x.Record.Status, x.Record.Outcome
	if x.Record.Err != nil {
		rec.failure = x.Record.Err.Error()
	}
	end := rec.end
	rec.mu.Unlock()
	rec.recorder.conclude(rec, x.Record.Worker, end)
}

// took is how long it took. What went well was over with its last attempt:
// to read the clock is a tenth of what recording a small request costs.
func (rec *Recording) took(how exchange.Outcome) time.Duration {
	if n := len(rec.attempts); how == exchange.OutcomeOK && n > 0 && rec.attempts[n-1].end != 0 {
		return rec.attempts[n-1].end
	}
	return time.Since(rec.start)
}

// failed says whether a worker had something of it, and failed by itself.
func (rec *Recording) failed() bool {
	// No lock: what has ended is not written any more before it is recycled,
	// which nobody does to what is in a list.
	for i := range rec.attempts {
		if rec.attempts[i].fault {
			return true
		}
	}
	return false
}

// pinned says whether a death may still ask for it, which has failed.
func (rec *Recording) pinned(now time.Time) bool {
	if asked := rec.asked.Load(); asked != 0 && now.Sub(rec.start)-time.Duration(asked) >= askedTime {
		return false
	}
	return now.Sub(rec.end) < pinTime
}

// suspected notes that a death has asked for it.
func (rec *Recording) suspected() {
	rec.asked.CompareAndSwap(0, int64(max(time.Since(rec.start), 1)))
}

// body records what a transport reads.
type body struct {
	from io.Reader
	rec  *Recording
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	rec := b.rec
	rec.mu.Lock()
	rec.write(&rec.request, p[:n], rec.recorder.bodies)
	rec.whole = rec.whole || errors.Is(err, io.EOF) || rec.length >= 0 && rec.request.size >= rec.length
	rec.mu.Unlock()
	return n, err
}

// Move implements exchange.Mover for what lies between a body's beginning and
// its end, which are kept and so must be read.
func (b *body) Move(dst *rawconn.Conn, n int64) (int64, error) {
	from, able := b.from.(exchange.Mover)
	if !able {
		return 0, nil
	}
	rec := b.rec
	rec.mu.Lock()
	between := rec.length - rec.request.size - rec.recorder.bodies.tail
	if !rec.request.cut {
		between = 0
	}
	rec.mu.Unlock()
	if between <= 0 {
		return 0, nil
	}
	moved, err := from.Move(dst, min(n, between))
	rec.mu.Lock()
	rec.skip(&rec.request, moved)
	rec.mu.Unlock()
	return moved, err
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (b *body) Interrupt() {
	if i, ok := b.from.(interface{ Interrupt() }); ok {
		i.Interrupt()
	}
}
