package front

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stoker/internal/rawconn"
)

// wire is a connection's bytes: those of the socket, or, with TLS, those that it
// carries. The socket itself is in no method's reach by accident: what was
// written past TLS would be plain for everybody.
type wire struct {
	raw *rawconn.Conn
	tls *tls.Conn // nil: plain
	// under is what tls writes to and reads from; nil: plain.
	under *under
	// torn: something was left out at the end, and the client must see that. TLS
	// then ends without a close_notify, which would say that all was sent.
	torn atomic.Bool
}

// secure puts TLS on the wire, before anything was read or written.
func (w *wire) secure(config *tls.Config) {
	w.under = &under{raw: w.raw}
	w.tls = tls.Server(w.under, config)
}

// Read reads what is there, and waits only when nothing is. It never returns
// bytes with an error.
func (w *wire) Read(p []byte) (int, error) {
	if w.tls == nil {
		return w.raw.Read(p)
	}
	n, err := w.tls.Read(p)
	if n > 0 {
		err = nil // an end that came with the last bytes; it will be there again
	}
	return n, err
}

// ReadLazily is Read into memory that is not needed while nothing comes; see
// rawconn's.
func (w *wire) ReadLazily(room func() []byte, rest func() error) (int, error) {
	if w.tls == nil {
		return w.raw.ReadLazily(room, rest)
	}
	w.under.eager = true
	n, err := w.Read(room())
	w.under.eager = false
	if !errors.Is(err, errNothing) {
		return n, err
	}
	if err := rest(); err != nil {
		return 0, err
	}
	if err := w.under.await(); err != nil {
		return 0, err
	}
	return w.Read(room())
}

// Write writes all of p, or returns an error and how much of it was written.
func (w *wire) Write(p []byte) (int, error) {
	if w.tls == nil {
		return w.raw.Write(p)
	}
	return w.tls.Write(p)
}

// WriteLast is Write of what nothing but the connection's end follows; see rawconn's.
func (w *wire) WriteLast(p []byte) (int, error) {
	if w.tls == nil {
		return w.raw.WriteLast(p)
	}
	return w.tls.Write(p)
}

// recordBytes is what fits into one record of TLS.
const recordBytes = 16 << 10

var records = sync.Pool{New: func() any { return new([recordBytes]byte) }}

// WriteBuffers writes all of bufs in order. With TLS they are put together
// first: each write is a record of its own, and a system call.
func (w *wire) WriteBuffers(bufs [][]byte) (int64, error) {
	if w.tls == nil {
		return w.raw.WriteBuffers(bufs)
	}
	record := records.Get().(*[recordBytes]byte)
	defer records.Put(record)
	written, held := int64(0), 0
	for _, b := range bufs {
		for len(b) > 0 {
			n := copy(record[held:], b)
			held += n
			b = b[n:]
			if held < recordBytes {
				continue
			}
			n, err := w.tls.Write(record[:held])
			written += int64(n)
			if err != nil {
				return written, err
			}
			held = 0
		}
	}
	n, err := w.tls.Write(record[:held])
	return written + int64(n), err
}

// Splice moves up to n bytes from src: inside the kernel, unless TLS has to be
// put around them.
func (w *wire) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if w.tls == nil {
		return w.raw.Splice(src, n)
	}
	return rawconn.Copy(w.tls, src, n)
}

// CloseWrite says that nothing more will come. It does not wait.
func (w *wire) CloseWrite() error {
	if w.tls != nil && !w.torn.Load() {
		w.under.ending.Store(true)
		_ = w.tls.CloseWrite() // a client that takes no more has to do without
	}
	return w.raw.CloseWrite()
}

// Close closes the connection. It does not wait, not even for a client that
// takes no more.
func (w *wire) Close() error {
	if w.tls == nil || w.torn.Load() {
		return w.raw.Close()
	}
	w.under.ending.Store(true)
	return w.tls.Close()
}

