package upstream

import "math"

// Affinity leads requests with the same key to the same member, as long as that
// has no more than its part of the load: engines keep what they have computed of
// a prompt, and the next turn of a conversation needs it where the last one was.
//
// Each key falls into one of affinityBuckets, and each bucket has an order of
// preference among the members by weighted rendezvous hashing (Thaler and
// Ravishankar 1998): a member's place in it depends on the bucket, its own name
// and its own weight, and on nobody else. So if one of n goes, the 1/n of the
// keys that were its own move, each to its second choice, and come back with it;
// all others stay. Names, not addresses or processes: who restarts comes back to
// its keys, and two masters with the same members agree.
//
// A member whose load would pass AffinityLoad percent of its share of the whole
// is passed over for the next in the key's order (Mirrokni, Thorup and
// Zadimoghaddam 2018), so a key that everybody uses takes as many members as it
// needs, always the same. The pool's lock guards all of it.
type affinity struct {
	// rows are the buckets' orders, each found when it is first asked for; nil
	// until one is, and after members or weights have changed.
	rows []affinityRow
	// load and share are the sums over the members that serve.
	load, share uint64
	counts      AffinityCounts
}

// AffinityCounts are how many requests with a key went where.
type AffinityCounts struct {
	// Hits went to their key's first choice.
	Hits uint64
	// Moved went to another since that one does not serve now, or has just failed them.
	Moved uint64
	// Spilled went to another since that one had its part of the load, or all that it takes.
	Spilled uint64
	// New are prompts of which nobody holds the beginning.
	New uint64
}

const (
	affinityBuckets = 1 << 14
	// affinityDepth is how many choices a key has. If none of them has room the
	// policy chooses: that many of a large pool are not busy by this key's fault.
	affinityDepth = 8
)

// affinityRow holds the first choices of a bucket as their index in the pool's
// members and 1; 0: no more.
type affinityRow [affinityDepth]uint16

// counted is what a member has been added to the sums with.
type counted struct {
	serves      bool
	load, share uint64
}

// wish is what a request's choice of a member depends on.
type wish struct {
	affinity uint64  // see Want
	prompt   bool    // it has a Prefix
	holding  holding // of that
	avoid    *Member
	tokens   int // of the prompt
}

// choose returns the member that a request is to have: the first with room in
// the order of its key, who holds most of its prompt, or, without either, whom
// the policy prefers; nil: nobody can serve. Who is chosen is claimed, and so is
// counted. The lock is held.
func (p *Pool) choose(w *wish) *Member {
	key, avoid := w.affinity, w.avoid
	switch {
	case len(p.ranking.heap) == 0:
		return nil
	case w.prompt:
		return p.chooseHolder(&w.holding, avoid)
	case key == 0:
		return p.ranking.best(avoid)
	}
	count := &p.affinity.counts.Hits
	row := p.affinityRow(key)
	for _, at := range row {
		if at == 0 {
			break
		}
		switch m := p.members[at-1]; {
		case m == avoid, !m.counted.serves:
			if count == &p.affinity.counts.Hits {
				count = &p.affinity.counts.Moved
			}
		case m.rank < 0 || !p.withinShare(m):
			count = &p.affinity.counts.Spilled
		default:
			*count++
			return m
		}
	}
	*count++
	return p.ranking.best(avoid)
}

// withinShare says whether m with one more request has no more than AffinityLoad
// percent, rounded up to a whole request (without its prompt), of what is its by weight and slow
// start; at least one of those that serve always is. The lock is held.
func (p *Pool) withinShare(m *Member) bool {
	percent := uint64(max(p.options.AffinityLoad, 0))
	return percent == 0 || m.weighed(p.ranking.unit)*100*p.affinity.share < percent*(p.affinity.load+p.ranking.unit)*m.share()
}

// tally keeps the sums. It runs whenever what m adds to them may have changed.
// The lock is held.
func (p *Pool) tally(m *Member, serves bool) {
	sums := &p.affinity
	sums.load -= m.counted.load
	sums.share -= m.counted.share
	m.counted = counted{}
	if serves {
		m.counted = counted{serves: true, load: m.weighed(p.ranking.unit), share: m.share()}
		sums.load += m.counted.load
		sums.share += m.counted.share
	}
}

// reshaped forgets the orders, since members or weights are not what they were.
// The lock is held.
func (p *Pool) reshaped() { p.affinity.rows = nil }

// affinityRow returns the order of the key's bucket. The lock is held.
func (p *Pool) affinityRow(key uint64) *affinityRow {
	if p.affinity.rows == nil {
		p.affinity.rows = make([]affinityRow, affinityBuckets)
	}
	bucket := mix(key) % affinityBuckets
	row := &p.affinity.rows[bucket]
	if row[0] == 0 && len(p.members) > 0 {
		*row = p.rank(bucket)
	}
	return row
}

// rank finds the first choices of a bucket. The lock is held.
func (p *Pool) rank(bucket uint64) (row affinityRow) {
	// One more than fits, for the one that falls out.
	var best [affinityDepth + 1]choice
	n := 0
	for i, m := range p.members {
		c := choice{at: uint16(i + 1), tier: m.tier, score: m.score(bucket)}
		place := n
		for place > 0 && c.before(best[place-1]) {
			place--
		}
		if place == affinityDepth {
			continue
		}
		copy(best[place+1:], best[place:n])
		best[place] = c
		n = min(n+1, affinityDepth)
	}
	for i, c := range best[:n] {
		row[i] = c.at
	}
	return row
}

// choice is a member's claim to a bucket.
type choice struct {
	at    uint16
	tier  int
	score float64
}

// before says whether c goes before d: who serves only while others cannot is
// nobody's first choice while there are others.
func (c choice) before(d choice) bool {
	if c.tier != d.tier {
		return c.tier < d.tier
	}
	return c.score > d.score
}

// score is m's claim to a bucket: the highest of all has it, each as often as
// its weight says.
func (m *Member) score(bucket uint64) float64 {
	const unit = 1.0 / (1 << 53)
	drawn := (float64(mix(m.seed^mix(bucket+1))>>11) + 0.5) * unit // between 0 and 1, neither included
	return -float64(m.weight) / math.Log(drawn)
}

// AffinityKey is what requests with the same key have as Want.Affinity; 0, none,
// for an empty one. It is the same in every process and version, since a
// conversation goes on through an upgrade. It is no secret: whoever chooses keys
// can choose the member, within its share.
func AffinityKey(key string) uint64 {
	if key == "" {
		return 0
	}
	return max(hash(key), 1)
}

// hash is FNV-1a of 64 bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix spreads each bit over all (the finalizer of SplitMix64).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
