package front

import (
	"errors"
	"net/http"
	"strconv"

	"stoker/internal/http1"
)

var (
	errHeadSlow = errors.New("the request's head did not arrive in time")
	errTooMany  = errors.New("too many connections; try again later")
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
	case errors.Is(err, errTooMany):
		return refusal{http.StatusServiceUnavailable, "server_unavailable", "too_many_connections"}
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
	c.front.log.Debug("request refused", "client", c.client, "error", err)
	if !c.front.move(c, reading) {
		return
	}
	out := refusalOf(err).append(nil, err.Error())
	c.writeSoon()
	_, _ = c.Write(out) // it may have gone
	s.unwanted = true
}

// append writes a whole answer.
func (r refusal) append(dst []byte, message string) []byte {
	body := append([]byte(nil), `{"error":{"message":`...)
	body = strconv.AppendQuote(body, message) // plain ASCII, all of them
	body = append(body, `,"type":"`+r.kind+`","code":"`+r.code+"\"}}\n"...)
	own := append([]byte(nil), "Content-Type: application/json\r\nCache-Control: no-store\r\nConnection: close\r\nContent-Length: "...)
	own = strconv.AppendInt(own, int64(len(body)), 10)
	own = appendDate(append(own, "\r\n"...))
	if r.status == http.StatusServiceUnavailable {
		own = append(own, "Retry-After: 1\r\n"...)
	}
	dst, _ = http1.AppendResponse(dst, &http1.Response{Status: r.status}, own) // nothing in it is from outside
	return append(dst, body...)
}
