// Package guard says who may send a request, and how many: networks let in or
// kept out, bearer keys, rate limits, and which web pages may ask. It judges an
// exchange and knows nothing of routes, pools or connections; the balancer asks
// it and answers.
//
// A request passes it in this order:
//
//	networks   by the client's address, as trusted proxies name it    403
//	preflight  a browser's question, answered here: it has no key     204, 403
//	key        where there is a file of keys                          401
//	limits     when its route is known, all that apply or none         429
//
// A request that is refused has used up nothing. What it holds until its end are
// places (requests in flight), and the bytes of a body whose length was not
// known are charged then.
//
// The peer of a unix socket has no address: file permissions have let it in. It
// passes the networks, and limits per address do not concern it.
package guard

import (
	"errors"
	"net/netip"
	"strconv"

	"stoker/exchange"
	"stoker/internal/http1"
)

// Options are what a guard is made with. The zero value guards nothing.
type Options struct {
	// Allow are the networks that may ask, Deny those that may not; no Allow:
	// all but Deny. Who is in both is denied.
	Allow, Deny []netip.Prefix
	// Keys that let a request in; nil: none is needed.
	Keys *Keyring
	// PassKeys has the key passed on to the upstream, where it is taken out otherwise.
	PassKeys bool
	// Limits apply in order, each to those it concerns.
	Limits []Limit
	// CORS says which web pages may ask.
	CORS CORS
}

// Guard judges requests. It is safe for use by many goroutines.
type Guard struct {
	allow, deny []netip.Prefix
	keys        *Keyring
	passKeys    bool
	limits      []*limiter
	cors        *cors // nil: upstreams say it
}

// New returns a guard, nil where there is nothing to guard: that costs requests
// nothing. Limits that before had just as they are go on counting.
func New(o Options, before *Guard) *Guard {
	if len(o.Allow) == 0 && len(o.Deny) == 0 && o.Keys == nil && len(o.Limits) == 0 && len(o.CORS.Origins) == 0 {
		return nil
	}
	g := &Guard{allow: o.Allow, deny: o.Deny, keys: o.Keys, passKeys: o.PassKeys, cors: newCORS(o.CORS)}
	for _, l := range o.Limits {
		kept := before.limiter(l)
		if kept == nil {
			kept = newLimiter(l)
		}
		g.limits = append(g.limits, kept)
	}
	return g
}

// limiter is the one of exactly that limit, nil if there is none.
func (g *Guard) limiter(l Limit) *limiter {
	if g == nil {
		return nil
	}
	for _, has := range g.limits {
		if has.Limit == l {
			return has
		}
	}
	return nil
}

// Refusal is a request that is not let through. Its text is for the client.
type Refusal struct { //nolint:errname // what a guard says; no failure of anything
	Status int
	// Outcome is for the log; Kind and Code are the error's type and code.
	Outcome    exchange.Outcome
	Kind, Code string
	Text       string
	// RetryAfter is when another try may help, in seconds; 0: says nothing.
	RetryAfter int
}

func (r *Refusal) Error() string { return r.Text }

// ErrPreflight says that the request is a browser's question whether it may ask. It is
// to be answered 204, with the pass's fields.
var ErrPreflight = errors.New("CORS preflight")

// Pass is what one request has been granted. Its zero value is none. It is used
// again for another request after Leave.
type Pass struct {
	guard *Guard
	who   subject
	// origin of the page, as CORS names it in the answer; empty: no page, or none that may ask.
	origin    string
	preflight preflight
	holds     []hold
	text      []byte // that fields view
}

// Enter judges whose request x is, before anybody knows where it goes. Its
// error is a *Refusal or ErrPreflight. The name of its key is put into the record.
func (g *Guard) Enter(x *exchange.Exchange, p *Pass) error {
	if g == nil {
		return nil
	}
	p.guard = g
	if g.cors != nil {
		g.cors.enter(&x.Request, p)
	}
	address, err := netip.ParseAddr(x.Record.ClientIP)
	if err == nil {
		p.who.address = subnet(address)
		if !g.admits(address) {
			return errAddress
		}
	}
	if g.cors != nil && p.preflight.asked {
		if p.origin == "" {
			return errOrigin
		}
		return ErrPreflight
	}
	if g.keys == nil {
		return nil
	}
	return g.identify(x, p)
}

// Take claims what the limits allow that concern x, whose route and pool are in
// its record, or nothing. Its error is a *Refusal.
func (g *Guard) Take(x *exchange.Exchange, p *Pass) error {
	if g == nil || len(g.limits) == 0 {
		return nil
	}
	now := clock()
	for _, l := range g.limits {
		if !l.concerns(&x.Record, &p.who) {
			continue
		}
		p.holds = append(p.holds, hold{})
		h := &p.holds[len(p.holds)-1]
		if why := l.take(&p.who, now, x.Length, h); why != granted {
			for i := range p.holds[:len(p.holds)-1] {
				p.holds[i].giveBack()
			}
			x.Record.Limit = l.Name
			return l.refusal(why, h)
		}
	}
	return nil
}

// Leave ends the pass: places are free again, and what the body had is charged.
func (p *Pass) Leave(x *exchange.Exchange) {
	if p.guard == nil {
		return
	}
	for i := range p.holds {
		p.holds[i].leave(x)
	}
	clear(p.holds)
	*p = Pass{holds: p.holds[:0], text: p.text[:0]}
}

// AppendFields adds to an answer's fields what clients are told of limits and
// CORS. The fields are good until the next call, or Leave.
func (p *Pass) AppendFields(fields http1.Fields) http1.Fields {
	if p.guard == nil {
		return fields
	}
	p.text = p.text[:0]
	if len(p.holds) > 0 {
		fields = p.appendLimits(fields)
	}
	if c := p.guard.cors; c != nil {
		fields = c.append(fields, p)
	}
	return fields
}

// Owns says whether a field of an upstream's answer is ours to say instead:
// a browser takes two of Access-Control-Allow-Origin for none.
func (p *Pass) Owns(name string) bool {
	return p.guard != nil && p.guard.cors != nil && isCORSField(name)
}

func itoa(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }
