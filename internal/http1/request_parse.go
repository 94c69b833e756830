package http1

import (
	"bytes"
	"errors"
)

// Limits of a request's head. An answer's is the word of an engine that we
// run, a request's that of anybody.
const (
	// MaxRequestLine is the longest request line, CRLF included, in bytes.
	MaxRequestLine = 16 << 10
	// MaxRequestSection is the largest field section of a request, in bytes,
	// without the empty line after it.
	MaxRequestSection = 16 << 10
	// MaxRequestFields is the largest number of fields of a request's head.
	MaxRequestFields = 100
	// MaxRequestHead is the largest head that ParseRequest takes: room for as
	// much is always enough.
	MaxRequestHead = len("\r\n") + MaxRequestLine + MaxRequestSection + len("\r\n")
)

// RequestHead is a request's head and what it says of its body and its connection.
type RequestHead struct {
	// Request, but for Scheme, which only the connection knows.
	Request
	// Framing is NoBody, Sized or Chunks.
	Framing Framing
	// Length of the body in bytes: 0 for none, -1 for a chunked one.
	Length int64
	// Close: the client sends no other request on this connection, or must not.
	Close bool
	// WebSocket: the client asks for the connection to become one (RFC 9110 7.8).
	// Whether it does so as it should, another has to say.
	WebSocket bool
	// Continue: the client waits for a 100 (Continue) before it sends the body.
	Continue bool
}

// ParseRequest parses the head that buf starts with into h, whose Fields it
// reuses. It returns the head's length; 0 and no error when more bytes are
// needed. seen is the length of buf at the previous call for the same head, 0
// at the first. However the bytes are cut, the result is the same.
//
// One empty line before the head is skipped (RFC 9112 2.2). Where the RFC lets a
// server be lenient otherwise, this is strict, since whoever reads the same
// bytes next may be lenient in another way: no bare LF, no folded lines, one
// Host, one Content-Length, no transfer coding but one chunked, in HTTP/1.1.
//
// h views buf. Errors are SyntaxErrors, whose Status is the answer; on one, h
// holds nothing of use.
func ParseRequest(buf []byte, seen int, h *RequestHead) (int, error) {
	lead := 0
	if bytes.HasPrefix(buf, []byte("\r\n")) {
		lead = len("\r\n")
	}
	head := buf[lead:]
	if len(head) == 0 || lead == 0 && string(buf) == "\r" {
		return 0, nil
	}
	if lead > 0 && head[0] == '\r' {
		return 0, ErrEmptyLines
	}
	if bytesAre[head[0]]&isToken == 0 {
		return 0, errMethodToken // at once: a TLS client, say, never sends a line's end
	}
	n, err := requestEnd(head, max(seen-lead, 0))
	if n == 0 || err != nil {
		return 0, err
	}
	if err := h.parse(head[:n]); err != nil {
		return 0, err
	}
	return lead + n, nil
}

// requestEnd is headEnd with a request's limits.
func requestEnd(head []byte, seen int) (int, error) {
	line := bytes.IndexByte(head, '\n') + 1
	if line == 0 {
		line = len(head) + 1 // at least
	}
	if line > MaxRequestLine {
		return 0, errLineSize
	}
	limit := line + MaxRequestSection + len("\r\n")
	n, err := headEnd(head[:min(len(head), limit)], seen)
	if n == 0 && err == nil && len(head) >= limit {
		err = errSectionSize
	}
	return n, err
}

// parse parses a whole head.
func (h *RequestHead) parse(head []byte) error {
	eol := bytes.IndexByte(head, '\n')
	*h = RequestHead{Request: Request{Fields: h.Fields[:0]}}
	target, err := h.parseLine(head[:eol-1])
	if err != nil {
		return err
	}
	h.Fields, err = parseFields(h.Fields, head[eol+1:len(head)-2], MaxRequestFields)
	if err != nil {
		return err
	}
	host, err := h.takeFields()
	if err != nil {
		return err
	}
	return h.resolve(target, host)
}

