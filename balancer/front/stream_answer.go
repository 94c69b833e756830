package front

import (
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// streamAnswer is the sink of one HTTP/2 request, on top of net/http's ResponseWriter.
type streamAnswer struct {
	w      http.ResponseWriter
	stream *stream

	begun  bool
	ended  bool
	broken bool

	guard *guard // made at the first write
}

// guard ends a request when a write of its answer takes too long.
type guard struct {
	timer *time.Timer
	slow  atomic.Bool
}

var _ exchange.Sink = (*streamAnswer)(nil)

// Interim passes on a 1xx head. 100 is net/http's to send, when the body is
// first read.
func (a *streamAnswer) Interim(status int, fields http1.Fields) error {
	if status == http.StatusContinue {
		return nil
	}
	h := a.w.Header()
	addFields(h, fields, "")
	a.w.WriteHeader(status)
	clear(h)
	return nil
}

// Head implements exchange.Sink.
func (a *streamAnswer) Head(r *http1.Response, length int64) error {
	if r.Status == http.StatusSwitchingProtocols {
		return errNoUpgrade
	}
	a.begun = true
	h := a.w.Header()
	addFields(h, r.Fields, "")
	if _, given := h["Content-Type"]; !given {
		h["Content-Type"] = nil // else net/http guesses one from the body
	}
	if length >= 0 {
		h["Content-Length"] = []string{strconv.FormatInt(length, 10)}
	}
	if c := a.stream.conn; h[fieldHSTS] == nil && c.front.hstsFor(c) != "" {
		h[fieldHSTS] = []string{c.front.hstsFor(c)}
	}
	a.w.WriteHeader(r.Status)
	return nil
}

// pieceBytes is what one bounded write may hold; it follows from Limits.Write how
// slowly a client may read.
const pieceBytes = 16 << 10

// Write implements exchange.Sink.
func (a *streamAnswer) Write(p []byte) (int, error) {
	written := 0
	for {
		piece := p[written:min(len(p), written+pieceBytes)]
		a.bound()
		n, err := a.w.Write(piece)
		written += n
		if err = a.unbound(err); err != nil || written == len(p) {
			return written, err
		}
	}
}

// Flush implements exchange.Sink.
func (a *streamAnswer) Flush() error {
	a.bound()
	return a.unbound(http.NewResponseController(a.w).Flush())
}

// bound gives a write its time. The connection's pace does not do: a client can
// close the window of one stream and read all others.
func (a *streamAnswer) bound() {
	a.stream.Record.Waits()
	limit := a.stream.conn.front.limits.Load().Write
	if a.guard != nil {
		a.guard.timer.Reset(limit)
		return
	}
	g, life := new(guard), a.stream.life
	g.timer = time.AfterFunc(limit, func() {
		g.slow.Store(true)
		life.end(exchange.ErrClientGone) // which resets the stream, see begin
	})
	a.guard = g
}

func (a *streamAnswer) unbound(err error) error {
	a.guard.timer.Stop()
	if err != nil && a.guard.slow.Load() {
		return fmt.Errorf("%w: %w", errReadsSlowly, err)
	}
	return err
}

// Splice copies, piece by piece: each goes into frames. An error of src is a
// *rawconn.SourceError.
func (a *streamAnswer) Splice(src *rawconn.Conn, n int64) (int64, error) {
	return rawconn.Copy(flushing{a}, src, n)
}

// flushing writes through.
type flushing struct{ a *streamAnswer }

func (f flushing) Write(p []byte) (int, error) {
	n, err := f.a.w.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.a.Flush()
}

// End implements exchange.Sink. net/http writes the end when the handler has
// returned.
func (a *streamAnswer) End(trailers http1.Fields) error {
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

// Break implements exchange.Sink: the stream is reset, when the handler has
// returned. What has been written so far goes out before.
func (a *streamAnswer) Break(cause error) {
	a.broken = true
	if a.begun && !errors.Is(cause, exchange.ErrClientGone) {
		_ = a.Flush() // who cannot be written to will see it broken all the same
	}
}

// whole says whether the answer ended as it should.
func (a *streamAnswer) whole() bool { return a.ended && !a.broken }

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
