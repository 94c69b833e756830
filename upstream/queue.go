package upstream

import "time"

// waiter is one request's place in a pool's queue.
type waiter struct {
	// granted gets the claimed member, once; it is closed without one when the
	// pool closes. It holds one, so that granting never blocks.
	granted    chan *Member
	timeout    time.Duration
	prev, next *waiter
	queued     bool
}

// queue is a first-in first-out list that anybody may leave. The pool's lock
// guards it.
type queue struct {
	head, tail *waiter
	length     int
}

func (q *queue) push(w *waiter) {
	w.prev, w.next, w.queued = q.tail, nil, true
	if q.tail == nil {
		q.head = w
	} else {
		q.tail.next = w
	}
	q.tail = w
	q.length++
}

// pop takes out who came first; nil when nobody waits.
func (q *queue) pop() *waiter {
	w := q.head
	if w != nil {
		q.remove(w)
	}
	return w
}

// remove takes w out and says whether it was still in.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev == nil {
		q.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.length--
	return true
}
