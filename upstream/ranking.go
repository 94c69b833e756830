package upstream

// strideUnit is the distance that a member of weight 1 moves at each pick.
// Dividing it by any weight up to 1000 loses less than a thousandth.
const strideUnit = 1 << 20

// ranking is a binary heap of the members that can serve now, best first, so
// that the cost of choosing hardly grows with their number. The pool's lock
// guards it.
//
// Going round is stride scheduling (Waldspurger 1995): each member carries a
// pass, moved on by strideUnit/weight (more while it warms up) whenever it is picked; the lowest is next.
type ranking struct {
	policy Policy
	// unit is what a request weighs without its prompt; see burden.
	unit uint64
	heap []*Member
	// pass of the latest pick: a member that joins starts here, so that it
	// does not make up for the turns it was away.
	pass uint64
	turn uint64 // of the latest pick, counted
}

// before says whether a is preferred to b.
func (r *ranking) before(a, b *Member) bool {
	if r.policy == LeastOutstanding {
		// The load per share that each would have with one more request.
		loadA, loadB := (a.weighed(r.unit)+r.unit)*b.share(), (b.weighed(r.unit)+r.unit)*a.share()
		if loadA != loadB {
			return loadA < loadB
		}
	}
	if a.pass == b.pass && r.policy == RoundRobin {
		return a.turn < b.turn // in the same order each time: evenly apart
	}
	return a.pass < b.pass
}

// best returns the member that is next, and another than avoid where there is one.
func (r *ranking) best(avoid *Member) *Member {
	switch {
	case len(r.heap) == 0:
		return nil
	case r.heap[0] != avoid || len(r.heap) == 1:
		return r.heap[0]
	case len(r.heap) == 2 || r.before(r.heap[1], r.heap[2]):
		return r.heap[1]
	default:
		return r.heap[2]
	}
}

// picked moves m on after it has been given one more request.
func (r *ranking) picked(m *Member) {
	r.pass = max(r.pass, m.pass)
	r.turn++
	m.turn = r.turn
	m.pass += strideUnit * fullShare / m.share()
	r.fix(m)
}

// add lets m be chosen.
func (r *ranking) add(m *Member) {
	if m.rank >= 0 {
		return
	}
	m.pass = max(m.pass, r.pass)
	m.rank = len(r.heap)
	r.heap = append(r.heap, m)
	r.up(m.rank)
}

// remove lets m be chosen no more.
func (r *ranking) remove(m *Member) {
	i := m.rank
	if i < 0 {
		return
	}
	last := len(r.heap) - 1
	r.swap(i, last)
	r.heap[last] = nil
	r.heap = r.heap[:last]
	m.rank = -1
	if i < last {
		r.fix(r.heap[i])
	}
}

// fix restores the order after m has changed.
func (r *ranking) fix(m *Member) {
	if m.rank < 0 {
		return
	}
	r.up(m.rank)
	r.down(m.rank)
}

func (r *ranking) up(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !r.before(r.heap[i], r.heap[parent]) {
			return
		}
		r.swap(i, parent)
		i = parent
	}
}

func (r *ranking) down(i int) {
	for {
		child := 2*i + 1
		if child >= len(r.heap) {
			return
		}
		if right := child + 1; right < len(r.heap) && r.before(r.heap[right], r.heap[child]) {
			child = right
		}
		if !r.before(r.heap[child], r.heap[i]) {
			return
		}
		r.swap(i, child)
		i = child
	}
}

func (r *ranking) swap(i, j int) {
	r.heap[i], r.heap[j] = r.heap[j], r.heap[i]
	r.heap[i].rank, r.heap[j].rank = i, j
}
