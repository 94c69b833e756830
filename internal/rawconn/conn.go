// Package rawconn wraps a TCP or unix stream socket so that reads and writes
// are plain non-blocking system calls made inside the runtime's poller
// callbacks. It knows no protocol.
//
// Why: a Go socket never blocks, yet net.Conn announces each read and write to
// the scheduler as a call that might (entersyscall, exitsyscall and the thread
// switches that follow). For a proxy that moves one small event at a time this
// was two fifths of all its CPU time.
//
// Two rules keep it right. Every call carries MSG_DONTWAIT, so that a
// descriptor which somebody made blocking (os.File does) cannot stop a whole
// thread. And every call tries first and waits after: the poller is
// edge-triggered, so a FIN that arrived together with the last data wakes
// nobody a second time.
package rawconn

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ErrUnsolicited is what CheckIdle says of a connection on which bytes wait
// that nobody asked for.
var ErrUnsolicited = errors.New("unsolicited data on an idle connection")

// Conn is a stream socket. It implements net.Conn with one restriction: at any
// moment at most one goroutine may read and at most one may write. Close,
// Abort and the deadlines may be used by anybody at any time.
type Conn struct {
	conn owner
	raw  syscall.RawConn

	// received counts the bytes read for whoever set it.
	received *atomic.Uint64
	pacer    Pacer
	// watched: InputEnded will be called; ended: it has been.
	watched bool
	ended   atomic.Bool

	in  reading
	out writing
	ask asking

	watchedAs uint64
}

// reading is the read in progress: arguments and results of the callback,
// which is bound once, by the first that needs it, so that a read allocates nothing.
// What each event of a stream needs stands first, in writing, too: of many streams
// all memory is cold when their next event comes.
type reading struct {
	// Of ReadLazily and ReadOn.
	room func() []byte
	rest func() error
	got  func(n int) bool
	err  error
	n    int

	try            func(fd uintptr) bool
	tryLazy, tryOn func(fd uintptr) bool
	p              []byte
	idle           func() error

	peek   func(fd uintptr)
	peeked byte

	// fill is the callback of Splice's first half.
	fill   func(fd uintptr) bool
	pipe   int
	atMost int
}

// writing is the write in progress.
type writing struct {
	try     func(fd uintptr) bool
	p       []byte
	n       int
	err     error
	total   int64   // of all writes that are over
	more    uintptr // MSG_MORE or 0
	blocked bool    // the one in progress has waited

	tryAll func(fd uintptr) bool
	iov    []unix.Iovec // all that WriteBuffers was given
	rest   []unix.Iovec // what of iov is still to be written
	msg    unix.Msghdr

	// drain is the callback of Splice's second half.
	drain func(fd uintptr) bool
	pipe  int
	left  int
}

var (
	_ net.Conn      = (*Conn)(nil)
	_ io.ReaderFrom = (*Conn)(nil)
	_ syscall.Conn  = (*Conn)(nil)
)

// Wrap makes a Conn of c, a *net.TCPConn or a *net.UnixConn of type "unix".
// From then on c must be used through the Conn alone.
func Wrap(c net.Conn) (*Conn, error) {
	var sc interface {
		owner
		syscall.Conn
	}
	switch v := c.(type) {
	case *Conn:
		return v, nil
	case *net.TCPConn:
		sc = v
	case *net.UnixConn:
		if n := v.LocalAddr().Network(); n != "unix" {
			return nil, fmt.Errorf("wrap connection: %s is no stream", n)
		}
		sc = v
	default:
		return nil, fmt.Errorf("wrap connection: %T is neither a TCP nor a unix connection", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("wrap connection: %w", err)
	}
	return &Conn{conn: sc, raw: raw}, nil
}

// CountReceived adds the number of every byte read from now on to n.
func (c *Conn) CountReceived(n *atomic.Uint64) { c.received = n }

// Read reads what is there, and waits only when nothing is.
func (c *Conn) Read(p []byte) (int, error) { return c.ReadIdle(p, nil) }

// ReadIdle is Read that calls idle once before it first waits: when nothing
// can be read right now. This is the moment to flush what was made of earlier
// reads; asking apart ("is there more?") would cost a system call of its own.
// An error from idle ends the read and is returned as it is. idle must not
// read from c.
func (c *Conn) ReadIdle(p []byte, idle func() error) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.in.try == nil {
		c.in.try = c.tryRead
	}
	c.in.p, c.in.idle = p, idle
	err := c.raw.Read(c.in.try)
	n, rerr := c.in.n, c.in.err
	c.in.p, c.in.idle, c.in.n, c.in.err = nil, nil, 0, nil
	if err == nil {
		err = rerr
	}
	return n, err
}

