package front

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

const (
	// restBytes and restTime bound what is read of a body that the handler left
	// unread, so that its connection may serve another request.
	restBytes = 256 << 10
	restTime  = 2 * time.Second
)

var (
	_ exchange.Mover   = (*body)(nil)
	_ exchange.Checker = (*body)(nil)
)

// errInterrupted is what an interrupted body says.
var errInterrupted = errors.New("body is not wanted any more")

// body reads a request's body from its session's connection. A transport may
// read it in a goroutine of its own while it answers; nobody else reads then.
type body struct {
	session *session

	left    int64 // of a sized one
	chunked http1.Chunked
	waited  time.Duration // for the client; an engine that is slow to take the body is none of its fault
	taken   int64         // bytes read, framing included
	until   time.Time
	err     error
	// here: all of a chunked one has come with the head; wrong: what did is no HTTP;
	// promised: how long it will be at least, by that.
	here     bool
	wrong    error
	promised int64

	ended       atomic.Bool // nothing of it is left on the connection
	failed      atomic.Bool // it broke off or is no HTTP
	interrupted atomic.Bool
}

func (b *body) reset() {
	b.chunked.Reset()
	b.left, b.taken, b.err = b.session.head.Length, 0, nil
	b.waited, b.until = 0, time.Time{}
	b.here, b.wrong, b.promised = false, nil, 0
	if b.session.head.Framing == http1.Chunks {
		b.here, b.promised, b.wrong = b.chunked.Check(b.session.in.unread())
	}
	b.ended.Store(false)
	b.failed.Store(false)
	b.interrupted.Store(false)
}

// isHere says whether all of the body has come with the head.
func (b *body) isHere() bool {
	return b.here || b.left >= 0 && b.left <= int64(len(b.session.in.unread()))
}

// Read implements io.Reader. An error that comes of the client's leaving is
// exchange.ErrClientGone, of its being too slow exchange.ErrClientSlow; of the
// others, the request itself is wrong.
func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.interrupted.Load():
		return 0, errInterrupted
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	}
	var n int
	var err error
	if b.session.head.Framing == http1.Chunks {
		n, err = b.readChunks(p)
	} else {
		n, err = b.readSized(p)
	}
	b.session.Record.BytesIn += int64(n)
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.err = err
	default:
		b.err = b.explain(err)
	}
	return n, b.err
}

