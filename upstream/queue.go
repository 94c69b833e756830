package upstream

import "time"

// MaxPriority is the highest priority that a request can have; the lowest is
// -MaxPriority, and 0 is what requests have that say nothing.
const MaxPriority = 9

// waiter is one request's place in a pool's queue.
type waiter struct {
	// granted gets the claimed member, once; it is closed without one when the
	// request is turned away, as refused says. It holds one, so that granting
	// never blocks.
	granted    chan *Member
	refused    error // written before granted is closed
	timeout    time.Duration
	priority   int // within its bounds
	wish       wish
	charged    *int // see Want
	prev, next *waiter
	queued     bool
}

// refuse turns away a waiter that is in the queue no more.
func (w *waiter) refuse(why error) {
	w.refused = why
	close(w.granted)
}

// queue is served by priority, and first come first served among equals.
// Anybody may leave it. The pool's lock guards it.
type queue struct {
	lines  [2*MaxPriority + 1]line // by priority, the lowest first
	length int
}

// line is a list of those who wait with the same priority.
type line struct{ head, tail *waiter }

func (q *queue) line(w *waiter) *line {
	return &q.lines[w.priority+MaxPriority]
}

func (q *queue) push(w *waiter) {
	l := q.line(w)
	w.prev, w.next, w.queued = l.tail, nil, true
	if l.tail == nil {
		l.head = w
	} else {
		l.tail.next = w
	}
	l.tail = w
	q.length++
}

// next is who is to be served first; nil when nobody waits.
func (q *queue) next() *waiter {
	for i := len(q.lines) - 1; i >= 0; i-- {
		if w := q.lines[i].head; w != nil {
			return w
		}
	}
	return nil
}

// pop takes out who is next; nil when nobody waits.
func (q *queue) pop() *waiter {
	w := q.next()
	if w != nil {
		q.remove(w)
	}
	return w
}

// popBelow takes out who came last of those with the lowest priority, where
// that is below the given one: the one who loses least.
func (q *queue) popBelow(priority int) *waiter {
	for i := range q.lines {
		if w := q.lines[i].tail; w != nil {
			if w.priority >= priority {
				return nil
			}
			q.remove(w)
			return w
		}
	}
	return nil
}

// remove takes w out and says whether it was still in.
func (q *queue) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	l := q.line(w)
	if w.prev == nil {
		l.head = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		l.tail = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.length--
	return true
}
