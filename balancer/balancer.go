// Package balancer carries one request: it says who asks, finds the pool that
// is meant, a member that can serve, passes the request on and the answer back,
// and turns whatever goes wrong into an answer. It knows nothing of connections
// and HTTP versions (its fronts do), nor of how members come to live.
//
// What a request says of itself is believed or not by where it comes from.
// From a trusted peer (TrustedProxies, and whoever may open our unix socket):
// X-Request-Id, where it is plain and short, and X-Forwarded-Proto and -Host are
// kept, X-Forwarded-For is appended to, Forwarded and X-Real-IP pass; where there
// is no X-Forwarded-For, Forwarded says who the client is. From
// anybody else all of them, and every other X-Forwarded field, are replaced by
// our own or removed.
//
// Expect, Upgrade, TE and the other fields that concern one connection are not
// passed on in either direction, but for an Upgrade to websocket; nor is Proxy, which CGI programs take for a
// setting of theirs; nor are fields that such a program would take for one of
// those above, since they have underscores for hyphens (X_Forwarded_For). Host,
// target and query pass byte for byte.
package balancer

import (
	"context"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"stoker/balancer/compression"
	"stoker/balancer/guard"
	"stoker/balancer/quarantine"
	"stoker/balancer/recorder"
	"stoker/balancer/tokens"
	"stoker/balancer/tracing"
	"stoker/config"
	"stoker/exchange"
	"stoker/upstream"
)

// Options are what a balancer is made with.
type Options struct {
	// Pools that routes may name, at least one.
	Pools []Pool
	// Rules of the pools by name; DefaultRules for those that are not there.
	Rules map[string]Rules
	// Routes in order; none means that the only pool gets everything.
	Routes []config.Route
	// TrustedProxies are the networks whose word on a request's origin counts.
	TrustedProxies []netip.Prefix
	// MaxBody is the largest request body, in bytes, where the route says no other; 0: any.
	MaxBody int64
	// Court says which requests have killed engines; nil: nobody is suspected.
	Court *quarantine.Court
	// EvidenceLimit is the largest body of a request that can be suspected, and
	// EvidenceMemory what is held of all in flight, both in bytes.
	EvidenceLimit, EvidenceMemory int64
	// MaxAhead is how much of a body is held, in bytes, to find the model that it
	// names, where routes ask for it, or its affinity; 0: DefaultMaxAhead.
	MaxAhead int64
	// AheadMemory is how much of all such bodies is held, in bytes; 0: DefaultAheadMemory.
	AheadMemory int64
	// Guard says who may ask, and how much; nil: anybody, anything.
	Guard *guard.Guard
	// Compression of answers; nil: none.
	Compression *compression.Compressor
	// Agents: the log has who asks, by Referer and User-Agent.
	Agents bool
	// Pages are answers of our own for people.
	Pages Pages
	// Tokens are counted there; nil: they are not.
	Tokens *tokens.Metrics
	// Tracer makes spans of requests; nil: none.
	Tracer *tracing.Tracer
	// Recorder keeps what passes, for who asks later; nil: nobody does.
	Recorder *recorder.Recorder
	// PromptSeed is that of a balancer in whose place this one goes on; 0: there is none.
	PromptSeed uint64
	// Log gets what a person would act on; nil: nobody is told.
	Log hclog.Logger
}

// DefaultMaxAhead is room for a prompt of a million tokens, and for a few images.
const DefaultMaxAhead = 8 << 20

// DefaultAheadMemory is room for some hundred large prompts that come at once.
const DefaultAheadMemory = 512 << 20

// Balancer carries requests. It has no state but what it was made with, or told
// since, and the count of what is under way; it is safe for use by many goroutines.
type Balancer struct {
	table    atomic.Pointer[table] // replaced whole
	recorder *recorder.Recorder
	tokens   *tokens.Metrics
	log      hclog.Logger
	attempts sync.Pool // of *attempt
	// aheadHeld is how much memory bodies take that were read ahead.
	aheadHeld atomic.Int64

	// promptSeed is that of the hashes of prompts, and does not change.
	promptSeed uint64

	court    *quarantine.Court
	evidence evidencePools
	scratch  sync.Pool // of *[]byte
	wardsMu  sync.Mutex
	wards    map[string]*ward // by pool
}

// New returns a balancer, or says which route leads nowhere.
func New(o Options) (*Balancer, error) {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	b := &Balancer{
		recorder: o.Recorder,
		tokens:   o.Tokens,
		log:      o.Log,
		attempts: sync.Pool{New: emptyAttempt},
		court:    o.Court,
		evidence: evidencePools{limit: o.EvidenceLimit},
		scratch:  sync.Pool{New: func() any { return new(make([]byte, scratchSize)) }},
		wards:    map[string]*ward{},
	}
	for b.promptSeed = o.PromptSeed; b.promptSeed == 0; {
		b.promptSeed = rand.Uint64()
	}
	b.evidence.room.Store(o.EvidenceMemory)
	return b, b.Update(o)
}

// PromptSeed is what another balancer needs to know prompts by the same hashes.
// It is secret.
func (b *Balancer) PromptSeed() uint64 { return b.promptSeed }

// scratchSize is how much of a body is read at a time, where it must be read
// before it is passed on.
const scratchSize = 32 << 10

// table is what a configuration says about requests, for as long as it holds.
type table struct {
	routes   routes
	trusted  networks
	maxBody  int64
	maxAhead int64
	guard    *guard.Guard
	compress *compression.Compressor
	agents   bool
	pages    pages
	tracer   *tracing.Tracer

	aheadMemory int64
}

// bodyOf is the largest body of a request by r.
func (t *table) bodyOf(r *route) int64 {
	if r.maxBody > 0 {
		return r.maxBody
	}
	return t.maxBody
}

// anyBody is the largest body by any route; 0: any.
func (t *table) anyBody() int64 {
	most := t.maxBody
	for _, r := range t.routes {
		if most > 0 {
			most = max(most, r.maxBody)
		}
	}
	return most
}

// Update goes by other pools, routes, networks and limits from the next request on, or
// says which route leads nowhere and changes nothing.
func (b *Balancer) Update(o Options) error {
	routes, err := newRoutes(o, b.wardOf)
	if err != nil {
		return err
	}
	if o.MaxAhead <= 0 {
		o.MaxAhead = DefaultMaxAhead
	}
	if o.AheadMemory <= 0 {
		o.AheadMemory = DefaultAheadMemory
	}
	b.table.Store(&table{routes: routes, trusted: o.TrustedProxies, maxBody: o.MaxBody, maxAhead: o.MaxAhead, aheadMemory: o.AheadMemory, guard: o.Guard, compress: o.Compression, agents: o.Agents, pages: newPages(&o.Pages), tracer: o.Tracer})
	return nil
}

// Serve carries x from its head to the end of its answer, or breaks it.
func (b *Balancer) Serve(ctx context.Context, x *exchange.Exchange) {
	trace := b.identify(x)
	if err := checkBody(x); err != nil { // before a recorder stands before the body
		x.Wrong = err
	}
	a := b.newAttempt(x)
	a.trace = trace
	defer b.free(a)
	b.conclude(x, a, b.carry(ctx, x, a))
}

// carry is a request's way, and says how it ended. What finds the way has
// returned before anybody waits for an answer: a stream that is open for minutes
// has nothing of it on its stack, which fits into 4 KiB for that (a test holds it).
func (b *Balancer) carry(ctx context.Context, x *exchange.Exchange, a *attempt) verdict {
	if v, goes := b.depart(ctx, x, a); !goes {
		return v
	}
	return a.journey.deliver(ctx)
}

// depart begins x's journey, or says how x has ended.
func (b *Balancer) depart(ctx context.Context, x *exchange.Exchange, a *attempt) (v verdict, goes bool) {
	l, v := b.lead(ctx, x, a)
	if l == nil {
		return v, false
	}
	d, err := dueOf(x)
	if err != nil {
		return classify(err), false
	}
	a.journey.due = d
	if err := a.begin(b, x, l); err != nil {
		return classify(err), false
	}
	return v, true
}

// lead finds out whether x may be carried, and which way. Without a lane it has
// ended, as the verdict says.
func (b *Balancer) lead(ctx context.Context, x *exchange.Exchange, a *attempt) (*lane, verdict) {
	if err := check(&x.Request); err != nil {
		return nil, classify(err)
	}
	if err := checkWrong(x); err != nil {
		return nil, classify(err)
	}
	if err := checkWebSocket(x); err != nil {
		return nil, classify(err)
	}
	now := b.table.Load()
	a.table, a.ahead.total = now, &b.aheadHeld
	a.smaller = now.compress.Wish(&x.Request)
	if err := now.guard.Enter(x, &a.pass); err != nil {
		return nil, a.turnAway(err)
	}
	q := ask(&x.Request, a)
	r, err := now.routes.find(&q)
	if err != nil {
		return nil, classify(err)
	}
	a.route, x.Record.Route = r, r.name
	var l *lane
	if r.own == nil {
		l = r.to.next()
		x.Record.Pool = l.pool.Name()
	}
	if err := now.guard.Take(x, &a.pass); err != nil {
		return nil, classify(err)
	}
	if r.own != nil {
		return nil, b.answer(ctx, x, a, r)
	}
	if err := a.limit(x, now.bodyOf(r)); err != nil {
		return nil, classify(err)
	}
	return l, verdict{}
}

