package front

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// heldBytes is how much of an answer is held back for the next write, until
// Flush or the end: a head and a small body are one system call.
const heldBytes = 4 << 10

var heldBuffers = sync.Pool{New: func() any { return new([heldBytes]byte) }}

// Programming errors of who answers; the connection is broken.
var (
	errTooMuch   = errors.New("answer's body is longer than declared")
	errTooLittle = errors.New("answer's body is shorter than declared")
	errNoHead    = errors.New("answer without a head")
	// errNoUpgrade: 101 ends HTTP on a connection, and nobody here goes on from there.
	errNoUpgrade = errors.New("101 Switching Protocols was not asked for")
)

// answer is the sink of a session's request. What is written is held, and goes
// out in one piece with what makes it too much, or with Flush. The very end is
// written by the session, when the request has been left: a client that has its
// answer will find nothing of the request in any count.
type answer struct {
	session *session
	// plain is what is written to without TLS, at hand: an event should wait for as few
	// places of memory as may be. nil: with TLS.
	plain *rawconn.Conn

	held *[heldBytes]byte
	out  []byte // what is held, in held unless that is too small
	vec  [3][]byte
	err  error // of the connection

	left    int64 // of a sized body; -1: not sized
	chunked bool
	bare    bool // no body follows, whatever the length
	begun   bool
	shed    bool // the request's head was let go of
	ended   bool
	broken  bool
	close   bool // the connection ends with this answer
	// reset: closing the connection resets it; nothing must end it in peace before.
	reset bool

	// The 100 (Continue) is written by who reads the body, perhaps another
	// goroutine than the one that answers.
	mu       sync.Mutex
	awaited  atomic.Bool // the client waits for it
	answered bool        // it would come too late
}

var _ exchange.Sink = (*answer)(nil)

func (a *answer) start() {
	a.free()
	a.plain = nil
	if c := a.session.conn; c.tls == nil {
		a.plain = c.raw
	}
	a.err, a.left = nil, -1
	a.chunked, a.bare, a.begun, a.ended, a.broken = false, false, false, false, false
	a.close = a.session.head.Close
	a.answered = false
	a.shed = false
	a.awaited.Store(a.session.head.Continue)
}

// free gives back the buffer; nothing may be held.
func (a *answer) free() {
	if a.held != nil {
		heldBuffers.Put(a.held)
	}
	a.held, a.out = nil, nil
}

// hold makes sure that there is a buffer.
func (a *answer) hold() {
	if a.held == nil {
		a.held = heldBuffers.Get().(*[heldBytes]byte)
		a.out = a.held[:0]
	}
}

var goAheadLine = []byte("HTTP/1.1 100 Continue\r\n\r\n")

// goAhead tells a client that waits for it to send the body, unless the answer
// has begun. It is called whenever the body is wanted, also when some of it has
// come already: to know that, a client would have to know how fast it was.
func (a *answer) goAhead() error {
	if !a.awaited.Load() {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.answered || !a.awaited.Swap(false) {
		return nil
	}
	_, err := a.session.conn.Write(goAheadLine)
	return err
}

// Interim passes on a 1xx head, at once. 100 is said when the body is first
// read; HTTP/1.0 knows no 1xx.
func (a *answer) Interim(status int, fields http1.Fields) error {
	if status == http.StatusContinue || a.session.Request.Proto == 10 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.hold()
	var err error
	if a.out, err = http1.AppendResponse(a.out, &http1.Response{Status: status, Fields: fields}, nil); err != nil {
		return err
	}
	return a.flush()
}

// Head implements exchange.Sink.
func (a *answer) Head(r *http1.Response, length int64) error {
	if r.Status == http.StatusSwitchingProtocols {
		return errNoUpgrade
	}
	a.mu.Lock()
	a.answered = true
	a.mu.Unlock()
	s := a.session
	old := s.Request.Proto == 10
	a.bare = s.Request.Method == http.MethodHead || r.Status == http.StatusNoContent || r.Status == http.StatusNotModified
	a.chunked = !a.bare && length < 0 && !old
	a.left = length
	// A client that was not told to send its body may or may not do so.
	// Nor may one that was told that its body is too large; and who is still
	// sending much of it may find the connection closed.
	a.close = a.close || r.Status == http.StatusRequestEntityTooLarge && (s.Length < 0 || s.Length > restBytes) || s.body.muchToCome() || s.conn.front.draining.Load() || s.conn.hurried.Load() || s.body.failed.Load() || a.awaited.Load() ||
		!a.bare && length < 0 && old
	var room [128]byte
	own := a.framing(room[:0], r.Status, length)
	switch {
	case a.close:
		own = append(own, "Connection: close\r\n"...)
	case r.Status == http.StatusUpgradeRequired && r.Fields.Has("Upgrade"): // ours: an engine's is its connection's
		own = append(own, "Connection: Upgrade\r\n"...)
	case old:
		own = append(own, "Connection: keep-alive\r\n"...)
	}
	if hsts := s.conn.front.hstsFor(s.conn); hsts != "" && !r.Fields.Has(fieldHSTS) {
		own = append(append(append(own, fieldHSTS+": "...), hsts...), "\r\n"...)
	}
	if !r.Fields.Has("Date") {
		own = appendDate(own, s.Record.FirstByte)
	}
	a.hold()
	out, err := http1.AppendResponse(a.out, r, own)
	if err != nil {
		return err
	}
	a.out, a.begun = out, true
	return nil
}

// framing says where the body ends.
func (a *answer) framing(own []byte, status int, length int64) []byte {
	switch {
	case a.chunked:
		own = append(own, "Transfer-Encoding: chunked\r\n"...)
	case length >= 0 && status != http.StatusNoContent:
		own = append(own, "Content-Length: "...)
		own = strconv.AppendInt(own, length, 10)
		own = append(own, "\r\n"...)
	}
	return own
}

// Write implements exchange.Sink.
func (a *answer) Write(p []byte) (int, error) {
	switch {
	case a.err != nil:
		return 0, a.err
	case !a.begun:
		return 0, errNoHead
	case a.bare || len(p) == 0:
		return len(p), nil
	case a.left >= 0 && int64(len(p)) > a.left:
		return 0, errTooMuch
	}
	a.hold()
	fits := len(a.out)+len(p)+http1.ChunkHead+http1.ChunkTail <= heldBytes
	a.vec = [3][]byte{nil, p, nil}
	if a.chunked {
		a.out = strconv.AppendUint(a.out, uint64(len(p)), 16)
		a.out = append(a.out, "\r\n"...)
		a.vec[2] = lineEnd
	}
	if a.left >= 0 {
		a.left -= int64(len(p))
	}
	if fits {
		a.out = append(a.out, p...)
		a.out = append(a.out, a.vec[2]...)
		a.vec = [3][]byte{}
		return len(p), nil
	}
	if err := a.send(); err != nil {
		return 0, err
	}
	return len(p), nil
}

var lineEnd = []byte("\r\n")

// send writes what is held, and the rest of vec with it.
func (a *answer) send() error {
	a.session.Record.Waits() // for a client that is slow
	var err error
	switch {
	case a.vec[1] == nil && a.plain != nil:
		_, err = a.plain.Write(a.out)
	case a.vec[1] == nil:
		_, err = a.session.conn.wire.Write(a.out) // cheaper than a list of one
	default:
		a.vec[0] = a.out
		_, err = a.session.conn.WriteBuffers(a.vec[:])
	}
	a.vec = [3][]byte{}
	a.free() // a stream may now be silent for long
	a.err = unread(err)
	return a.err
}

// unread says of a write's time-out what it means.
func unread(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", errReadsSlowly, err)
	}
	return err
}

