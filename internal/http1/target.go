package http1

import (
	"net/http"
	"net/netip"
	"strings"
)

// resolve makes Target and Authority of the request target in any of its four
// forms (RFC 9112 3.2) and the Host, which is "" only in HTTP/1.0.
func (h *RequestHead) resolve(target, host string) error {
	if host != "" && !isAuthority(host) {
		return errHost
	}
	h.Authority = host
	switch {
	case h.Method == http.MethodConnect:
		// Whatever is said to it, what follows may be a tunnel's bytes.
		h.Target, h.Close = target, true
		return h.agree(target)
	case target[0] == '/', target == "*" && h.Method == http.MethodOptions:
		h.Target = target
		return nil
	}
	scheme, rest, found := strings.Cut(target, "://")
	if !found || !same(scheme, "http") && !same(scheme, "https") {
		return errTargetForm
	}
	authority, path := rest, ""
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	switch {
	case path == "" && h.Method == http.MethodOptions:
		path = "*"
	case path == "":
		path = "/"
	case path[0] == '?':
		path = "/" + path
	}
	h.Target = path
	return h.agree(authority)
}

// agree checks the authority that the target names against the Host. By the
// RFC the target wins; but then a proxy before us that went by the Host has let
// the request in for another host than the one it is for.
func (h *RequestHead) agree(authority string) error {
	if !isAuthority(authority) {
		return errTargetForm
	}
	if h.Authority == "" {
		h.Authority = authority
	}
	if !same(h.Authority, authority) {
		return errHostDiffers
	}
	return nil
}

// isAuthority says whether s is a host with an optional port (RFC 3986 3.2.2,
// 3.2.3). User information is none, nor is a colon without a port: readers
// disagree on what it means.
func isAuthority(s string) bool {
	host := s
	if colon := strings.LastIndexByte(s, ':'); colon >= 0 && strings.IndexByte(s[colon:], ']') < 0 {
		if !isPort(s[colon+1:]) {
			return false
		}
		host = s[:colon]
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		a, err := netip.ParseAddr(host[1 : len(host)-1])
		return err == nil && a.Is6() && a.Zone() == ""
	}
	return isRegName(host)
}

func isPort(s string) bool {
	const longest = len("65535")
	if s == "" || len(s) > longest {
		return false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n <= 65535
}

// isRegName says whether s is a registered name or an IPv4 address: letters,
// digits, "-._~" and the sub-delimiters. Escapes are none, though RFC 3986 has
// them: whether "a%2Eb" is the host "a.b" is read in two ways (net/http decodes
// a target's and not the Host's), and no client of ours sends one.
func isRegName(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("-._~!$&'()*+,;=", c) >= 0:
		default:
			return false
		}
	}
	return true
}
