package balancer

import (
	"errors"
	"net/http"
	"strings"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
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

// checkWrong refuses what the front has found wrong and could not refuse.
func checkWrong(x *exchange.Exchange) error {
	if failure, is := errors.AsType[*upstream.Failure](x.Wrong); x.Wrong == nil || is && failure.Op == upstream.OpClientBody {
		return x.Wrong
	}
	status := http.StatusBadRequest
	if syntax, is := errors.AsType[http1.SyntaxError](x.Wrong); is {
		status = syntax.Status()
	}
	return &requestError{status, "bad_request", x.Wrong.Error()}
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
