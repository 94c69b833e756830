package upstream

import (
	"slices"
	"sync"
)

// Prefix is how a prompt begins: an entry for each chunk of it that is whole,
// which stands for everything up to the end of that chunk. Two prompts have as
// many first entries in common as they have whole chunks. The longest is
// MaxPrefix; of a longer prompt the beginning will do.
type Prefix []uint64

// MaxPrefix is the most entries that a Prefix has.
const MaxPrefix = 2048

// prefixes knows which member was given which prompts, so that the next that
// begins as one of them can go where that beginning has been computed already.
// An engine forgets, and tells nobody: what is known here is where to look first,
// and being wrong costs no more than the policy's choice would have.
//
// It is a table of a fixed size, allocated when the first prompt comes: sets of
// prefixWays slots, chosen by the entry's low bits, the least recently used of
// which makes room. So memory is bounded, and nothing in it is a pointer that
// the garbage collector would have to follow. A prompt's chunks are used together
// and so grow old together.
//
// A holder is one engine's life on a member: whoever comes after it on the same
// member begins with nothing, and is another holder. The slots of those who are
// gone mean nothing any more, and make room in their time.
//
// It has a lock of its own, taken before none and after the pool's or without
// it: a prompt of a hundred thousand tokens has a thousand entries, which are
// looked up and noted while others choose.
type prefixes struct {
	mu    sync.Mutex
	slots []prefixSlot
	// live are the members by the holders that they are now; last is the latest
	// holder, 0 none.
	live map[uint32]*Member
	last uint32
	now  uint32 // counts the prompts that were noted
}

type prefixSlot struct {
	entry  uint64
	holder uint32 // 0: the slot is free
	used   uint32 // as prefixes.now was; wraps after 4 thousand million prompts
}

const (
	prefixWays = 8
	// prefixHolders is how many holders of one entry are known, so that a system
	// prompt that everybody has leaves room for others in its set.
	prefixHolders = 4
	// prefixSlotSize is that of prefixSlot in bytes.
	prefixSlotSize = 16
	// holderGone stands for the holder of a member that has been removed.
	holderGone = ^uint32(0)
)

// holding is who holds the longest known beginning of a prompt.
type holding struct {
	members [prefixHolders]*Member
	n       int
	// chunks of the prompt that they hold.
	chunks int
}

// find returns who holds most of a prompt. It looks from the end: what a
// conversation's turn has in common with the one before is nearly all of it, and
// its last entries nobody shares.
func (x *prefixes) find(p Prefix) (h holding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.slots) == 0 {
		return h
	}
	for i, entry := range slices.Backward(p) {
		set := x.set(entry)
		for j := range set {
			if set[j].entry != entry {
				continue
			}
			if m := x.live[set[j].holder]; m != nil && h.n < len(h.members) {
				h.members[h.n] = m
				h.n++
			}
		}
		if h.n > 0 {
			h.chunks = i + 1
			return h
		}
	}
	return h
}

// note remembers that holder was given a prompt.
func (x *prefixes) note(p Prefix, holder uint32, memory int) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.live[holder] == nil {
		return // its engine has gone meanwhile
	}
	if size := slotsIn(memory); len(x.slots) != size { // the first, or the configuration has changed
		x.slots = make([]prefixSlot, size)
	}
	x.now++
	for _, entry := range p {
		x.put(x.set(entry), entry, holder)
	}
}

// put takes a slot of the set for an entry and its holder: its own, or that of
// the holder who used it longest ago where it has as many as may be, or the one
// that was used longest ago.
func (x *prefixes) put(set []prefixSlot, entry uint64, holder uint32) {
	oldest, oldestOwn, own := 0, 0, 0
	for j := range set {
		s := &set[j]
		if s.holder != 0 && s.entry == entry {
			if s.holder == holder {
				s.used = x.now
				return
			}
			if own == 0 || x.age(s) > x.age(&set[oldestOwn]) {
				oldestOwn = j
			}
			own++
		}
		if x.age(s) > x.age(&set[oldest]) {
			oldest = j
		}
	}
	if own >= prefixHolders {
		oldest = oldestOwn
	}
	set[oldest] = prefixSlot{entry: entry, holder: holder, used: x.now}
}

// age is how many prompts ago a slot was used; a free one is the oldest.
func (x *prefixes) age(s *prefixSlot) uint32 {
	if s.holder == 0 {
		return ^uint32(0)
	}
	return x.now - s.used
}

func (x *prefixes) set(entry uint64) []prefixSlot {
	at := mix(entry) & uint64(len(x.slots)/prefixWays-1) * prefixWays
	return x.slots[at : at+prefixWays]
}

// renew makes m a holder that holds nothing.
func (x *prefixes) renew(m *Member) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if m.holder.Load() == holderGone {
		return
	}
	delete(x.live, m.holder.Load())
	if x.live == nil {
		x.live = map[uint32]*Member{}
	}
	x.last++
	m.holder.Store(x.last)
	x.live[x.last] = m
}

// forget makes m a holder no more, for good.
func (x *prefixes) forget(m *Member) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.live, m.holder.Swap(holderGone))
}

// slotsIn is how many slots fit in so much memory, a power of two of sets.
func slotsIn(memory int) int {
	n := prefixWays
	for n*2*prefixSlotSize <= memory {
		n *= 2
	}
	return n
}

// chooseHolder returns the member that a prompt is to have whose beginning is
// held: of those that hold most of it the one with the least load, if that has no
// more than its part; else whom the policy prefers. The lock is held.
func (p *Pool) chooseHolder(h *holding, avoid *Member) *Member {
	if h.n == 0 {
		p.affinity.counts.New++
		return p.ranking.best(avoid)
	}
	var best *Member
	serving := false
	for _, m := range h.members[:h.n] {
		if m == avoid || m.removed || !m.counted.serves {
			continue
		}
		serving = true
		if m.rank >= 0 && p.withinShare(m) && (best == nil || p.ranking.before(m, best)) {
			best = m
		}
	}
	switch {
	case best != nil:
		p.affinity.counts.Hits++
		return best
	case serving:
		p.affinity.counts.Spilled++
	default:
		p.affinity.counts.Moved++
	}
	return p.ranking.best(avoid)
}
