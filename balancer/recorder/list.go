package recorder

// list is recordings, oldest first.
type list struct {
	first, last *Recording
	length      int
}

func (l *list) add(rec *Recording) { l.insert(rec, l.last) }

// conclude adds one that has ended, in the order of the ends: it may have been
// told of by another recorder, long after its end.
func (l *list) conclude(rec *Recording) {
	after := l.last
	for after != nil && after.end.After(rec.end) {
		after = after.prev
	}
	l.insert(rec, after)
}

// insert adds rec after another; nil: as the first.
func (l *list) insert(rec, after *Recording) {
	rec.prev, rec.next = after, l.first
	if after != nil {
		rec.next, after.next = after.next, rec
	} else {
		l.first = rec
	}
	if rec.next != nil {
		rec.next.prev = rec
	} else {
		l.last = rec
	}
	l.length++
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
	l.length--
}

// rings are what has ended on one worker. What it failed has a ring of its own:
// held in one row with the rest, each failure kept all that came after it, too.
type rings struct{ well, failed ring }

func (q *rings) of(failed bool) *ring {
	if failed {
		return &q.failed
	}
	return &q.well
}

// ring is some of what has ended on one worker, oldest first.
type ring struct {
	pins        bool // see pinTime
	first, last *Recording
	length      int
}

// conclude adds one that has ended, in the order of the ends.
func (q *ring) conclude(rec *Recording) {
	after := q.last
	for after != nil && after.end.After(rec.end) {
		after = after.earlier
	}
	q.insert(rec, after)
}

// insert adds rec after another; nil: as the first.
func (q *ring) insert(rec, after *Recording) {
	rec.ring, rec.earlier, rec.later = q, after, q.first
	if after != nil {
		rec.later, after.later = after.later, rec
	} else {
		q.first = rec
	}
	if rec.later != nil {
		rec.later.earlier = rec
	} else {
		q.last = rec
	}
	q.length++
}

func (q *ring) remove(rec *Recording) {
	if rec.earlier == nil {
		q.first = rec.later
	} else {
		rec.earlier.later = rec.later
	}
	if rec.later == nil {
		q.last = rec.earlier
	} else {
		rec.later.earlier = rec.earlier
	}
	rec.ring, rec.earlier, rec.later = nil, nil, nil
	q.length--
}

// reserveMost is how many blocks a recording keeps for its next life: as many as
// a small request and its answer fill.
const reserveMost = 8

// sparesMost is how many are kept beside as many as are in flight.
const sparesMost = 32

// spares are recordings to be used again.
type spares struct {
	first  *Recording
	length int
	blocks int // in their reserves
}

func (s *spares) take() *Recording {
	rec := s.first
	if rec != nil {
		s.first, rec.next = rec.next, nil
		s.length--
		s.blocks -= rec.reserve.blocks
	}
	return rec
}

// keep says whether rec is kept, which it is not where there are many for what
// is in flight.
func (s *spares) keep(rec *Recording, inFlight int) bool {
	if s.length >= sparesMost+inFlight {
		return false
	}
	rec.next, s.first = s.first, rec
	s.length++
	s.blocks += rec.reserve.blocks
	return true
}

// strip takes their blocks.
func (s *spares) strip(a *arena) {
	for rec := s.first; rec != nil && s.blocks > 0; rec = rec.next {
		s.blocks -= rec.reserve.blocks
		a.free.prepend(a, &rec.reserve)
	}
}
