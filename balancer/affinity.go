package balancer

import (
	"crypto/rand"
	"encoding/base64"
	"net/netip"
	"strings"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// Affinity says what those requests have in common that are to go to the same
// member. The zero value: nothing.
type Affinity struct {
	kind affinityKind
	name string // of the field or cookie
}

type affinityKind int

const (
	affineNothing affinityKind = iota
	affineHeader
	affineCookie
	affineKey
	affineClient
	affineField  // of the body
	affinePrefix // of the prompt
)

// ParseAffinity reads "prefix", "field:NAME", "header:NAME", "cookie:NAME", "key"
// or "client"; anything else, which validation has ruled out, is no affinity.
func ParseAffinity(by string) Affinity {
	kind, name, _ := strings.Cut(by, ":")
	switch kind {
	case "header":
		return Affinity{affineHeader, name}
	case "cookie":
		return Affinity{affineCookie, name}
	case "field":
		return Affinity{affineField, name}
	case "prefix":
		return Affinity{kind: affinePrefix}
	case "key":
		return Affinity{kind: affineKey}
	case "client":
		return Affinity{kind: affineClient}
	}
	return Affinity{}
}

// inside says whether the request's body has to be looked into.
func (f Affinity) inside() bool { return f.kind == affineField || f.kind == affinePrefix }

// of is the key of x, as far as its head says, 0 if it has none. It says which cookie the client is to be
// given, if any: from then on it has a key.
func (f Affinity) of(x *exchange.Exchange) (key uint64, cookie string) {
	switch f.kind {
	case affineNothing, affineField, affinePrefix:
		return 0, ""
	case affineHeader:
		return upstream.AffinityKey(first(x.Request.Fields, f.name)), ""
	case affineKey:
		return upstream.AffinityKey(credential(x.Request.Fields)), ""
	case affineClient:
		return upstream.AffinityKey(network(x.Record.ClientIP)), ""
	case affineCookie:
	}
	if value := cookieOf(x.Request.Fields, f.name); value != "" {
		return upstream.AffinityKey(value), ""
	}
	value := newCookie()
	cookie = f.name + "=" + value + "; Path=/; HttpOnly; SameSite=Lax"
	if x.Request.Scheme == "https" {
		cookie += "; Secure"
	}
	return upstream.AffinityKey(value), cookie
}

// newCookie is a value that nobody guesses and that says nothing: neither of the
// client nor of the worker, whose name is no client's business.
func newCookie() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // which never fails
	return base64.RawURLEncoding.EncodeToString(id[:])
}

// first is the value of the first field of that name.
func first(fields http1.Fields, name string) string {
	for _, f := range fields {
		if isName(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// credential is what a request says to be let in: whose it is.
func credential(fields http1.Fields) string {
	if value := first(fields, "Authorization"); value != "" {
		return value
	}
	return first(fields, "X-Api-Key")
}

// network is an address as far as it says who somebody is: of an IPv6 address
// the first half, in the other half a host changes it at will. Who comes by a
// unix socket has none.
func network(client string) string {
	a, err := netip.ParseAddr(client)
	switch {
	case err != nil:
		return ""
	case a.Is4():
		return client
	}
	prefix, _ := a.WithZone("").Prefix(64) // which every IPv6 address has
	return prefix.String()
}

// cookieOf is the value of a cookie. A client sends one Cookie field, and over
// HTTP/2 perhaps several.
func cookieOf(fields http1.Fields, name string) string {
	for _, f := range fields {
		if !isName(f.Name, "Cookie") {
			continue
		}
		for rest := f.Value; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			if key, value, _ := strings.Cut(strings.TrimSpace(pair), "="); key == name && value != "" {
				return value
			}
		}
	}
	return ""
}

// giveCookie adds the cookie to an answer that does not set one of that name itself.
func giveCookie(fields http1.Fields, cookie string) http1.Fields {
	name, _, _ := strings.Cut(cookie, "=")
	for _, f := range fields {
		if isName(f.Name, "Set-Cookie") && strings.HasPrefix(f.Value, name+"=") {
			return fields
		}
	}
	return append(fields, http1.Field{Name: "Set-Cookie", Value: cookie})
}