func (b *body) readSized(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.receive(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if b.left == 0 {
		b.ended.Store(true)
	}
	return n, err
}

// readChunks decodes in p itself. What it has read of the next request goes
// back to the session.
func (b *body) readChunks(p []byte) (int, error) {
	for !b.chunked.Done() {
		n, err := b.receive(p)
		if err != nil {
			return 0, err
		}
		data, used, err := b.chunked.Decode(p[:n])
		if most := b.session.MaxBody; most > 0 && err == nil && b.chunked.Promised() > most {
			err = exchange.ErrBodyTooLarge // nobody waits for what nobody takes
		}
		if err == nil && b.chunked.Done() {
			b.giveBack(p[used:n])
			b.ended.Store(true)
		}
		if len(data) > 0 || err != nil {
			return len(data), err
		}
	}
	return 0, io.EOF
}

// Check implements exchange.Checker.
func (b *body) Check() error {
	if b.wrong != nil {
		b.err = b.explain(b.wrong)
	}
	return b.err
}

func (b *body) giveBack(p []byte) {
	in := &b.session.in
	if len(p) == 0 {
		return
	}
	if len(in.unread()) > 0 {
		in.start -= len(p) // from where it was taken
		return
	}
	in.putBack(p)
}

// receive reads what comes of the body, framing and all.
func (b *body) receive(p []byte) (int, error) {
	s := b.session
	if err := s.answer.goAhead(); err != nil {
		return 0, err
	}
	if n := s.in.take(p); n > 0 {
		b.taken += int64(n)
		return n, nil
	}
	if err := b.bound(); err != nil {
		return 0, err
	}
	began := time.Now()
	defer func() { b.waited += time.Since(began) }()
	n, err := s.conn.wire.Read(p)
	b.taken += int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Move implements exchange.Mover, for a body of a declared length in plain TCP.
// However it goes on, Read says why where it moves nothing.
func (b *body) Move(dst *rawconn.Conn, n int64) (moved int64, err error) {
	s := b.session
	if b.interrupted.Load() || b.err != nil || s.head.Framing == http1.Chunks || s.conn.tls != nil || len(s.in.unread()) > 0 || s.answer.goAhead() != nil {
		return 0, nil
	}
	pipe, err := rawconn.OpenPipe()
	if err != nil {
		return 0, nil // out of descriptors: to read needs none
	}
	defer pipe.Close()
	n = min(n, b.left)
	for taken := int64(0); taken < n; {
		in, err := b.fill(pipe, n-taken)
		switch {
		case errors.Is(err, unix.EINVAL) && taken == 0:
			return 0, nil
		case err != nil:
			b.err = b.explain(err)
			return moved, &rawconn.SourceError{Err: b.err}
		}
		taken += in
		out, err := pipe.Drain(dst)
		moved += out
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// fill takes what comes of the body into a pipe, at most n bytes.
func (b *body) fill(pipe *rawconn.Pipe, n int64) (int64, error) {
	if err := b.bound(); err != nil {
		return 0, err
	}
	began := time.Now()
	in, err := pipe.Fill(b.session.conn.raw, n)
	b.waited += time.Since(began)
	if in == 0 && err == nil {
		err = io.ErrUnexpectedEOF
	}
	b.taken += in
	b.left -= in
	b.session.Record.BytesIn += in
	if b.left == 0 {
		b.ended.Store(true)
	}
	return in, err
}

// bound sets the deadline of the next read, unless nobody wants it any more.
func (b *body) bound() error {
	c := b.session.conn
	c.readUntil(b.deadline(time.Now()), c.front.limits.Load().Body/16)
	if b.interrupted.Load() || c.hurried.Load() {
		return os.ErrDeadlineExceeded // the deadline that says so may just have been overwritten
	}
	return nil
}

// deadline is when more must have come: progress within limits.Body, and on
// the whole no less than limits.BodyRate. A client that sends one byte now and then
// would else hold a worker for as long as it likes.
func (b *body) deadline(now time.Time) time.Time {
	if !b.until.IsZero() {
		return b.until
	}
	limits := b.session.conn.front.limits.Load()
	if limits.BodyRate == 0 {
		return now.Add(limits.Body)
	}
	ahead := time.Duration(b.taken/limits.BodyRate)*time.Second - b.waited
	return now.Add(min(limits.Body+ahead, limits.Body))
}

// explain says whose doing an error is.
func (b *body) explain(err error) error {
	var syntax http1.SyntaxError
	switch {
	case b.interrupted.Load():
		return errInterrupted
	case errors.As(err, &syntax), errors.Is(err, exchange.ErrBodyTooLarge):
		b.failed.Store(true)
		return err
	}
	b.failed.Store(true)
	if cause := b.session.life.Err(); cause != nil {
		return fmt.Errorf("%w: %w", cause, err)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: %w", exchange.ErrClientSlow, err)
	}
	return fmt.Errorf("%w: %w", exchange.ErrClientGone, err)
}

// Interrupt makes a Read in progress, and every later one, return an error
// soon. Another goroutine may call it.
func (b *body) Interrupt() {
	b.interrupted.Store(true)
	_ = b.session.conn.SetReadDeadline(time.Now()) // fails on a closed connection only
}

// over says whether nothing of the body is left on the connection, and the
// connection's deadline is one that the session knows of.
func (b *body) over() bool { return b.ended.Load() && !b.interrupted.Load() }

// trailers are the fields after the body, once it has ended.
func (b *body) trailers() http1.Fields { return b.chunked.Trailers }

// muchToCome says whether more may be left of the body than is read for its
// connection's sake. Another goroutine may be reading it.
func (b *body) muchToCome() bool {
	length := b.session.head.Length
	return (length > restBytes || length < 0 && !b.here) && !b.ended.Load()
}

// resume takes an interruption back: who asked for it does not read any more.
func (b *body) resume() {
	if !b.interrupted.Swap(false) {
		return
	}
	b.session.conn.readDeadline = time.Time{} // it was set behind its back
	if errors.Is(b.err, errInterrupted) {
		b.err = nil
	}
}

// readRest reads a small rest of the body and says whether it has ended.
func (b *body) readRest() bool {
	b.resume()
	if b.err != nil {
		return b.ended.Load()
	}
	b.until = time.Now().Add(restTime)
	buf := smallInputs.Get().(*[smallInput]byte)
	defer smallInputs.Put(buf)
	taken := b.session.Record.BytesIn
	for !b.ended.Load() && b.session.Record.BytesIn-taken <= restBytes {
		if _, err := b.Read(buf[:]); err != nil {
			break
		}
	}
	return b.ended.Load()
}