// closeBy is Close for who is the last to use it. A handshake costs so much that
// with TLS there is nothing to gain.
func (w *wire) closeBy(k *rawconn.Closer) {
	if w.tls == nil {
		k.Close(w.raw)
		return
	}
	_ = w.Close() // nothing more can be done about it
}

// Abort ends the connection in both directions at once; see rawconn's.
func (w *wire) Abort() {
	w.torn.Store(true)
	w.raw.Abort()
}

// discard reads up to n bytes as they come, and makes nothing of them. Fewer, and
// no error, are all that there were.
func (w *wire) discard(n int64) (int64, error) { return rawconn.Copy(io.Discard, w.raw, n) }

// Taken is how many bytes the client's kernel has taken, TLS included.
func (w *wire) Taken() int64 { return w.raw.Taken() }

// LocalAddr implements net.Conn.
func (w *wire) LocalAddr() net.Addr { return w.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (w *wire) RemoteAddr() net.Addr { return w.raw.RemoteAddr() }

// SetDeadline implements net.Conn.
func (w *wire) SetDeadline(t time.Time) error { return w.raw.SetDeadline(t) }

// SetReadDeadline implements net.Conn.
func (w *wire) SetReadDeadline(t time.Time) error { return w.raw.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (w *wire) SetWriteDeadline(t time.Time) error { return w.raw.SetWriteDeadline(t) }

// control runs do with the descriptor.
func (w *wire) control(do func(fd int)) error { return control(w.raw, do) }

func control(raw *rawconn.Conn, do func(fd int)) error {
	c, err := raw.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { do(int(fd)) })
}

// under is the socket as TLS sees it.
type under struct {
	raw *rawconn.Conn
	// eager: a read that would have to wait fails with errNothing. The reader's alone.
	eager bool
	// ending: what is still written is a farewell, and nobody waits for that.
	ending atomic.Bool
}

var _ net.Conn = (*under)(nil)

// nothing is an error after which TLS goes on, as after a time-out.
type nothing struct{}

func (nothing) Error() string   { return "nothing to read right now" }
func (nothing) Timeout() bool   { return true }
func (nothing) Temporary() bool { return true }

var errNothing net.Error = nothing{}

func sayNothing() error { return errNothing }

// Read implements net.Conn.
func (u *under) Read(p []byte) (int, error) {
	if u.eager {
		return u.raw.ReadIdle(p, sayNothing)
	}
	return u.raw.Read(p)
}

// await returns when there is something to read, be it the end.
func (u *under) await() error {
	c, err := u.raw.SyscallConn()
	if err != nil {
		return err
	}
	return c.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return !errors.Is(err, syscall.EAGAIN)
	})
}

// Write implements net.Conn.
func (u *under) Write(p []byte) (int, error) {
	if !u.ending.Load() {
		return u.raw.Write(p)
	}
	n, errno := 0, error(nil)
	err := control(u.raw, func(fd int) {
		n, errno = unix.SendmsgN(fd, p, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
	if err == nil {
		err = errno
	}
	return max(n, 0), err
}

// Close implements net.Conn.
func (u *under) Close() error { return u.raw.Close() }

// LocalAddr implements net.Conn.
func (u *under) LocalAddr() net.Addr { return u.raw.LocalAddr() }

// RemoteAddr implements net.Conn.
func (u *under) RemoteAddr() net.Addr { return u.raw.RemoteAddr() }

// SetDeadline implements net.Conn. TLS sets deadlines of its own around its
// farewell only, which does not wait; all others are set on the socket.
func (u *under) SetDeadline(time.Time) error { return nil }

// SetReadDeadline implements net.Conn; see SetDeadline.
func (u *under) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline implements net.Conn; see SetDeadline.
func (u *under) SetWriteDeadline(time.Time) error { return nil }

// handshake is the client's and ours, by the deadline that was set.
func (w *wire) handshake() (tls.ConnectionState, error) {
	err := w.tls.HandshakeContext(context.Background()) // a context would need a goroutine, and the deadline none
	return w.tls.ConnectionState(), err
}