// Flush implements exchange.Sink.
func (a *answer) Flush() error {
	if a.err != nil {
		return a.err
	}
	if a.begun && !a.shed {
		a.shed = true
		a.session.shed()
	}
	return a.flush()
}

// flush writes what is held.
func (a *answer) flush() error {
	if len(a.out) == 0 {
		a.free()
		return a.err
	}
	return a.send()
}

// finish writes what is held of an answer that has ended; last: the connection ends, too.
func (a *answer) finish(last bool) error {
	if !last || len(a.out) == 0 {
		return a.flush()
	}
	_, err := a.session.conn.WriteLast(a.out)
	a.free()
	a.err = unread(err)
	return a.err
}

// Splice moves bytes from socket to socket where nothing has to be put between
// them. Else it copies, chunk by chunk. An error of src is a
// *rawconn.SourceError.
func (a *answer) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if err := a.Flush(); err != nil {
		return 0, err
	}
	if a.chunked || a.bare || !a.begun {
		return rawconn.Copy(through{a}, src, n)
	}
	if a.left >= 0 && n > a.left {
		return 0, errTooMuch
	}
	a.session.Record.Waits()
	moved, err := a.session.conn.Splice(src, n)
	if a.left >= 0 {
		a.left -= moved
	}
	var source *rawconn.SourceError
	if err != nil && !errors.As(err, &source) {
		a.err = unread(err)
		err = a.err
	}
	return moved, err
}

// through writes at once.
type through struct{ a *answer }

func (t through) Write(p []byte) (int, error) {
	n, err := t.a.Write(p)
	if err != nil {
		return n, err
	}
	return n, t.a.Flush()
}

// End implements exchange.Sink. The end itself is written by the session.
func (a *answer) End(trailers http1.Fields) error {
	switch {
	case a.err != nil:
		return a.err
	case !a.begun:
		return errNoHead
	case !a.bare && a.left > 0:
		return errTooLittle
	}
	if a.chunked {
		a.hold()
		a.out = http1.AppendLastChunk(a.out, trailers)
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
	if a.begun && !a.ended && !errors.Is(cause, exchange.ErrClientGone) {
		_ = a.Flush() // who cannot be written to will see it broken all the same
	}
	a.free()
	// A client that does not read would leave megabytes in the kernel for minutes.
	stalled := errors.Is(a.err, os.ErrDeadlineExceeded)
	if stalled || a.begun && !a.bare && !a.chunked && a.left < 0 {
		a.reset = true
		a.session.conn.resetOnClose()
	}
}

// whole says whether the answer ended as it should.
func (a *answer) whole() bool { return a.ended && !a.broken }

// dateLine is the Date field of one second.
type dateLine struct {
	second int64
	line   []byte
}

var dates atomic.Pointer[dateLine]

// appendDate writes a Date field, which every answer has that passes a server
// with a clock (RFC 9110 6.6.1). It is made once a second.
func appendDate(dst []byte, now time.Time) []byte {
	if now.IsZero() {
		now = time.Now()
	}
	d := dates.Load()
	if d == nil || d.second != now.Unix() {
		d = &dateLine{now.Unix(), now.UTC().AppendFormat(nil, "Date: "+http.TimeFormat+"\r\n")}
		dates.Store(d)
	}
	return append(dst, d.line...)
}
