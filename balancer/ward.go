package balancer

import (
	"sync"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/upstream"
)

// ward watches over the requests of one pool of engines: those in flight, those
// that ended badly a moment ago, and the last that were answered well. When an
// engine dies it tells the court who was there.
//
//	in flight on the engine                                       suspects
//	ended badly on it within lastGasp: broken off, 5xx, given up  suspects: an API server whose engine core has
//	                                                              died breaks or fails everything, and ends later
//	answered well, on any engine, the last of the pool            their like is no suspect
//
// A request costs two holds of its lock, and a copy of its bytes.
type ward struct {
	pool    string
	court   *quarantine.Court
	pools   *evidencePools
	scratch *sync.Pool // of *[]byte

	mu       sync.Mutex
	inFlight *evidence
	bad      []badEnd // by their end
	good     [goodEnds]*evidence
	nextGood int
	deaths   map[string]lastDeath // by worker
	news     chan struct{}        // closed when an attempt has ended; nil: nobody waits for that
}

// badEnd is what is left of a request that ended badly.
type badEnd struct {
	worker string
	copied copied
}

// lastDeath is the latest on a worker.
type lastDeath struct {
	at time.Time
	// requests that were in flight.
	requests int
	named    bool
}

const (
	// goodEnds is how many of the last good answers are remembered: who asks what
	// everybody asks is among them.
	goodEnds = 64
	// badEnds bounds the bad ones.
	badEnds = 256
	// lastGasp is for how long before its death an engine may have failed
	// requests because of what it dies of.
	lastGasp = 2 * time.Second
)

func newWard(pool string, court *quarantine.Court, pools *evidencePools, scratch *sync.Pool) *ward {
	return &ward{pool: pool, court: court, pools: pools, scratch: scratch, deaths: map[string]lastDeath{}}
}

// begin watches over x. A nil ward watches over nobody.
func (w *ward) begin(x *exchange.Exchange) *evidence {
	if w == nil {
		return nil
	}
	e := w.pools.take(x.Length)
	e.begin(w, x)
	return e
}

// try says that e is given to a worker now, on trial if it is a suspect.
func (w *ward) try(e *evidence, worker string, t *trial, now time.Time) {
	if e == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	e.worker, e.began, e.linked, e.trial, e.parted, e.unread = worker, now, true, t, false, false
	e.prev, e.next = nil, w.inFlight
	if e.next != nil {
		e.next.prev = e
	}
	w.inFlight = e
}

// parted says that e's connection to its worker has broken, and whether that is
// known not to have read it. What the worker has died of is found out meanwhile.
func (w *ward) parted(e *evidence, unread bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.parted, e.unread = true, unread
	w.tell()
}