// begin sets out on l's way.
func (a *attempt) begin(b *Balancer, x *exchange.Exchange, l *lane) (err error) {
	rules := &l.rules
	key, cookie := rules.Affinity.of(x)
	a.cookie = cookie
	var prefix upstream.Prefix
	if rules.Affinity.inside() {
		if key, prefix, err = a.look(rules.Affinity, b.promptSeed); err != nil {
			return err
		}
	}
	a.prepare(a.route)
	j := &a.journey
	j.b, j.l, j.x, j.a = b, l, x, a
	j.want = Want{Priority: rules.priority(&x.Request), Affinity: key, Prefix: prefix}
	if rules.WeighPrompts {
		j.want.Tokens, j.want.Charged = promptTokens(x), &j.charged
	}
	// What kills an engine through a WebSocket is not in its request, which is
	// everybody's; a stream of gRPC cannot be read whole before it is judged.
	if !x.WebSocket && !isGRPC(&x.Request) {
		j.e = l.ward.begin(x)
	}
	return nil
}

// deliver takes the request to a member, by the time when it is due.
func (j *journey) deliver(ctx context.Context) verdict {
	j.l.inFlight.Add(1)
	ctx, wait, cancel := j.due.limit(ctx, j.l.rules.MinRemaining)
	defer j.end(cancel)
	if err := j.beginStream(); err != nil {
		j.last = classify(err)
	} else {
		j.last = j.travel(ctx, wait)
	}
	return j.last
}

// end is the journey's, whose contexts cancel ends.
func (j *journey) end(cancel func()) {
	defer j.l.inFlight.Add(-1)
	defer cancel()
	if j.retrying {
		j.l.endRetry()
	}
	j.leave()
	j.endStream()
	j.countTokens()
	j.l.ward.end(j.e, j.last.isWell() && j.a.head.Status < http.StatusInternalServerError)
}

// travel tries members until one has answered, or no other may be tried.
func (j *journey) travel(ctx, wait context.Context) verdict {
	for {
		lease, err := j.admit(wait)
		if err != nil {
			return j.stranded(err)
		}
		j.due.passOn(j.x.Request.Fields)
		v := j.try(ctx, lease)
		if end, over := j.arrive(lease, v); over {
			return end
		}
	}
}

// arrive says whether a member's verdict is the end, and which.
func (j *journey) arrive(lease Lease, v verdict) (end verdict, over bool) {
	j.b.report(j.x, v)
	if j.s.concerns(&v) {
		if again, end := j.s.next(v); !again {
			return end, true
		}
	} else if !j.mayRetry(&v) {
		return v, true
	}
	j.want.Failed, j.last = lease, v
	return v, false
}

// do lets a member answer.
func (j *journey) do(ctx context.Context, lease Lease) error {
	if j.s != nil {
		return j.s.carry(ctx, lease)
	}
	return inTime(ctx, j.a.whole(lease.Do(ctx, j.x, j.a)))
}

// report tells of a member's fault; the access log has the others.
func (b *Balancer) report(x *exchange.Exchange, v verdict) {
	if v.blame && b.log.IsDebug() {
		b.log.Debug("upstream failed a request", "id", x.Record.ID, "pool", x.Record.Pool,
			"worker", x.Record.Worker, "attempt", x.Record.Attempts, "retry", v.retry, "error", v.err)
	}
}

// conclude records the verdict and tells the client. Once the answer has begun
// the only honest way to tell is to break it.
func (b *Balancer) conclude(x *exchange.Exchange, a *attempt, v verdict) {
	x.Record.Outcome, x.Record.Err = v.outcome, v.err
	switch {
	case v.isWell():
	case a.begun:
		a.journey.s.lament(v)
		x.Sink.Break(v.err)
	case v.status == statusClientGone:
		x.Record.Status = statusClientGone
		x.Sink.Break(v.err)
	default:
		if err := refuse(x, a, v); err != nil {
			x.Sink.Break(err)
		}
	}
}
