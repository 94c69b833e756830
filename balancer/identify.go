package balancer

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"time"

	"stoker/balancer/tracing"
	"stoker/exchange"
	"stoker/internal/http1"
)

// Fields that say where a request comes from.
const (
	requestIDField      = "X-Request-Id"
	forwardedForField   = "X-Forwarded-For"
	forwardedProtoField = "X-Forwarded-Proto"
	forwardedHostField  = "X-Forwarded-Host"
	forwardedPrefix     = "X-Forwarded-"
)

// maxRequestID is the longest X-Request-Id that is taken over.
const maxRequestID = 128

// networks are where trusted peers come from.
type networks []netip.Prefix

func (n networks) contain(a netip.Addr) bool {
	for _, p := range n {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// claims are what a request says of its own origin.
type claims struct {
	id          string
	forwarded   string // X-Forwarded-For, all of them joined
	rfc7239     string // Forwarded, all of them joined
	traceparent string // all of them joined, which is none if there are several
	tracestate  string // all of them joined
	proto, host bool   // X-Forwarded-Proto and -Host are there, and kept
}

// identify gives the request its id, finds out whose it is, and replaces its
// fields by those to be sent on. A unix socket's peer is trusted: file
// permissions have let it in, and it has no address of its own to show.
func (b *Balancer) identify(x *exchange.Exchange) *tracing.Request {
	now := b.table.Load()
	if now.agents {
		noteAgent(x)
	}
	peer := x.Client.Addr()
	trusted := !peer.IsValid() || now.trusted.contain(peer)
	fields, said := separate(http1.StripHopByHop(x.Request.Fields), trusted)
	address := x.ClientText // of the peer
	if address == "" && peer.IsValid() {
		address = peer.String()
	}
	x.Record.ID = said.id
	if !trusted || !plain(said.id) {
		x.Record.ID = newID(x.Record.Start)
	}
	x.Record.ClientIP = address
	if trusted && said.forwarded == "" && said.rfc7239 != "" {
		fields = append(fields, b.believeForwarded(x, &said)...)
	}
	if trusted {
		x.Record.ClientIP = b.clientBehind(address, said.forwarded)
	}
	fields = append(fields, http1.Field{Name: requestIDField, Value: x.Record.ID})
	if chain := joined(said.forwarded, address); chain != "" {
		fields = append(fields, http1.Field{Name: forwardedForField, Value: chain})
	}
	if !said.proto {
		fields = append(fields, http1.Field{Name: forwardedProtoField, Value: x.Request.Scheme})
	}
	if !said.host && x.Request.Authority != "" {
		fields = append(fields, http1.Field{Name: forwardedHostField, Value: x.Request.Authority})
	}
	if x.WebSocket { // of what concerns this connection, the one thing that is asked of the next as well
		fields = append(fields, http1.Field{Name: "Connection", Value: "Upgrade"}, http1.Field{Name: "Upgrade", Value: "websocket"})
	}
	x.Request.Fields = fields
	return now.trace(x, &said, trusted)
}

// trace begins the request's trace where there are any, and says in its fields to
// which one it belongs: to ours, or that of the client, if that can be one.
func (t *table) trace(x *exchange.Exchange, said *claims, trusted bool) *tracing.Request {
	if t.tracer == nil && said.traceparent == "" {
		return nil
	}
	parent := tracing.ReadParent(said.traceparent, said.tracestate)
	r := t.tracer.Begin(x, parent, trusted)
	if r != nil {
		parent = r.Said()
	}
	x.Request.Fields = parent.Append(x.Request.Fields)
	return r
}

// separate takes out, in place, what is written anew and what must not be
// passed on from this peer.
func separate(fields http1.Fields, trusted bool) (http1.Fields, claims) {
	var said claims
	kept := fields[:0]
	for _, f := range fields {
		switch origin := isOrigin(f.Name); {
		case isName(f.Name, "Expect"), isName(f.Name, "Proxy"), shadows(f.Name):
		case isName(f.Name, requestIDField):
			said.id = f.Value
		case isName(f.Name, tracing.ParentField):
			said.traceparent = joined(said.traceparent, f.Value)
		case isName(f.Name, tracing.StateField):
			said.tracestate = joined(said.tracestate, f.Value)
		case !origin:
			kept = append(kept, f)
		case !trusted:
		case isName(f.Name, forwardedForField):
			said.forwarded = joined(said.forwarded, f.Value)
		default:
			said.proto = said.proto || isName(f.Name, forwardedProtoField)
			said.host = said.host || isName(f.Name, forwardedHostField)
			if isName(f.Name, forwardedField) {
				said.rfc7239 = joined(said.rfc7239, f.Value)
			}
			kept = append(kept, f)
		}
	}
	clear(fields[len(kept):])
	return kept, said
}

// isOrigin says whether a field tells where a request comes from.
func isOrigin(name string) bool {
	return isName(name, "Forwarded") || isName(name, "X-Real-IP") ||
		len(name) > len(forwardedPrefix) && isName(name[:len(forwardedPrefix)], forwardedPrefix)
}

// isName compares field names; almost all differ in length.
func isName(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

func joined(list, next string) string {
	switch {
	case list == "":
		return next
	case next == "":
		return list
	}
	return list + ", " + next
}

// plain says whether a client's id may stand in logs, file names and fields as it is.
func plain(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && strings.IndexByte("-_.:+/=@", c) < 0 {
			return false
		}
	}
	return true
}

// newID makes a UUID of version 7 (RFC 9562): it sorts by time, and its 74
// random bits make it unique. It is a name and no secret, so a generator
// without system calls will do.
func newID(now time.Time) string {
	const digits = "0123456789abcdef"
	var u [16]byte
	binary.BigEndian.PutUint64(u[:8], uint64(now.UnixMilli())<<16|0x7000|rand.Uint64()&0x0fff)
	binary.BigEndian.PutUint64(u[8:], 1<<63|rand.Uint64()>>2)
	var text [36]byte
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	for i, at := range &idPlaces {
		text[at], text[at+1] = digits[u[i]>>4], digits[u[i]&0x0f]
	}
	return string(text[:])
}

// idPlaces are where an id's bytes stand in its text.
var idPlaces = [16]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// clientBehind is the right-most address of an X-Forwarded-For that is not one
// of ours to trust: each proxy appends whom it has seen, so everything left of
// that may be invented. What is no address ends the search.
func (b *Balancer) clientBehind(peer, forwarded string) string {
	client := peer
	for rest := forwarded; rest != ""; {
		var last string
		if comma := strings.LastIndexByte(rest, ','); comma >= 0 {
			rest, last = rest[:comma], rest[comma+1:]
		} else {
			rest, last = "", rest
		}
		a, ok := address(strings.TrimSpace(last))
		if !ok {
			break
		}
		client = a.String()
		if !b.table.Load().trusted.contain(a) {
			break
		}
	}
	if client == "" {
		return "unix"
	}
	return client
}

// address reads an entry of X-Forwarded-For, which some proxies write with a port.
func address(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}
