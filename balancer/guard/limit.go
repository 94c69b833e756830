package guard

import (
	"fmt"
	"hash/maphash"
	"math"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"stoker/exchange"
)

// Scope says whose requests a limit counts together.
type Scope string

// The scopes.
const (
	PerKey     Scope = "key"     // those with keys of one name
	PerAddress Scope = "address" // those of one address, in IPv6 of a /64
	All        Scope = "all"
)

// Limit bounds requests of one kind. A number of 0 bounds nothing. Requests and
// Bytes are buckets that fill evenly over Window: of a full one Burst requests
// may be taken at once, or Bytes bytes.
type Limit struct {
	// Name in answers, logs and metrics.
	Name string
	Per  Scope
	// Pool whose requests it counts; empty: those of all.
	Pool string
	// Route by which they come; empty: by any.
	Route string
	// Window in which Requests and Bytes may come, more than 0.
	Window   time.Duration
	Requests int
	// Burst is how many requests may come at once; 0: as many as Requests.
	Burst int
	// InFlight is how many may be under way at a time.
	InFlight int
	// Bytes of request bodies. A body larger than that is let through a full
	// bucket, which then takes longer to fill.
	Bytes int64
}

// maxTracked is how many clients one limit keeps an account of, the one that
// was here last going last. Who is forgotten begins anew; that the account of
// somebody who has just used it up is forgotten takes as many others since.
const maxTracked = 1 << 17

// shards keep clients from waiting for each other.
const shards = 64

// subject is who a request is counted as.
type subject struct {
	address netip.Addr
	key     string
}

// limiter is a limit and its accounts.
type limiter struct {
	Limit
	seed   maphash.Seed
	shards []shard
	most   int // accounts in a shard
	policy string
}

type shard struct {
	mu       sync.Mutex
	accounts map[subject]*account
	// used is the ring of accounts, next the latest used; its own node is its end.
	used account
}

// account is what one subject has left. Requests and bytes are kept in units of
// 1/Window, so that filling by whole nanoseconds is exact: float64 holds
// whole numbers up to 2^53 as they are, and beyond that 16 digits of them.
type account struct {
	prev, next      *account
	of              subject
	requests, bytes float64
	at              time.Duration // of the last filling
	holders         int           // requests in flight
}

func newLimiter(l Limit) *limiter {
	n := shards
	if l.Per == All {
		n = 1
	}
	made := &limiter{Limit: l, seed: maphash.MakeSeed(), shards: make([]shard, n), most: maxTracked / n}
	for i := range made.shards {
		s := &made.shards[i]
		s.accounts = map[subject]*account{}
		s.used.prev, s.used.next = &s.used, &s.used
	}
	made.policy = made.describe()
	return made
}

// began is what clock counts from.
var began = time.Now()

func clock() time.Duration { return time.Since(began) }

// concerns says whether the limit counts a request.
func (l *limiter) concerns(r *exchange.Record, who *subject) bool {
	if l.Pool != "" && l.Pool != r.Pool || l.Route != "" && l.Route != r.Route {
		return false
	}
	switch l.Per {
	case PerKey:
		return who.key != ""
	case PerAddress:
		return who.address.IsValid()
	case All:
	}
	return true
}

// subjectOf is what of a client the limit goes by.
func (l *limiter) subjectOf(who *subject) subject {
	switch l.Per {
	case PerKey:
		return subject{key: who.key}
	case PerAddress:
		return subject{address: who.address}
	case All:
	}
	return subject{}
}

// why a limit refuses.
type why int

const (
	granted why = iota
	tooOften
	tooMany
	tooMuch
)

// hold is what one request has of one limit, and what is left for the next.
type hold struct {
	limiter *limiter
	// Where it is held; nil: it is not, the request was refused.
	shard   *shard
	account *account
	cost    float64 // of the body, taken already
	open    bool    // its body is charged at the end
	// What is left, and how long until all is.
	requests, inFlight  int64
	bytes               int64
	requestsIn, bytesIn time.Duration
	wait                time.Duration // refused: until there is enough
}

func (l *limiter) window() float64 { return float64(l.Window) }
func (l *limiter) burst() int {
	if l.Burst > 0 {
		return l.Burst
	}
	return l.Requests
}
func (l *limiter) allRequests() float64 { return float64(l.burst()) * l.window() }
func (l *limiter) allBytes() float64    { return float64(l.Bytes) * l.window() }

