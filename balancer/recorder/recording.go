package recorder

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// maxAttempts is how many attempts of one exchange are remembered.
const maxAttempts = 4

// Recording is one exchange being recorded. All methods may be called on nil,
// which records nothing. Its exchange's goroutine calls them, but for the body,
// which a transport may read in another.
type Recording struct {
	recorder *Recorder
	body     body

	// Guarded by the recorder's lock.
	prev, next, later *Recording
	ring              *ring

	mu sync.Mutex
	// seq names what is recorded here: a recording is used again. 0: nothing.
	seq      uint64
	head     capture // of the request, see appendHead
	request  capture // body
	answer   capture // head
	response capture // body
	length   int64   // of the request's body as declared, see exchange.Exchange
	whole    bool    // the request's body has been read to its end
	attempts [maxAttempts]attempt
	tries    int
	start    time.Time
	first    time.Time // of the answer's bytes
	end      time.Time // zero while in flight
	pool     string
	status   int
	bytesOut int64
	outcome  exchange.Outcome
	failure  string
}

// attempt is one upstream's share in an exchange.
type attempt struct {
	worker     string
	start, end time.Time
	fault      bool
	status     int
	failure    string
}

// begin records the head. The recording is in no list, but somebody may still
// hold it from its life before.
func (rec *Recording) begin(seq uint64, x *exchange.Exchange) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.seq, rec.start, rec.length = seq, x.Record.Start, x.Length
	if rec.start.IsZero() {
		rec.start = time.Now()
	}
	rec.whole = x.Body == nil
	room := rec.recorder.scratch.Get().(*[]byte)
	*room = rec.recorder.redact.appendHead((*room)[:0], x)
	rec.head.write(*room, rec.recorder.heads, rec.recorder)
	rec.recorder.scratch.Put(room)
	if x.Body != nil {
		rec.body = body{from: x.Body, rec: rec}
		x.Body = &rec.body
	}
}

// release forgets everything.
func (rec *Recording) release(give func(*block)) {
	for _, c := range []*capture{&rec.head, &rec.request, &rec.answer, &rec.response} {
		c.release(give)
	}
	rec.seq, rec.tries, rec.attempts = 0, 0, [maxAttempts]attempt{}
	rec.length, rec.whole, rec.status, rec.bytesOut = 0, false, 0, 0
	rec.start, rec.first, rec.end = time.Time{}, time.Time{}, time.Time{}
	rec.pool, rec.outcome, rec.failure = "", "", ""
}

// Try says that the exchange is given to a worker now.
func (rec *Recording) Try(pool, worker string) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.pool = pool
	rec.tries++
	rec.attempts[min(rec.tries, maxAttempts)-1] = attempt{worker: worker, start: time.Now()}
}

// Tried says that the worker has done with it. fault: it had something of the
// request, and failed by itself.
func (rec *Recording) Tried(err error, fault bool) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	a := &rec.attempts[min(rec.tries, maxAttempts)-1]
	a.end, a.fault, a.status = time.Now(), fault, rec.status
	if err != nil {
		a.failure = err.Error()
	}
}

// Head records the answer's.
func (rec *Recording) Head(r *http1.Response) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.first, rec.status = time.Now(), r.Status
	room := rec.recorder.scratch.Get().(*[]byte)
	*room = append(strconv.AppendInt((*room)[:0], int64(r.Status), 10), '\n')
	*room = rec.recorder.redact.appendFields(*room, r.Fields)
	rec.answer.write(*room, rec.recorder.heads, rec.recorder)
	rec.recorder.scratch.Put(room)
}

// Write records bytes of the answer's body.
func (rec *Recording) Write(p []byte) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	rec.response.write(p, rec.recorder.bodies, rec.recorder)
	rec.mu.Unlock()
}

// Skip counts bytes of the answer's body that were moved inside the kernel:
// to copy them here would cost what that has saved.
func (rec *Recording) Skip(n int64) {
	if rec == nil {
		return
	}
	rec.mu.Lock()
	rec.response.skip(n, rec.recorder.give)
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
	rec.end = time.Now()
	rec.pool, rec.status, rec.outcome = x.Record.Pool, x.Record.Status, x.Record.Outcome
	if x.Record.Err != nil {
		rec.failure = x.Record.Err.Error()
	}
	rec.mu.Unlock()
	rec.recorder.conclude(rec, x.Record.Worker)
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
func (rec *Recording) pinned(now time.Time) bool { return now.Sub(rec.end) < pinTime }

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
	rec.request.write(p[:n], rec.recorder.bodies, rec.recorder)
	rec.whole = rec.whole || errors.Is(err, io.EOF) || rec.length >= 0 && rec.request.size >= rec.length
	rec.mu.Unlock()
	return n, err
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (b *body) Interrupt() {
	if i, ok := b.from.(interface{ Interrupt() }); ok {
		i.Interrupt()
	}
}