// parseLine parses "GET /path HTTP/1.1", without its CRLF.
func (h *RequestHead) parseLine(line []byte) (target string, err error) {
	method, rest, found := bytes.Cut(line, []byte{' '})
	if !found {
		return "", errLine
	}
	if len(method) == 0 || !all(method, isToken) {
		return "", errMethodToken
	}
	uri, version, found := bytes.Cut(rest, []byte{' '})
	if !found || len(uri) == 0 {
		return "", errLine
	}
	for _, c := range uri {
		// Bytes beyond ASCII are no part of a URI either, but browsers and shells
		// send them, and they separate nothing.
		if c <= ' ' || c == 0x7f || c == '#' {
			return "", errTargetChar
		}
	}
	h.Method = view(method)
	h.Proto, err = parseVersion(version)
	return view(uri), err
}

// parseVersion tells a version that we don't speak from what is none.
func parseVersion(v []byte) (int, error) {
	digit := func(i int) bool { return v[i] >= '0' && v[i] <= '9' }
	switch {
	case string(v) == "HTTP/1.1":
		return 11, nil
	case string(v) == "HTTP/1.0":
		return 10, nil
	case len(v) == 8 && string(v[:5]) == "HTTP/" && digit(5) && v[6] == '.' && digit(7):
		return 0, errVersion
	}
	return 0, errLine
}

// takeFields takes out of h.Fields what Authority, Length and the connection
// stand for, and returns the Host.
func (h *RequestHead) takeFields() (host string, err error) {
	f := framing{length: -1}
	lengths, hosts := 0, 0
	kept := h.Fields[:0]
	for _, field := range h.Fields {
		if err := f.note(field); err != nil {
			return "", requestCoding(err, field)
		}
		switch len(field.Name) {
		case len("Host"):
			if same(field.Name, "Host") {
				host = field.Value
				hosts++
				continue
			}
		case len("Upgrade"):
			if same(field.Name, "Upgrade") {
				h.WebSocket = h.WebSocket || names(field.Value, webSocket)
			}
		case len("Expect"):
			if same(field.Name, "Expect") {
				if !same(field.Value, "100-continue") {
					return "", errExpectation
				}
				h.Continue = true
				continue
			}
		case len("Content-Length"):
			if same(field.Name, "Content-Length") {
				lengths++
				continue
			}
		case len("Transfer-Encoding"):
			if same(field.Name, "Transfer-Encoding") {
				continue
			}
		}
		kept = append(kept, field)
	}
	clear(h.Fields[len(kept):])
	h.Fields = kept
	switch {
	case hosts > 1:
		return "", errHosts
	case host == "" && h.Proto == 11:
		return "", errHostMissing
	case lengths > 1:
		return "", errLengthTwice
	}
	return host, h.frame(f)
}

// requestCoding finds the RFC's own answer to a transfer coding: 501 when it is
// one before the final chunked that might be known elsewhere, 400 when the
// body's end could not be found at all (RFC 9112 6.3).
func requestCoding(err error, field Field) error {
	if !errors.Is(err, errCoding) {
		return err
	}
	codings, chunks, last := 0, 0, ""
	for coding := range tokens(field.Value) {
		codings++
		last = coding
		if same(coding, "chunked") {
			chunks++
		}
	}
	if codings > 1 && chunks == 1 && same(last, "chunked") {
		return errCodingUnknown
	}
	return err
}

// frame decides how the body is delimited and what becomes of the connection.
func (h *RequestHead) frame(f framing) error {
	switch {
	case f.chunked && f.length >= 0:
		return errLengthCoding
	case f.chunked && h.Proto < 11:
		return errCodingOld
	case f.chunked:
		h.Framing, h.Length = Chunks, -1
	case f.length > 0:
		h.Framing, h.Length = Sized, f.length
	}
	h.WebSocket = h.WebSocket && f.upgrade && h.Proto == 11
	h.Close = f.close || h.Proto < 11 && !f.keepAlive
	h.Continue = h.Continue && h.Proto == 11 && h.Length != 0
	return nil
}
