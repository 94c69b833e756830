// Package recorder is a flight recorder: it keeps the last exchanges of every
// worker and all that are in flight, head and tail of their bodies, in a fixed
// amount of memory, so that when an engine dies somebody can say what it was
// doing. It knows nothing of pools, attempts or deaths beyond their names, and
// never makes a request wait for a reader longer than one copy takes.
//
// # Memory
//
// Bodies and heads lie in blocks of 2 KiB. Blocks are made until the budget is
// used up; then the exchange that ended longest ago gives its blocks up, and
// when none has ended, what comes is counted and not kept. The Recordings
// themselves, 1 KiB each, come on top: their number is bounded by Keep and by what
// is in flight.
//
// # Locks
//
// A Recording's lock guards what it holds; the Recorder's guards the lists and
// the free blocks. They are taken in the order: a recording in flight, one that
// has ended, the recorder. Readers take the recorder's first, let it go, and then
// one recording's after the other.
//
// # Secrets
//
// Fields whose names are secret are replaced before they are kept. Patterns are
// looked for when an exchange is read: a secret may come in two chunks.
package recorder

import (
	"sync"
	"time"

	"stoker/exchange"
)

// Options are what a recorder is made with.
type Options struct {
	// Keep is how many exchanges that have ended are kept for each worker.
	Keep int
	// BodyLimit is how many bytes of each body are kept: three quarters of them
	// its beginning, the rest its end.
	BodyLimit int
	// Memory is the budget in bytes for everything that is kept.
	Memory int64
	// Redactor says what is secret.
	Redactor *Redactor
}

// headLimit is how much of a head is kept; fronts accept no larger ones.
const headLimit = 32 << 10

// pinTime is how long an exchange that an upstream broke is kept even when its
// worker has more than Keep: when an engine dies all its exchanges end at once,
// and its death is reported only when the last of its processes has gone.
const pinTime = 15 * time.Second

// pinMost is how many are kept for that beyond Keep: an upstream that fails
// everything would fill the memory with one kind of request.
const pinMost = 1024

// Recorder keeps exchanges. A nil one records nothing and costs nothing. Its
// methods may be called by anybody at any time.
type Recorder struct {
	keep   int
	bodies limits
	heads  limits
	redact *Redactor

	mu       sync.Mutex
	seq      uint64
	free     *block
	unmade   int // blocks that may still be made
	spare    *Recording
	inFlight list
	ended    list              // in the order of their ends
	rings    map[ringKey]*ring // the same, by worker

	scratch sync.Pool // of *[]byte: heads on their way into blocks
}

// New returns a recorder that has recorded nothing.
func New(o Options) *Recorder {
	tail := int64(o.BodyLimit / 4)
	return &Recorder{
		keep:   o.Keep,
		bodies: limits{head: int64(o.BodyLimit) - tail, tail: tail},
		heads:  limits{head: headLimit},
		redact: o.Redactor,
		unmade: int(o.Memory / blockSize),
		rings:  map[ringKey]*ring{},

		scratch: sync.Pool{New: func() any { return new([]byte) }},
	}
}

// Begin records x from here on, including what is read of its body: it puts
// itself before x.Body. The head is taken as it is now. End must follow.
func (r *Recorder) Begin(x *exchange.Exchange) *Recording {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	rec := r.spare
	if rec == nil {
		rec = &Recording{recorder: r}
	} else {
		r.spare = rec.next
		rec.next = nil
	}
	r.seq++
	seq := r.seq
	r.mu.Unlock()

	rec.begin(seq, x)

	r.mu.Lock()
	r.inFlight.add(rec)
	r.mu.Unlock()
	return rec
}

// ringKey names a ring. What its worker failed has one of its own: held in one
// row with the rest, each failure kept all that came after it, too.
type ringKey struct {
	worker string
	failed bool
}

// conclude moves a recording from those in flight to those that have ended, and
// lets go of the oldest where there are too many.
func (r *Recorder) conclude(rec *Recording, worker string) {
	r.mu.Lock()
	r.inFlight.remove(rec)
	r.ended.add(rec)
	key := ringKey{worker, rec.failed()}
	q := r.rings[key]
	if q == nil {
		q = new(ring)
		r.rings[key] = q
	}
	rec.ring = q
	q.add(rec)
	oldest := r.surplusLocked(worker, rec.end)
	r.mu.Unlock()
	for oldest != nil {
		next := oldest.next
		r.recycle(oldest)
		oldest = next
	}
}

// surplusLocked takes out what there is too much of for a worker: of what went
// well the oldest beyond keep, of what failed those that no death asks for any more.
func (r *Recorder) surplusLocked(worker string, now time.Time) (oldest *Recording) {
	take := func(q *ring) {
		victim := r.detachLocked(q.first)
		victim.next, oldest = oldest, victim
	}
	if q := r.rings[ringKey{worker, false}]; q != nil {
		for q.length > r.keep {
			take(q)
		}
	}
	if q := r.rings[ringKey{worker, true}]; q != nil {
		for q.length > r.keep+pinMost || q.length > r.keep && !q.first.pinned(now) {
			take(q)
		}
	}
	return oldest
}

// detachLocked takes the oldest of a ring out of all lists.
func (r *Recorder) detachLocked(rec *Recording) *Recording {
	rec.ring.shift()
	r.ended.remove(rec)
	return rec
}

// recycle takes everything out of a recording that is in no list.
func (r *Recorder) recycle(rec *Recording) {
	rec.mu.Lock()
	var blocks chain
	rec.release(func(b *block) { blocks.push(b) })
	rec.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if blocks.last != nil {
		blocks.last.next, r.free = r.free, blocks.first
	}
	rec.next, r.spare = r.spare, rec
}

// take implements source: a free block, a new one, or that of the exchange which ended first.
func (r *Recorder) take() *block {
	for {
		r.mu.Lock()
		if b := r.free; b != nil {
			r.free = b.next
			r.mu.Unlock()
			return b
		}
		if r.unmade > 0 {
			r.unmade--
			r.mu.Unlock()
			return new(block)
		}
		victim := r.ended.first
		if victim == nil {
			r.mu.Unlock()
			return nil
		}
		r.detachLocked(victim)
		r.mu.Unlock()
		r.recycle(victim)
	}
}

func (r *Recorder) give(b *block) {
	r.mu.Lock()
	b.next, r.free = r.free, b
	r.mu.Unlock()
}

// list is recordings, oldest first.
type list struct{ first, last *Recording }

func (l *list) add(rec *Recording) {
	rec.prev, rec.next = l.last, nil
	if l.last == nil {
		l.first = rec
	} else {
		l.last.next = rec
	}
	l.last = rec
}

func (l *list) remove(rec *Recording) {
	if rec.prev == nil {
		l.first = rec.next
	} else {
		rec.prev.next = rec.next
	}
	if rec.next == nil {
		l.last = rec.prev
	} else {
		rec.next.prev = rec.prev
	}
	rec.prev, rec.next = nil, nil
}

// ring is what has ended on one worker, oldest first. The first of all lists
// is the first of its ring too, so that only firsts are ever taken out.
type ring struct {
	first, last *Recording
	length      int
}

func (q *ring) add(rec *Recording) {
	rec.later = nil
	if q.last == nil {
		q.first = rec
	} else {
		q.last.later = rec
	}
	q.last = rec
	q.length++
}

func (q *ring) shift() {
	rec := q.first
	q.first = rec.later
	if q.first == nil {
		q.last = nil
	}
	q.length--
	rec.later, rec.ring = nil, nil
}