// tell wakes who waits for an attempt's end. The lock is held.
func (w *ward) tell() {
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

// tried says how that went: well, badly, or neither.
func (w *ward) tried(e *evidence, badly bool) {
	if e == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unlink(e)
	if !badly {
		return
	}
	now := time.Now()
	c := e.copy(now)
	if len(w.bad) >= badEnds {
		w.bad = append(w.bad[:0], w.bad[len(w.bad)-badEnds+1:]...)
	}
	w.bad = append(w.bad, badEnd{worker: e.worker, copied: c})
}

// unlink takes e from those in flight. The lock is held.
func (w *ward) unlink(e *evidence) {
	if !e.linked {
		return
	}
	if e.prev != nil {
		e.prev.next = e.next
	} else {
		w.inFlight = e.next
	}
	if e.next != nil {
		e.next.prev = e.prev
	}
	e.prev, e.next, e.linked = nil, nil, false
	w.tell()
}

// end lets go of e, which ends well or not.
func (w *ward) end(e *evidence, well bool) {
	if e == nil {
		return
	}
	if e.x.Body != nil {
		e.x.Body = e.from
	}
	keep := well && e.whole && !e.lost && cap(e.text) <= largeEvidence
	w.mu.Lock()
	w.unlink(e)
	if keep {
		e.x, e.from, e.wrap, e.again, e.trial = nil, nil, capture{}, replay{}, nil
		e, w.good[w.nextGood] = w.good[w.nextGood], e
		w.nextGood = (w.nextGood + 1) % goodEnds
	}
	w.mu.Unlock()
	if e != nil {
		w.pools.give(e)
	}
}

// factsWait is how long a death waits for what the connections of those in flight
// say. They have broken before an engine is known to be dead, unless another
// process of its tree holds them, too.
const factsWait = 100 * time.Millisecond

// hear waits until all in flight on a worker that has died have parted from it: then
// it is known which of them it had read.
func (w *ward) hear(worker string) {
	limit := time.NewTimer(factsWait)
	defer limit.Stop()
	for {
		news := w.missing(worker)
		if news == nil {
			return
		}
		select {
		case <-news:
		case <-limit.C:
			return
		}
	}
}

// missing is closed when there is news, nil if all have parted.
func (w *ward) missing(worker string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := w.inFlight; e != nil; e = e.next {
		if e.worker == worker && !e.parted && e.began.After(w.deaths[worker].at) {
			if w.news == nil {
				w.news = make(chan struct{})
			}
			return w.news
		}
	}
	return nil
}

// died takes in that a worker's engine has died, and tells the court. One that hangs
// is told of before it is killed: nobody has parted from that.
func (w *ward) died(worker string, since time.Time) {
	if time.Since(since) < lastGasp {
		w.hear(worker)
	}
	now := time.Now()
	suspects, survivors := w.gather(worker, since, now)
	d := quarantine.Death{Pool: w.pool, Worker: worker, At: now}
	for i := range suspects {
		d.Suspects = append(d.Suspects, suspects[i].suspect(w.pool))
	}
	well := make([]quarantine.Prints, 0, len(survivors))
	if len(d.Suspects) > 0 {
		for _, c := range survivors {
			well = append(well, printsOf(w.pool, c.text, c.method, c.body))
		}
	}
	w.court.Open(d, well)
}

// gather copies what is known of a death.
func (w *ward) gather(worker string, since, now time.Time) (suspects, survivors []copied) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.deaths[worker].at // which those before it were for
	inFlight := 0
	for e := w.inFlight; e != nil; e = e.next {
		if e.worker == worker && e.began.After(before) {
			suspects = append(suspects, e.copy(now))
			inFlight++
		}
	}
	for _, b := range w.bad {
		if b.worker == worker && b.copied.began.After(before) && b.copied.ended.After(since.Add(-lastGasp)) {
			suspects = append(suspects, b.copied)
		}
	}
	for _, e := range w.good {
		if e != nil {
			survivors = append(survivors, e.copy(now))
		}
	}
	w.deaths[worker] = lastDeath{at: now, requests: inFlight}
	return suspects, survivors
}

// requestsAt is how many requests were in flight on a worker when it died last.
func (w *ward) requestsAt(worker string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deaths[worker].requests
}

// named says what the report of a worker's last death is called.
func (w *ward) named(worker, crash string) {
	w.mu.Lock()
	d, known := w.deaths[worker]
	if !known || d.named {
		w.mu.Unlock()
		return
	}
	d.named = true
	w.deaths[worker] = d
	w.mu.Unlock()
	w.court.Name(w.pool, worker, d.at, crash)
}

// verdictWait is how long a connection's break may come before the news that
// the engine behind it has died: a keeper's word takes a millisecond, on a
// machine that has just lost an engine perhaps more.
const verdictWait = 2 * time.Second

// begunWait is the same for an answer that has begun, whose client is kept from
// learning that there will be no more of it.
const begunWait = 250 * time.Millisecond

// mortal is a lease on an engine of whose death somebody tells.
type mortal interface{ Life() *upstream.Life }

// lifeOf is that of the engine behind a lease, nil where nobody tells of its death.
func lifeOf(l Lease) *upstream.Life {
	if m, ok := l.(mortal); ok {
		return m.Life()
	}
	return nil
}