// tryRead is the poller's callback: true when the read is over, false to wait.
func (c *Conn) tryRead(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&c.in.p[0])), uintptr(len(c.in.p)), unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // G103: the kernel wants an address
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			return c.fellIdle()
		}
		if errno != 0 {
			c.in.err = os.NewSyscallError("recvfrom", errno)
			return true
		}
		if n == 0 {
			c.in.err = io.EOF
			return true
		}
		c.in.n = int(n)
		c.count(c.in.n)
		return true
	}
}

// fellIdle runs the idle function, once per read, and says whether the read is over.
func (c *Conn) fellIdle() bool {
	if c.in.idle == nil {
		return false
	}
	c.in.err = c.in.idle()
	c.in.idle = nil
	return c.in.err != nil
}

func (c *Conn) count(n int) {
	if c.received != nil {
		c.received.Add(uint64(n))
	}
}

// Write writes all of p, or returns an error and how much of it was written.
func (c *Conn) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if c.out.try == nil {
		c.out.try = c.tryWrite
	}
	c.out.p = p
	n, err := c.write(c.out.try)
	c.out.p = nil
	return n, err
}

// WriteLast is Write of what nothing but the connection's end follows, at once: by TCP
// the two are one segment then, where they would be two, each with its own way through
// both kernels. An end that does not come keeps the last bytes for 200 ms.
func (c *Conn) WriteLast(p []byte) (int, error) {
	c.out.more = unix.MSG_MORE
	n, err := c.Write(p)
	c.out.more = 0
	return n, err
}

func (c *Conn) tryWrite(fd uintptr) bool {
	for c.out.n < len(c.out.p) {
		rest := c.out.p[c.out.n:]
		n, _, errno := syscall.RawSyscall6(unix.SYS_SENDTO, fd,
			uintptr(unsafe.Pointer(&rest[0])), uintptr(len(rest)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL|c.out.more, 0, 0) //nolint:gosec // G103: the kernel wants an address
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			return c.block()
		}
		if errno != 0 {
			c.out.err = os.NewSyscallError("sendto", errno)
			return true
		}
		c.out.n += int(n)
	}
	return true
}

// CheckIdle says, without waiting, whether a connection on which nothing is
// expected is still good: nil when it is open and silent, io.EOF when the peer
// has closed it, ErrUnsolicited when the peer sent something, else the error.
// Nothing is consumed. It counts as a read.
func (c *Conn) CheckIdle() error {
	if c.in.peek == nil {
		c.in.peek = c.tryPeek
	}
	if err := c.raw.Control(c.in.peek); err != nil {
		return err
	}
	err := c.in.err
	c.in.err = nil
	return err
}

func (c *Conn) tryPeek(fd uintptr) { c.isSilent(fd) }

// isSilent says whether nothing has come. Else in.err says what has.
func (c *Conn) isSilent(fd uintptr) bool {
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&c.in.peeked)), 1, unix.MSG_PEEK|unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // G103: the kernel wants an address
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return true
		case errno != 0:
			c.in.err = os.NewSyscallError("recvfrom", errno)
		case n == 0:
			c.in.err = io.EOF
		default:
			c.in.err = ErrUnsolicited
		}
		return false
	}
}

// Waiting says, without waiting, whether bytes wait to be read. Anybody may ask.
func (c *Conn) Waiting() bool {
	n := int32(0)
	// Who cannot be asked has been closed.
	_ = c.raw.Control(func(fd uintptr) {
		_, _, _ = syscall.RawSyscall(unix.SYS_IOCTL, fd, unix.SIOCINQ, uintptr(unsafe.Pointer(&n))) //nolint:gosec // G103: the kernel wants an address
	})
	return n > 0
}

// Abort ends the connection in both directions at once, for the peer and for
// whoever is reading or writing here. It frees nothing: its owner still calls
// Close. Close alone does not do, since it waits for the reader to let go, and
// the reader may be stuck in an idle function.
func (c *Conn) Abort() {
	_ = c.raw.Control(func(fd uintptr) {
		_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // not connected any more: as good as shut
	})
}

// CloseWrite ends the outgoing direction; the peer reads EOF.
func (c *Conn) CloseWrite() error { return c.conn.CloseWrite() }

// Close closes the socket. A read or write in progress returns net.ErrClosed.
func (c *Conn) Close() error { return c.conn.Close() }

// LocalAddr is the address of this end.
func (c *Conn) LocalAddr() net.Addr { return c.conn.LocalAddr() }

// RemoteAddr is the address of the other end.
func (c *Conn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }

// Peer is RemoteAddr for who needs no more; not valid: it is a unix socket's.
func (c *Conn) Peer() netip.AddrPort {
	if s, ok := c.conn.(*socket); ok {
		return s.peer
	}
	if tcp, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		return tcp.AddrPort()
	}
	return netip.AddrPort{}
}

// SetDeadline sets both deadlines, as net.Conn says.
func (c *Conn) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// SetReadDeadline bounds reads and the source side of Splice.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds writes and the destination side of Splice.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// SyscallConn gives access to the descriptor, for socket options.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }
