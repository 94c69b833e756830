package balancer

import (
	"net/http"
	"strings"

	"stoker/config"
	"stoker/internal/http1"
)

// requestError is a request that goes nowhere; the text is for its client.
type requestError struct {
	status int
	code   string
	text   string
}

func (e *requestError) Error() string { return e.text }

// The requests that go nowhere.
var (
	errNoRoute   = &requestError{http.StatusNotFound, "no_route", "no route leads from this host and path to a pool"}
	errMethod    = &requestError{http.StatusNotImplemented, "method_not_supported", "CONNECT and TRACE are not supported"}
	errTarget    = &requestError{http.StatusBadRequest, "bad_target", "the request's target is neither a path nor *, or holds characters that are not allowed there"}
	errAuthority = &requestError{http.StatusBadRequest, "bad_host", "the request's host is missing or malformed"}
)

// check refuses what must not reach an upstream. Fronts parse, each as strictly
// as its HTTP version lets it; this is the rule for all of them: HTTP/2 can
// carry a path with spaces, of which HTTP/1.1 would make another request line.
func check(r *http1.Request) error {
	switch {
	case r.Method == http.MethodConnect || r.Method == http.MethodTrace:
		return errMethod
	case !validTarget(r):
		return errTarget
	case !validAuthority(r):
		return errAuthority
	}
	return nil
}

func validTarget(r *http1.Request) bool {
	if r.Target == "*" {
		return r.Method == http.MethodOptions
	}
	if !strings.HasPrefix(r.Target, "/") {
		return false
	}
	for i := range len(r.Target) {
		if c := r.Target[i]; c <= ' ' || c == 0x7f || c == '#' {
			return false
		}
	}
	return true
}

func validAuthority(r *http1.Request) bool {
	if r.Authority == "" {
		return r.Proto == 10 // which has no Host
	}
	for i := range len(r.Authority) {
		if c := r.Authority[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`/\?#@<>"`, c) >= 0 {
			return false
		}
	}
	return true
}

// route sends what it matches to lane. Empty fields match anything.
type route struct {
	host string // lower case, without port
	path string // without a slash at the end
	lane *lane
}

func newRoute(r config.Route, l *lane) route {
	return route{host: strings.ToLower(hostOnly(r.Host)), path: strings.TrimRight(r.Path, "/"), lane: l}
}

// routes are asked in order.
type routes []route

// find returns the lane of the first route that matches, or errNoRoute. Paths
// are compared as they were sent: routing is no access control, and only the
// engine knows what it makes of "/a/../b" or "%61".
func (t routes) find(r *http1.Request) (*lane, error) {
	path, _, _ := strings.Cut(r.Target, "?")
	host := hostOnly(r.Authority)
	for i := range t {
		if t[i].matches(host, path) {
			return t[i].lane, nil
		}
	}
	return nil, errNoRoute
}

func (r *route) matches(host, path string) bool {
	if r.host != "" && !strings.EqualFold(r.host, host) {
		return false
	}
	rest, under := strings.CutPrefix(path, r.path)
	return under && (rest == "" || rest[0] == '/' || r.path == "")
}

// hostOnly is an authority without its port, and without the dot of the root.
func hostOnly(authority string) string {
	host := authority
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !strings.Contains(host[colon:], "]") {
		host = host[:colon]
	}
	return strings.TrimSuffix(host, ".")
}
