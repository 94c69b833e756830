// Package recorder is a flight recorder: it keeps the last exchanges of every
// worker and all that are in flight, head and tail of their bodies, in a fixed
// amount of memory, so that when an engine dies somebody can say what it was
// doing. It knows nothing of pools, attempts or deaths beyond their names, and
// never makes a request wait for a reader longer than one copy takes.
//
// # Memory
//
// Bodies and heads lie in blocks of half a KiB, in memory outside Go's heap that
// the kernel gives as it is used. When the budget is used up the exchange that
// ended longest ago gives its blocks up, and when none has ended, what comes is
// counted and not kept. The Recordings themselves, half a KiB each, come on top:
// their number is bounded by Keep and by what is in flight.
//
// # Locks
//
// A Recording's lock guards what it holds; the Recorder's guards the lists and
// the free blocks. They are taken in the order: a recording in flight, one that
// has ended, the recorder. Readers take the recorder's first, let it go, and then
// one recording's after the other. A small request takes the recorder's twice:
// what it needs of blocks lies ready in the Recording, from its life before.
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

// askedTime is how long it is kept for that once a death has asked for it.
const askedTime = 2 * time.Second

// pinMost is how many are kept for that beyond Keep: an upstream that fails
// everything would fill the memory with one kind of request.
const pinMost = 1024

// Recorder keeps exchanges. A nil one records nothing and costs nothing. Its
// methods may be called by anybody at any time.
type Recorder struct {
	keep   int
	bodies limits
	redact *Redactor

	mu       sync.Mutex
	arena    arena
	seq      uint64
	spares   spares
	inFlight list
	ended    list              // in the order of their ends
	rings    map[string]*rings // the same, by worker

	scratch sync.Pool // of *[]byte: heads on their way into blocks
}

// New returns a recorder that has recorded nothing; an error says that there is
// no room for its budget.
func New(o Options) (*Recorder, error) {
	tail := int64(o.BodyLimit / 4)
	r := &Recorder{
		keep:   o.Keep,
		bodies: limits{head: int64(o.BodyLimit) - tail, tail: tail},
		redact: o.Redactor,
		rings:  map[string]*rings{},

		scratch: sync.Pool{New: func() any { return new([]byte) }},
	}
	var err error
	if r.arena, err = newArena(r, o.Memory); err != nil {
		return nil, err
	}
	return r, nil
}

// Begin records x from here on, including what is read of its body: it puts
// itself before x.Body. The head is taken as it is now. End must follow.
func (r *Recorder) Begin(x *exchange.Exchange) *Recording {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	rec := r.newLocked()
	r.inFlight.add(rec)
	r.mu.Unlock()
	rec.begin(x)
	return rec
}

// newLocked is a recording in which nothing is recorded yet.
func (r *Recorder) newLocked() *Recording {
	rec := r.spares.take()
	if rec == nil {
		rec = &Recording{recorder: r}
	}
	r.seq++
	rec.seq.Store(r.seq)
	return rec
}

// conclude moves a recording from those in flight to those that have ended, and
// lets go of the oldest where there are too many.
func (r *Recorder) conclude(rec *Recording, worker string, now time.Time) {
	failed := rec.failed()
	r.mu.Lock()
	r.inFlight.remove(rec)
	r.arena.free.prepend(&r.arena, &rec.reserve)
	r.ended.conclude(rec)
	rings := r.ringsLocked(worker)
	rings.of(failed).conclude(rec)
	busy := r.trimLocked(&rings.well, nil, now)
	// Nor is what failed kept for ever where nothing more fails.
	busy = r.trimLocked(&rings.failed, busy, now)
	r.mu.Unlock()
	for busy != nil {
		next := busy.next
		r.recycle(busy)
		busy = next
	}
}

func (r *Recorder) ringsLocked(worker string) *rings {
	q := r.rings[worker]
	if q == nil {
		q = &rings{failed: ring{pins: true}}
		r.rings[worker] = q
	}
	return q
}

// trimLocked lets go of what a ring has too much of: of what went well the oldest
// beyond keep, of what failed those that no death asks for any more. Those that
// somebody is reading are added to busy.
func (r *Recorder) trimLocked(q *ring, busy *Recording, now time.Time) *Recording {
	for q.length > r.keep && (!q.pins || q.length > r.keep+pinMost || !q.first.pinned(now)) {
		victim := q.first
		r.detachLocked(victim)
		// In the other order of locks one may only try.
		if !victim.mu.TryLock() {
			victim.next, busy = busy, victim
			continue
		}
		r.recycleLocked(victim)
		victim.mu.Unlock()
	}
	return busy
}

// detachLocked takes one that has ended out of all lists.
func (r *Recorder) detachLocked(rec *Recording) {
	rec.ring.remove(rec)
	r.ended.remove(rec)
}

// recycle takes everything out of a recording that is in no list.
func (r *Recorder) recycle(rec *Recording) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recycleLocked(rec)
}

// recycleLocked does so under both locks.
func (r *Recorder) recycleLocked(rec *Recording) {
	rec.release(func(c *chain) {
		if rec.reserve.blocks+c.blocks <= reserveMost {
			rec.reserve.prepend(&r.arena, c)
		} else {
			r.arena.free.prepend(&r.arena, c)
		}
	})
	if !r.spares.keep(rec, r.inFlight.length) {
		r.arena.free.prepend(&r.arena, &rec.reserve)
	}
}

// take gives up to n free blocks, if need be those of the exchange which ended
// first, and none when what is in flight has them all.
func (r *Recorder) take(n int) chain {
	for {
		r.mu.Lock()
		c := r.arena.take(n)
		if c.first == 0 {
			r.spares.strip(&r.arena)
			c = r.arena.take(n)
		}
		victim := r.ended.first
		if c.first != 0 || victim == nil {
			r.mu.Unlock()
			return c
		}
		r.detachLocked(victim)
		r.mu.Unlock()
		r.recycle(victim)
	}
}
