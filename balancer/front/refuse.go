package front

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

var (
	errHeadSlow = errors.New("the request's head did not arrive in time")
	errTooMany  = errors.New("too many connections; try again later")
	// errTooManyOfOne: of one address.
	errTooManyOfOne = errors.New("too many connections from your address; use those that you have")
)

const (
	// refusedTime is how long a connection that is one too many may take for its
	// request, so that its client reads the answer as one to that: many a client
	// takes an answer that comes before for a defect.
	refusedTime = time.Second
	// maxRefused is how many of those there may be; further ones are answered
	// and closed without waiting for anything.
	maxRefused = 256
)

const (
	codeTooMany = "too_many_connections"
	codeFlood   = "http2_flood"
)

// refusal is what a client is told that never became a request.
type refusal struct {
	status     int
	kind, code string
}

// refusalOf finds the answer to what was wrong with a head.
func refusalOf(err error) refusal {
	var syntax http1.SyntaxError
	switch {
	case errors.Is(err, errHeadSlow):
		return refusal{http.StatusRequestTimeout, "timeout", "head_timeout"}
	case errors.Is(err, errPlainHTTP):
		return refusal{http.StatusBadRequest, "bad_request", "plain_http_on_tls"}
	case errors.Is(err, errStranger):
		return refusal{http.StatusForbidden, "bad_request", "not_a_proxy"}
	case errors.Is(err, errProxy):
		return refusal{http.StatusBadRequest, "bad_request", "proxy_header"}
	case errors.Is(err, errFlood):
		return refusal{http.StatusTooManyRequests, "overloaded", codeFlood}
	case errors.Is(err, errTooMany):
		return refusal{http.StatusServiceUnavailable, "server_unavailable", codeTooMany}
	case errors.Is(err, errTooManyOfOne):
		return refusal{http.StatusTooManyRequests, "overloaded", codeTooMany}
	case errors.As(err, &syntax):
		return refusal{syntax.Status(), "bad_request", codeOf(syntax.Status())}
	}
	return refusal{http.StatusBadRequest, "bad_request", "bad_request"}
}

func codeOf(status int) string {
	switch status {
	case http.StatusRequestURITooLong:
		return "uri_too_long"
	case http.StatusExpectationFailed:
		return "expectation_not_supported"
	case http.StatusRequestHeaderFieldsTooLarge:
		return "head_too_large"
	case http.StatusNotImplemented:
		return "coding_not_supported"
	case http.StatusHTTPVersionNotSupported:
		return "version_not_supported"
	}
	return "bad_request"
}

// refuse answers what is no request, and ends the connection: where the next
// one would begin, nobody can tell. No upstream hears of it.
func (s *session) refuse(err error) {
	c := s.conn
	if !c.front.move(c, reading) {
		return
	}
	c.front.observeRefusal(c, err, s.headSince())
	out := refusalOf(err).append(nil, err.Error())
	_, _ = c.Write(out) // it may have gone
	s.unwanted = true
}

// headSince is when the head that is being read has begun, nearly.
func (s *session) headSince() time.Time {
	if s.headBy.IsZero() {
		return time.Now()
	}
	return s.headBy.Add(-s.conn.front.limits.Load().Head)
}

// observeRefusal tells observers of what became no request.
func (f *Front) observeRefusal(c *conn, err error, since time.Time) {
	r := refusalOf(err)
	x := exchange.Exchange{Client: c.client, Record: exchange.Record{
		Refused: r.code, ClientIP: "unix", Start: since, End: time.Now(), Status: r.status, Outcome: r.outcome(), Err: err,
	}}
	if c.client.IsValid() {
		x.Record.ClientIP = c.client.Addr().String()
	}
	for _, o := range f.observers {
		o.Observe(&x)
	}
}

func (r refusal) outcome() exchange.Outcome {
	if r.code == codeTooMany || r.code == codeFlood {
		return exchange.OutcomeLimited
	}
	return exchange.OutcomeClientError
}

// turnAway answers a connection that is one too many, when its request has
// come, or after a moment.
func (s *session) turnAway() {
	c := s.conn
	_ = c.SetReadDeadline(time.Now().Add(refusedTime)) // fails on a closed connection only, as the read will
	for seen := 0; ; {
		n, err := c.wire.Read(s.in.room())
		s.in.end += n
		if err == nil {
			n, err = http1.ParseRequest(s.in.unread(), seen, &s.head)
		}
		if n > 0 || err != nil {
			break
		}
		seen = len(s.in.unread())
	}
	s.refuse(c.refused)
}

// append writes a whole answer.
func (r refusal) append(dst []byte, message string) []byte {
	body := append([]byte(nil), `{"error":{"message":`...)
	body = strconv.AppendQuote(body, message) // plain ASCII, all of them
	body = append(body, `,"type":"`+r.kind+`","code":"`+r.code+"\"}}\n"...)
	own := append([]byte(nil), "Content-Type: application/json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	own = strconv.AppendInt(own, int64(len(body)), 10)
	own = appendDate(append(own, "\r\n"...), time.Time{})
	if r.code == codeTooMany {
		own = append(own, "Retry-After: 1\r\n"...)
	}
	dst, _ = http1.AppendResponse(dst, &http1.Response{Status: r.status}, own) // nothing in it is from outside
	return append(dst, body...)
}