// take claims a place for one request with a body of that length, -1: nobody knows.
func (l *limiter) take(who *subject, now time.Duration, length int64, h *hold) why {
	of := l.subjectOf(who)
	s := &l.shards[0]
	if len(l.shards) > 1 {
		s = &l.shards[maphash.Comparable(l.seed, of)%uint64(len(l.shards))]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(l, of, now)
	a.fill(l, now)
	h.limiter = l

	need := float64(max(length, 0)) * l.window()
	if length < 0 {
		need = l.window() // one byte at least
	}
	verdict := a.judge(l, min(need, l.allBytes()), h)
	if verdict == granted {
		h.shard, h.account = s, a
		a.holders++
		if l.Requests > 0 {
			a.requests -= l.window()
		}
		if l.Bytes > 0 {
			if h.open = length < 0; !h.open {
				h.cost = need
			}
			a.bytes -= h.cost
		}
	}
	h.note(a)
	return verdict
}

// judge says whether there is enough left.
func (a *account) judge(l *limiter, bytes float64, h *hold) why {
	switch {
	case l.InFlight > 0 && a.holders >= l.InFlight:
		h.wait = time.Second // nobody knows
		return tooMany
	case l.Requests > 0 && a.requests < l.window():
		h.wait = until(l.window()-a.requests, float64(l.Requests))
		return tooOften
	case l.Bytes > 0 && bytes > 0 && a.bytes < bytes:
		h.wait = until(bytes-a.bytes, float64(l.Bytes))
		return tooMuch
	}
	return granted
}

// until is how long it takes to fill in what lacks.
func until(lacks, perNanosecond float64) time.Duration {
	return time.Duration(math.Ceil(max(lacks, 0) / perNanosecond))
}

// note keeps what is left, for the answer.
func (h *hold) note(a *account) {
	l := h.limiter
	if l.Requests > 0 {
		h.requests = int64(max(a.requests, 0) / l.window())
		h.requestsIn = until(l.allRequests()-a.requests, float64(l.Requests))
	}
	if l.Bytes > 0 {
		h.bytes = int64(max(a.bytes, 0) / l.window())
		h.bytesIn = until(l.allBytes()-a.bytes, float64(l.Bytes))
	}
	if l.InFlight > 0 {
		h.inFlight = int64(max(l.InFlight-a.holders, 0))
	}
}

// fill adds what has come since the last time. Requests may be a moment out of order.
func (a *account) fill(l *limiter, now time.Duration) {
	if now <= a.at {
		return
	}
	passed := float64(now - a.at)
	a.at = now
	a.requests = min(a.requests+passed*float64(l.Requests), l.allRequests())
	a.bytes = min(a.bytes+passed*float64(l.Bytes), l.allBytes())
}

// giveBack undoes take: the request is refused for another reason.
func (h *hold) giveBack() {
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	h.account.holders--
	if h.limiter.Requests > 0 {
		h.account.requests = min(h.account.requests+h.limiter.window(), h.limiter.allRequests())
	}
	h.account.bytes = min(h.account.bytes+h.cost, h.limiter.allBytes())
	h.shard = nil
}

// leave ends the request's share.
func (h *hold) leave(x *exchange.Exchange) {
	if h.shard == nil {
		return
	}
	h.shard.mu.Lock()
	defer h.shard.mu.Unlock()
	h.account.holders--
	if h.open {
		h.account.bytes -= float64(x.Record.BytesIn) * h.limiter.window()
	}
}

// find is the account of a subject, a full one where there was none.
func (s *shard) find(l *limiter, of subject, now time.Duration) *account {
	a := s.accounts[of]
	if a == nil {
		if len(s.accounts) >= l.most {
			a = s.forget()
		}
		if a == nil {
			a = new(account)
		}
		*a = account{of: of, requests: l.allRequests(), bytes: l.allBytes(), at: now}
		s.accounts[of] = a
	} else {
		a.unlink()
	}
	a.link(&s.used)
	return a
}

// forget takes out the account that was used longest ago. Those that requests
// hold stay, however many they are: there are no more of them than requests.
func (s *shard) forget() *account {
	for range 16 {
		a := s.used.prev
		if a == &s.used {
			return nil
		}
		a.unlink()
		if a.holders == 0 {
			delete(s.accounts, a.of)
			return a
		}
		a.link(&s.used)
	}
	return nil
}

func (a *account) unlink() { a.prev.next, a.next.prev = a.next, a.prev }

func (a *account) link(ring *account) {
	a.prev, a.next = ring, ring.next
	a.next.prev, ring.next = a, a
}

// refusal is what a client is told.
func (l *limiter) refusal(why why, h *hold) *Refusal {
	of := "your key"
	switch l.Per {
	case PerAddress:
		of = "your address"
	case All:
		of = "this service"
	case PerKey:
	}
	r := &Refusal{
		Status: http.StatusTooManyRequests, Outcome: exchange.OutcomeRateLimited, Kind: "rate_limited",
		RetryAfter: seconds(h.wait),
	}
	switch why {
	case tooOften:
		r.Code = "rate_limit_exceeded"
		r.Text = fmt.Sprintf("too many requests: the limit %q of %s is %d in %s", l.Name, of, l.Requests, l.Window)
	case tooMany:
		r.Code = "too_many_in_flight"
		r.Text = fmt.Sprintf("too many requests at a time: the limit %q of %s is %d", l.Name, of, l.InFlight)
	case tooMuch:
		r.Code = "prompt_limit_exceeded"
		r.Text = fmt.Sprintf("too much to read: the limit %q of %s is %d bytes of request bodies in %s", l.Name, of, l.Bytes, l.Window)
	case granted:
	}
	return r
}

// seconds rounds up, to 1 at least.
func seconds(d time.Duration) int { return int(max((d+time.Second-1)/time.Second, 1)) }
