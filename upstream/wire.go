package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync/atomic"
	"time"

	"stoker/internal/rawconn"
)

// wire is a connection to an upstream: a *rawconn.Conn, or TLS over one. One
// goroutine may read while another writes; Abort is anybody's.
type wire interface {
	Read(p []byte) (int, error)
	Write(p []byte) (int, error)
	// ReadLazily, CheckIdle, Abort and CloseWrite are as rawconn.Conn's.
	ReadLazily(room func() []byte, rest func() error) (int, error)
	CheckIdle() error
	Abort()
	CloseWrite() error
	Close() error
	SetReadDeadline(t time.Time) error
	// Unacknowledged is how many of the bytes that were written last nobody has
	// confirmed; 0 where it cannot be told.
	Unacknowledged() int
}

// spliceable is the socket whose bytes may be moved inside the kernel; nil:
// they are encrypted.
func spliceable(w wire) *rawconn.Conn {
	c, _ := w.(*rawconn.Conn)
	return c
}

// secured is a wire with TLS. Its bytes have to be copied: nothing is spliced.
type secured struct {
	*tls.Conn
	below *below
	// plain is what was read and not yet asked for, of a buffer of its own: TLS
	// wants to know where to decrypt to before it knows whether it must wait,
	// and who waits here holds no buffer of an exchange's.
	plain  []byte
	buffer []byte
}

// below is the socket under TLS.
type below struct {
	*rawconn.Conn
	// rest is called before a read waits, if not nil.
	rest func() error
	// written is how many bytes were written, mark how many before this exchange.
	written, mark atomic.Int64
}

func (b *below) Read(p []byte) (int, error) { return b.ReadIdle(p, b.rest) }

func (b *below) Write(p []byte) (int, error) {
	n, err := b.Conn.Write(p)
	b.written.Add(int64(n))
	return n, err //nolint:wrapcheck // a wire is transparent
}

// plainSize is what a TLS record holds at most.
const plainSize = 16 << 10

// secure makes TLS of a connection. ctx bounds the handshake.
func secure(ctx context.Context, conn *rawconn.Conn, c *tls.Config) (wire, error) {
	b := &below{Conn: conn}
	t := tls.Client(b, c)
	if err := t.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS with %s: %w", conn.RemoteAddr(), err)
	}
	return &secured{Conn: t, below: b}, nil
}

func (s *secured) Read(p []byte) (int, error) {
	if len(s.plain) > 0 {
		return s.take(p), nil
	}
	return s.Conn.Read(p) //nolint:wrapcheck // a wire is transparent
}

func (s *secured) take(p []byte) int {
	n := copy(p, s.plain)
	s.plain = s.plain[n:]
	return n
}

// ReadLazily reads a record to a buffer of the connection's own first: while it
// waits, rest has given those of the exchange away.
func (s *secured) ReadLazily(room func() []byte, rest func() error) (int, error) {
	if len(s.plain) == 0 {
		if s.buffer == nil {
			s.buffer = make([]byte, plainSize)
		}
		s.below.rest = rest
		n, err := s.Conn.Read(s.buffer)
		s.below.rest = nil
		s.plain = s.buffer[:n]
		if n == 0 {
			return 0, err //nolint:wrapcheck // a wire is transparent
		}
	}
	return s.take(room()), nil
}

// CheckIdle takes anything that has come for the end: it is nearly always the
// word that the upstream closes, and a connection with it is never used again.
func (s *secured) CheckIdle() error {
	if len(s.plain) > 0 {
		return rawconn.ErrUnsolicited
	}
	s.below.mark.Store(s.below.written.Load())
	err := s.below.CheckIdle()
	if errors.Is(err, rawconn.ErrUnsolicited) {
		return io.EOF
	}
	return err //nolint:wrapcheck // a wire is transparent
}

// Abort and Close say no goodbye, which could wait for the upstream.
func (s *secured) Abort()       { s.below.Abort() }
func (s *secured) Close() error { return s.below.Close() } //nolint:wrapcheck // a wire is transparent

// Unacknowledged is all there is, if nothing was confirmed of what this exchange
// has written, else nothing: what is in the middle cannot be told by encrypted bytes.
func (s *secured) Unacknowledged() int {
	if int64(s.below.Unacknowledged()) >= s.below.written.Load()-s.below.mark.Load() {
		return math.MaxInt
	}
	return 0
}

var (
	_ wire     = (*rawconn.Conn)(nil)
	_ wire     = (*secured)(nil)
	_ net.Conn = (*below)(nil)
)
