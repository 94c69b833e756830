package front

import (
	"fmt"
	"runtime/debug"
	"time"

	"stoker/exchange"
)

// OutcomePanic says that a defect of ours ended the request; its client's
// connection was broken.
const OutcomePanic exchange.Outcome = "panic"

// flight is a request in flight, of either version: from its head's end until
// its handler has returned.
type flight struct {
	exchange.Exchange
	conn *conn
	life *life
	// reply is who writes to a client of HTTP/1.1.
	reply *answer
	// doubt is the clock of one about its client, see Front.doubt; nil: there is none.
	doubt *time.Timer

	prev, next *flight // in Front.requests
}

// carry calls the handler. A panic there ends this request alone.
func (f *Front) carry(q *flight) {
	defer func() {
		if p := recover(); p != nil {
			f.log.Error("panic while serving a request; its connection is broken",
				"id", q.Record.ID, "panic", p, "stack", string(debug.Stack()))
			q.Record.Outcome = OutcomePanic
			q.Record.Err = fmt.Errorf("panic: %v", p)
			q.Sink.Break(q.Record.Err)
		}
	}()
	f.handler.Serve(q.life, &q.Exchange)
}

func (f *Front) observe(q *flight) {
	q.Record.End = q.Record.Now() // which the connection's idle time counts from, whoever is told
	if q.Record.Own {
		return
	}
	for _, o := range f.observers {
		o.Observe(&q.Exchange)
	}
}

// left ends a request of HTTP/1.1 whose client has gone.
func (q *flight) left() {
	q.life.end(exchange.ErrClientGone)
	if !q.conn.tunnel { // whose last bytes are still to be read
		q.conn.hurry()
	}
}

// enter registers q, unless its connection is gone. A client that hung up
// before is noticed here.
func (f *Front) enter(q *flight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !q.conn.is(streams) && !f.moveLocked(q.conn, serving) {
		return false
	}
	f.requests.add(q)
	if q.conn.is(streams) {
		return true
	}
	q.conn.now = q
	f.watchLate(q.conn)
	if q.conn.hungUp {
		f.doubt(q)
	}
	return true
}

// leave forgets q; the connection is busy until all is written.
func (f *Front) leave(q *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests.remove(q)
	q.conn.now = nil
	q.settle()
	f.recount(false, false)
}

// requestList is every request in flight.
type requestList struct {
	first  *flight
	length int
}

func (l *requestList) add(q *flight) {
	q.prev, q.next = nil, l.first
	if l.first != nil {
		l.first.prev = q
	}
	l.first = q
	l.length++
}

func (l *requestList) remove(q *flight) {
	if q.prev == nil {
		l.first = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next != nil {
		q.next.prev = q.prev
	}
	q.prev, q.next = nil, nil
	l.length--
}
