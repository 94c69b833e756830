package http1

import "bytes"

// Framing says how an answer's body is delimited.
type Framing uint8

// The framings.
const (
	// NoBody: none follows: an interim answer, 204, 304, or an answer to HEAD.
	NoBody Framing = iota
	// Sized: Length bytes follow.
	Sized
	// Chunks: a chunked body follows.
	Chunks
	// UntilClose: the body ends where the connection does.
	UntilClose
)

// ResponseHead is an answer's head and what it says of its connection.
type ResponseHead struct {
	Response
	// Proto is 10 or 11.
	Proto   int
	Framing Framing
	// Length is the body's declared length, -1 when none is declared. With
	// NoBody it is what a GET would have had.
	Length int64
	// WebSocket: it is a 101 (Switching Protocols) to that.
	WebSocket bool
	// Close: the connection must not carry another exchange.
	Close bool
}

// statusLine is the shortest status line's length: RFC 9112 wants the space
// after the status even where no reason follows; many servers leave it out.
const statusLine = len("HTTP/1.1 200")

// ParseResponse parses the head that buf starts with, the answer to a request
// of the given method, into h, whose Fields it reuses. It returns the head's
// length; 0 and no error when more bytes are needed. seen is the length of buf
// at the previous call for the same head, 0 at the first.
//
// h views buf. Errors are SyntaxErrors; on one, h holds nothing of use.
func ParseResponse(buf []byte, seen int, method string, h *ResponseHead) (int, error) {
	if !startsLikeHTTP(buf) {
		return 0, errNotHTTP // at once: the peer may never send a line's end
	}
	n, err := headEnd(buf, seen)
	if n == 0 || err != nil {
		return 0, err
	}
	eol := bytes.IndexByte(buf, '\n')
	if err := h.parseStatusLine(buf[:eol-1]); err != nil {
		return 0, err
	}
	h.Fields, err = parseFields(h.Fields[:0], buf[eol+1:n-2], MaxFields)
	if err != nil {
		return 0, err
	}
	if err := h.frame(method); err != nil {
		return 0, err
	}
	h.WebSocket = h.Status == 101 && h.Proto == 11 && h.Fields.HasToken("Connection", "upgrade") && h.Fields.HasToken("Upgrade", webSocket)
	h.Fields = StripHopByHop(h.Fields)
	return n, nil
}

// startsLikeHTTP says whether buf is the beginning of an answer, or could become one.
func startsLikeHTTP(buf []byte) bool {
	const version = "HTTP/1."
	n := min(len(buf), len(version))
	if string(buf[:n]) != version[:n] {
		return false
	}
	return len(buf) <= n || buf[n] == '1' || buf[n] == '0'
}

// parseStatusLine parses "HTTP/1.1 200 OK", without its CRLF.
func (h *ResponseHead) parseStatusLine(line []byte) error {
	if len(line) < statusLine || line[8] != ' ' {
		return errStatus
	}
	h.Proto = 10 + int(line[7]-'0')
	h.Status = 0
	for _, c := range line[9:12] {
		if c < '0' || c > '9' {
			return errStatus
		}
		h.Status = h.Status*10 + int(c-'0')
	}
	if h.Status < 100 || h.Status > 599 {
		return errStatus
	}
	rest := line[statusLine:]
	if len(rest) > 0 && rest[0] != ' ' {
		return errStatus
	}
	if len(rest) > 0 {
		rest = rest[1:]
	}
	if !all(rest, isValue) {
		return errReason
	}
	h.Reason = view(rest)
	return nil
}

// frame decides how the body is delimited, in the order of RFC 9112 6.3.
func (h *ResponseHead) frame(method string) error {
	f, err := frame(h.Fields)
	if err != nil {
		return err
	}
	if f.chunked && h.Proto < 11 {
		return errCodingOld
	}
	h.Length = f.length
	h.Close = f.close || h.Proto < 11
	// Where none may follow, who declares one may well send it all the same, a
	// moment later, and it would be taken for the next answer: another client's.
	declaresBody := f.chunked || f.length > 0
	switch {
	case h.Status < 200:
		h.Framing = NoBody
		if declaresBody {
			return errInterimBody
		}
	case h.Status == 204:
		h.Framing = NoBody
		h.Close = h.Close || declaresBody
	case method == "HEAD", h.Status == 304:
		h.Framing = NoBody
		h.Close = h.Close || declaresBody
	case f.chunked:
		h.Framing = Chunks
	case f.length >= 0:
		h.Framing = Sized
	default:
		h.Framing, h.Close = UntilClose, true
	}
	return nil
}
