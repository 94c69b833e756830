package front

import (
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// errNoUpgrade: 101 ends HTTP on a connection, and nobody here goes on from there.
var errNoUpgrade = errors.New("101 Switching Protocols was not asked for")

// answer is the sink of one request, on top of net/http's ResponseWriter.
type answer struct {
	w       http.ResponseWriter
	request *request

	length int64 // as given to Head
	begun  bool
	ended  bool
	broken bool
}

var _ exchange.Sink = (*answer)(nil)

// Interim passes on a 1xx head. 100 is net/http's to send, when the body is
// first read; HTTP/1.0 knows no 1xx.
func (a *answer) Interim(status int, fields http1.Fields) error {
	if status == http.StatusContinue || a.request.Request.Proto == 10 {
		return nil
	}
	h := a.w.Header()
	addFields(h, fields, "")
	a.w.WriteHeader(status)
	clear(h)
	return nil
}

// Head implements exchange.Sink.
func (a *answer) Head(r *http1.Response, length int64) error {
	if r.Status == http.StatusSwitchingProtocols {
		return errNoUpgrade
	}
	a.begun, a.length = true, length
	h := a.w.Header()
	addFields(h, r.Fields, "")
	if _, given := h["Content-Type"]; !given {
		h["Content-Type"] = nil // else net/http guesses one from the body
	}
	if length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	if a.request.conn.front.draining.Load() || a.request.body.failed.Load() {
		h["Connection"] = []string{"close"}
	}
	a.w.WriteHeader(r.Status)
	return nil
}

// Write implements exchange.Sink.
func (a *answer) Write(p []byte) (int, error) { return a.w.Write(p) }

// Flush implements exchange.Sink.
func (a *answer) Flush() error { return http.NewResponseController(a.w).Flush() }

// Splice moves bytes from socket to socket where nothing has to be put between
// them: in HTTP/1 with a length. Else it copies, chunk by chunk. An error of
// src is a *rawconn.SourceError.
func (a *answer) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if a.request.Request.Proto == 20 || a.length < 0 {
		return rawconn.Copy(flushing{a}, src, n)
	}
	// With the head still in its buffer, net/http would copy the first bytes by
	// hand to guess their type.
	if err := a.Flush(); err != nil {
		return 0, err
	}
	// The connection splices, see rawconn.Conn.ReadFrom.
	return a.w.(io.ReaderFrom).ReadFrom(&io.LimitedReader{R: src, N: n})
}

// flushing writes through.
type flushing struct{ a *answer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.a.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.a.Flush()
}

// End implements exchange.Sink. net/http writes the end when the handler has
// returned.
func (a *answer) End(trailers http1.Fields) error {
	if len(trailers) > 0 {
		// Once a part of the body is out, net/http can no longer decide to send
		// it by its length, and so without trailers.
		if err := a.Flush(); err != nil {
			return err
		}
		addFields(a.w.Header(), trailers, http.TrailerPrefix)
	}
	a.ended = true
	return nil
}

// Break implements exchange.Sink. The framing shows that something is missing,
// but for a body that HTTP/1.0 ends by closing: there only a reset shows it.
//
// What has been written so far goes out before: a client that got nothing at
// all on a connection that it had used before would take that for a connection
// closed as it was idle, and send the request again by itself.
func (a *answer) Break(cause error) {
	a.broken = true
	if a.begun && !errors.Is(cause, exchange.ErrClientGone) {
		_ = a.Flush() // who cannot be written to will see it broken all the same
	}
	if a.request.Request.Proto == 10 && a.length < 0 {
		// A unix socket knows no reset; there is no other way to tell.
		_ = a.request.conn.control(func(fd int) {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		})
	}
}

// whole says whether the answer ended as it should.
func (a *answer) whole() bool { return a.ended && !a.broken }

// addFields copies fields into h. They are views into a buffer that is reused
// once the exchange has ended, and net/http writes some heads only after that:
// all text is copied, in one piece.
func addFields(h http.Header, fields http1.Fields, prefix string) {
	size := 0
	for _, f := range fields {
		size += len(f.Name) + len(f.Value)
	}
	var text strings.Builder
	text.Grow(size)
	for _, f := range fields {
		text.WriteString(f.Name)
		text.WriteString(f.Value)
	}
	rest := text.String()
	values := make([]string, len(fields))
	for i, f := range fields {
		name := rest[:len(f.Name)]
		values[i] = rest[len(f.Name) : len(f.Name)+len(f.Value)]
		rest = rest[len(f.Name)+len(f.Value):]
		// net/http looks up what it must not add itself by canonical names.
		name = prefix + textproto.CanonicalMIMEHeaderKey(name)
		if h[name] == nil {
			h[name] = values[i : i+1 : i+1]
			continue
		}
		h[name] = append(h[name], values[i])
	}
}
