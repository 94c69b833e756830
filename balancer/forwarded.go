package balancer

import (
	"net/netip"
	"strings"

	"stoker/exchange"
	"stoker/internal/http1"
)

// forwardedField is RFC 7239's. It counts only from a trusted peer that sends
// no X-Forwarded-For: many a proxy appends to that one and lets a Forwarded
// through that its client has made up.
const forwardedField = "Forwarded"

// hop is an element of Forwarded: whom one proxy has seen, and how.
type hop struct {
	// from is who it was; not valid: it does not say, or hides it.
	from        netip.Addr
	proto, host string
}

// parseForwarded reads a Forwarded, in order. It is false for what RFC 7239
// does not allow: nobody can tell what such a field means, so that it means nothing.
func parseForwarded(s string) ([]hop, bool) {
	var hops []hop
	for {
		s = strings.TrimLeft(s, " \t,") // empty elements of a list are allowed
		if s == "" {
			return hops, true
		}
		h, rest, ok := parseHop(s)
		if !ok {
			return nil, false
		}
		hops = append(hops, h)
		s = rest
	}
}

// parseHop reads one element, and the comma behind it.
func parseHop(s string) (h hop, rest string, ok bool) {
	var seen [4]bool
	for {
		name, after, ok := cutToken(s)
		if !ok || !strings.HasPrefix(after, "=") {
			return hop{}, "", false
		}
		value, after, ok := cutValue(after[1:])
		if !ok {
			return hop{}, "", false
		}
		which := 3 // an extension, which may come twice for all we know
		switch {
		case strings.EqualFold(name, "for"):
			which = 0
			h.from, ok = parseNode(value)
		case strings.EqualFold(name, "by"):
			which = 1
			_, ok = parseNode(value)
		case strings.EqualFold(name, "proto"):
			which, h.proto = 2, value
		case strings.EqualFold(name, "host"):
			ok = h.host == ""
			h.host = value
		}
		if !ok || which < 3 && seen[which] {
			return hop{}, "", false
		}
		seen[which] = true
		after = strings.TrimLeft(after, " \t")
		switch {
		case after == "":
			return h, "", true
		case after[0] == ',':
			return h, after[1:], true
		case after[0] != ';':
			return hop{}, "", false
		}
		s = strings.TrimLeft(after[1:], " \t")
	}
}

// cutToken takes a token off the beginning.
func cutToken(s string) (token, rest string, ok bool) {
	n := 0
	for n < len(s) && isTokenByte(s[n]) {
		n++
	}
	return s[:n], s[n:], n > 0
}

// cutValue takes a token or a quoted string off the beginning.
func cutValue(s string) (value, rest string, ok bool) {
	if !strings.HasPrefix(s, `"`) {
		return cutToken(s)
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], true
		case c == '\\':
			if i++; i == len(s) {
				return "", "", false
			}
			b.WriteByte(s[i])
		case c < ' ' && c != '\t' || c == 0x7f:
			return "", "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", "", false
}

func isTokenByte(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// parseNode reads who one end of a connection was: an address with a port or
// without, IPv6 in brackets, "unknown", or a name with an underscore before it.
func parseNode(s string) (netip.Addr, bool) {
	name := s
	if colon := strings.LastIndexByte(s, ':'); colon > strings.LastIndexByte(s, ']') {
		name = s[:colon]
		if !isPort(s[colon+1:]) {
			return netip.Addr{}, false
		}
	}
	switch {
	case strings.EqualFold(name, "unknown"):
		return netip.Addr{}, true
	case strings.HasPrefix(name, "_"):
		return netip.Addr{}, isObscured(name)
	case strings.HasPrefix(name, "[") && strings.HasSuffix(name, "]"):
		a, err := netip.ParseAddr(name[1 : len(name)-1])
		return a.Unmap(), err == nil && a.Is6() && a.Zone() == ""
	}
	a, err := netip.ParseAddr(name)
	return a, err == nil && a.Is4()
}

// isPort says whether s is a port, or a name for one.
func isPort(s string) bool {
	if strings.HasPrefix(s, "_") {
		return isObscured(s)
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != "" && len(s) <= 5
}

func isObscured(s string) bool {
	for i := range len(s) {
		if c := s[i]; !isTokenByte(c) || strings.IndexByte("!#$%&'*+^`|~", c) >= 0 {
			return false
		}
	}
	return len(s) > 1
}

// hopBehind is the right-most hop that was not one of ours to trust, as
// clientBehind has it for X-Forwarded-For, and the chain from there on as that
// field would have it. A hop that hides whom it has seen ends the search.
func (n networks) hopBehind(forwarded string) (client hop, chain string) {
	hops, ok := parseForwarded(forwarded)
	if !ok {
		return hop{}, ""
	}
	for i := len(hops) - 1; i >= 0 && hops[i].from.IsValid(); i-- {
		client = hops[i]
		chain = joined(client.from.String(), chain)
		if !n.contain(client.from) {
			break
		}
	}
	return client, chain
}

// believeForwarded takes over what a trusted peer's Forwarded says where the
// usual fields do not.
func (b *Balancer) believeForwarded(x *exchange.Exchange, said *claims) (fields http1.Fields) {
	client, chain := b.table.Load().trusted.hopBehind(said.rfc7239)
	said.forwarded = chain
	if !said.proto && (client.proto == "http" || client.proto == "https") {
		said.proto = true
		fields = append(fields, http1.Field{Name: forwardedProtoField, Value: client.proto})
	}
	asked := http1.Request{Authority: client.host, Proto: x.Request.Proto}
	if !said.host && client.host != "" && validAuthority(&asked) {
		said.host = true
		fields = append(fields, http1.Field{Name: forwardedHostField, Value: client.host})
	}
	return fields
}
