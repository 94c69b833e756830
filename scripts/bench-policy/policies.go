package main

import (
	"context"
	"runtime"
	"strconv"
	"time"

	"stoker/scripts/bench-policy/traffic"
	"stoker/upstream"
)

// pooled chooses with the balancer's own pool. What it does by timers is not
// used here (slow start, breakers, the queue's time-out): the traffic has a clock
// of its own, and the pool the world's.
type pooled struct {
	pool    *upstream.Pool
	index   map[*upstream.Member]int
	members []*upstream.Member
	key     func(*traffic.Request) string
	prompts bool // requests go by their prompts, not by a key
	limit   int  // in flight per member
	flying  int
	waiting int
	granted chan grant
	charged map[*traffic.Request]*charge
}

// charge is what a request's prompt weighs, and on whom.
type charge struct {
	member *upstream.Member
	tokens int
}

// grant is the end of a request's wait.
type grant struct {
	request *traffic.Request
	member  *upstream.Member
}

// never is longer than a run.
const never = time.Hour

func newPooled(n int, o upstream.PoolOptions, key func(*traffic.Request) string) *pooled {
	o.QueueLength, o.QueueTimeout = 1<<20, never
	p := &pooled{
		pool: upstream.NewPool("sim", o), index: map[*upstream.Member]int{}, key: key, limit: o.MaxConcurrency,
		granted: make(chan grant), charged: map[*traffic.Request]*charge{},
	}
	for i := range n {
		m := p.pool.Add("sim-"+strconv.Itoa(i), 1)
		m.Reset("unix:/nowhere") // which nothing is sent to
		m.SetReady(true)
		p.members = append(p.members, m)
		p.index[m] = i
	}
	return p
}

// Acquire implements traffic.Chooser. Who has to wait does so in a goroutine, as
// in the balancer, and is in the queue before anything else happens.
func (p *pooled) Acquire(r *traffic.Request) (int, bool) {
	c := &charge{}
	p.charged[r] = c
	want := upstream.Want{Tokens: r.Prompt, Charged: &c.tokens}
	if p.prompts {
		want.Prefix = prefixOf(r)
	} else {
		want.Affinity = upstream.AffinityKey(p.key(r))
	}
	if p.limit == 0 || p.flying < p.limit*len(p.members) {
		p.flying++
		c.member = p.acquire(want)
		return p.index[c.member], true
	}
	go func() { p.granted <- grant{r, p.acquire(want)} }()
	for p.waiting++; p.pool.Stats().Queued < p.waiting; {
		runtime.Gosched()
	}
	return 0, false
}

func (p *pooled) acquire(want upstream.Want) *upstream.Member {
	m, err := p.pool.Acquire(context.Background(), want)
	if err != nil {
		panic(err) // all are ready, and the queue is long enough
	}
	return m
}

// chunk is how many tokens an entry of a prompt's prefix stands for: some 256
// bytes of text, as in the balancer.
const chunk = 64

// prefixOf is what the balancer would make of the text of r's prompt: the system
// prompt is its application's, all that follows its conversation's.
func prefixOf(r *traffic.Request) upstream.Prefix {
	p := make(upstream.Prefix, 0, r.Prompt/chunk)
	seed := uint64(0x9e3779b97f4a7c15)
	for at := chunk; at <= r.Prompt && len(p) < upstream.MaxPrefix; at += chunk {
		whose := uint64(r.Application)<<32 | 1<<63
		if at > r.System {
			whose = uint64(r.Conversation)
		}
		seed = (seed ^ whose) * 0xbf58476d1ce4e5b9
		seed ^= seed >> 29
		p = append(p, seed)
	}
	return p
}

// Release implements traffic.Chooser.
func (p *pooled) Release(engine int) (*traffic.Request, int, bool) {
	p.members[engine].Release()
	if p.waiting == 0 {
		p.flying--
		return nil, 0, false
	}
	p.waiting--
	g := <-p.granted
	p.charged[g.request].member = g.member
	return g.request, p.index[g.member], true
}

// First implements traffic.Chooser.
func (p *pooled) First(r *traffic.Request) {
	c := p.charged[r]
	delete(p.charged, r)
	if c.tokens > 0 {
		c.member.Relieve(c.tokens)
	}
}

// nginx chooses as nginx does, with a zone in shared memory: without one each of
// its processes has counts of its own.
type nginx struct {
	leastConn bool
	peers     []peer
}

// peer of weight 1, which never fails.
type peer struct{ conns, current int }

// Acquire implements traffic.Chooser: round robin is its smooth weighted one;
// least_conn takes the fewest connections, and among equals that round robin.
func (n *nginx) Acquire(*traffic.Request) (int, bool) {
	fewest := n.peers[0].conns
	for i := range n.peers {
		fewest = min(fewest, n.peers[i].conns)
	}
	best, total := -1, 0
	for i := range n.peers {
		p := &n.peers[i]
		if n.leastConn && p.conns != fewest {
			continue
		}
		p.current++
		total++
		if best < 0 || p.current > n.peers[best].current {
			best = i
		}
	}
	if n.leastConn && total == 1 {
		n.peers[best].current-- // who is alone takes no turn
		total = 0
	}
	n.peers[best].current -= total
	n.peers[best].conns++
	return best, true
}

// First implements traffic.Chooser.
func (*nginx) First(*traffic.Request) {}

// Release implements traffic.Chooser.
func (n *nginx) Release(engine int) (*traffic.Request, int, bool) {
	n.peers[engine].conns--
	return nil, 0, false
}
