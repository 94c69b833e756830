package http1

import (
	"net/http"
	"strconv"
)

// AppendResponse writes r's head as HTTP/1.1, interim or final. own are the
// lines that the connection adds, each with its CRLF: framing, Connection,
// Date. Fields of r that are called like framing or Connection are left out. An
// empty reason is replaced by the usual one, for clients that want some.
//
// What would split the head into other lines is refused: a mistake elsewhere
// must not become a second answer.
func AppendResponse(dst []byte, r *Response, own []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(r.Status), 10)
	dst = append(dst, ' ')
	if r.Reason != "" {
		dst = append(dst, r.Reason...)
	} else {
		dst = append(dst, http.StatusText(r.Status)...)
	}
	dst = append(dst, "\r\n"...)
	lines := 2 // with the last, empty one
	for i := range r.Fields {
		if !ofConnection(r.Fields[i].Name) {
			dst = AppendField(dst, r.Fields[i].Name, r.Fields[i].Value)
			lines++
		}
	}
	for _, c := range own {
		if c == '\n' {
			lines++
		}
	}
	dst = append(dst, own...)
	dst = append(dst, "\r\n"...)
	if r.Status < 100 || r.Status > 599 || !hasLines(dst[start:], lines) {
		return dst[:start], errUnwritableAnswer
	}
	return dst, nil
}

// ofConnection says whether a field of this name is the connection's to write.
func ofConnection(name string) bool {
	switch len(name) {
	case len("Connection"):
		return same(name, "Connection")
	case len("Content-Length"):
		return same(name, "Content-Length")
	case len("Transfer-Encoding"):
		return same(name, "Transfer-Encoding")
	}
	return false
}
