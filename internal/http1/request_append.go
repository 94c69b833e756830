package http1

import (
	"bytes"
	"strconv"
	"strings"
)

// AppendRequest writes r's head as HTTP/1.1, for a body of length bytes: 0 for
// none, -1 for a chunked one. Host and framing are made from Authority and
// length; fields of those names are left out, as is Expect: who forwards a
// request does not wait for a 100 (Continue) before the body.
//
// r must come from a parser that was strict. What would split the head into
// other lines than r's is refused all the same: a mistake elsewhere must not
// become a second request.
func AppendRequest(dst []byte, r *Request, length int64) ([]byte, error) {
	start := len(dst)
	dst = append(dst, r.Method...)
	dst = append(dst, ' ')
	dst = append(dst, r.Target...)
	dst = append(dst, " HTTP/1.1\r\n"...)
	dst = AppendField(dst, "Host", r.Authority)
	lines := 3 // with the last, empty one
	for i := range r.Fields {
		if writtenAnew(r.Fields[i].Name) {
			continue
		}
		dst = AppendField(dst, r.Fields[i].Name, r.Fields[i].Value)
		lines++
	}
	switch {
	case length < 0:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
		lines++
	case length > 0 || expectsBody(r.Method):
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, length, 10)
		dst = append(dst, "\r\n"...)
		lines++
	}
	dst = append(dst, "\r\n"...)
	if !writable(r) || !hasLines(dst[start:], lines) {
		return dst[:start], errUnwritable
	}
	return dst, nil
}

// expectsBody says whether the absence of a body should be stated (RFC 9110 8.6).
func expectsBody(method string) bool {
	return method == "POST" || method == "PUT" || method == "PATCH"
}

// writtenAnew says whether AppendRequest makes a field of this name itself, or
// leaves it out.
func writtenAnew(name string) bool {
	switch len(name) {
	case len("Host"):
		return same(name, "Host")
	case len("Expect"):
		return same(name, "Expect")
	case len("Content-Length"):
		return same(name, "Content-Length")
	case len("Transfer-Encoding"):
		return same(name, "Transfer-Encoding")
	}
	return false
}

// writable says whether the request line has its three parts and no more.
func writable(r *Request) bool {
	return IsToken(r.Method) && r.Target != "" && strings.IndexByte(r.Target, ' ') < 0
}

// hasLines says whether head is n lines by anybody's count. Searching the
// whole head for three bytes costs far less than looking at each of its bytes.
func hasLines(head []byte, n int) bool {
	return bytes.Count(head, []byte{'\n'}) == n && bytes.Count(head, []byte{'\r'}) == n && bytes.IndexByte(head, 0) < 0
}
