package rawconn

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Acceptor is a listening socket whose connections are taken by plain system
// calls, as they are read and written by them (see Conn).
//
// A call that is announced to the scheduler wakes the runtime's monitor when the
// process was idle, and that then looks around every 20 µs for a millisecond. The
// net package announces three for each connection: accept4, getsockname, and a
// setsockopt for what the listening socket can leave to it by itself. On the one
// core of a benchmark this, and the close (see Closer), was a third of what a
// connection with one small request cost.
//
//	Accept ──▶ accept4 ──▶ *Conn, which nobody waits for yet, see socket
//	              │ nothing there: waits for the poller, then makes sure that the
//	              └ socket does not block, and tries again
type Acceptor struct {
	file    *os.File
	raw     syscall.RawConn
	addr    net.Addr
	network string
	closed  atomic.Bool
	zones   zones
	// unpolled: a connection had to be given up, see errUnpolled.
	unpolled atomic.Bool

	mu  sync.Mutex // of Accept: what is below belongs to who has it
	try func(fd uintptr) bool
	// await and look are how try is called, bound once as it is.
	await, look func(try func(fd uintptr) bool) error
	// waited: the socket may have been made a blocking one since.
	waited bool
	inARow int
	got    int
	errno  syscall.Errno
	peer   unix.RawSockaddrAny
	size   uint32
}

// fairTurn is how many connections are taken in a row before others get to run.
const fairTurn = 16

var _ net.Listener = (*Acceptor)(nil)

// NewAcceptor takes over the socket of ln, a *net.TCPListener or a *net.UnixListener,
// and closes ln, unless it returns an error. The path of a unix socket stays. What
// accepted connections are to have of socket options must be set on the listening
// one, which they inherit them from.
func NewAcceptor(ln net.Listener) (*Acceptor, error) {
	source, ok := ln.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("accept by plain calls: not from a %T", ln)
	}
	file, err := source.File()
	if err != nil {
		return nil, fmt.Errorf("accept by plain calls: %w", err)
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if u, ok := ln.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
	}
	_ = ln.Close() // the socket has another descriptor
	a := &Acceptor{file: file, raw: raw, addr: ln.Addr(), network: ln.Addr().Network(), waited: true}
	a.try, a.await, a.look = a.tryAccept, raw.Read, a.lookOnce
	return a, nil
}

// Accept waits for the next connection, which is a *Conn. Its errors are those of
// the net package.
func (a *Acceptor) Accept() (net.Conn, error) { return a.accept(a.await) }

// AcceptQueued is Accept that does not wait: the error is EAGAIN when nobody is there.
func (a *Acceptor) AcceptQueued() (net.Conn, error) { return a.accept(a.look) }

func (a *Acceptor) lookOnce(try func(fd uintptr) bool) error {
	return a.raw.Control(func(fd uintptr) {
		if !try(fd) {
			a.errno = syscall.EAGAIN
		}
	})
}

func (a *Acceptor) accept(by func(try func(fd uintptr) bool) error) (net.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got, a.errno = -1, 0
	if a.unpolled.Swap(false) { // there is no use in more of them right now
		return nil, &net.OpError{Op: "accept", Net: a.network, Addr: a.addr, Err: errUnpolled}
	}
	err := by(a.try)
	switch {
	case a.got >= 0: // whatever else
		if a.inARow++; a.inARow >= fairTurn {
			a.inARow = 0
			defer runtime.Gosched()
		}
		return newAccepted(a.got, a.network, a.peerOf(), &a.unpolled), nil
	case a.errno != 0:
		err = os.NewSyscallError("accept4", a.errno)
	case a.closed.Load():
		err = net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Net: a.network, Addr: a.addr, Err: err}
}

// tryAccept is the poller's callback: true when Accept is over, false to wait.
func (a *Acceptor) tryAccept(fd uintptr) bool {
	if a.waited && !a.neverBlocks(fd) {
		return true
	}
	for {
		a.size = unix.SizeofSockaddrAny
		n, _, errno := syscall.RawSyscall6(unix.SYS_ACCEPT4, fd,
			uintptr(unsafe.Pointer(&a.peer)), uintptr(unsafe.Pointer(&a.size)), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0) //nolint:gosec // G103: the kernel wants addresses
		switch {
		case errno == unix.EINTR, errno == unix.ECONNABORTED: // who left while it was queued
			continue
		case errno == unix.EAGAIN:
			a.waited, a.inARow = true, 0
			return false
		case errno != 0:
			a.errno = errno
		default:
			a.got = int(n)
		}
		return true
	}
}

// neverBlocks sees to it, after each wait, that accept4 cannot stop a whole thread:
// unlike a receive it knows no flag for that, and whether a socket blocks is known
// to all who share it, so that another process may have changed it.
func (a *Acceptor) neverBlocks(fd uintptr) bool {
	flags, _, errno := syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_GETFL, 0)
	if errno == 0 && flags&unix.O_NONBLOCK == 0 {
		_, _, errno = syscall.RawSyscall(unix.SYS_FCNTL, fd, unix.F_SETFL, flags|unix.O_NONBLOCK)
	}
	a.errno, a.waited = errno, false
	return errno == 0
}

// peerOf is the address that was accepted from; not valid: that of a unix socket.
func (a *Acceptor) peerOf() netip.AddrPort {
	switch a.peer.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(&a.peer)) //nolint:gosec // G103: so the family says
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), fromNetwork(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(&a.peer)) //nolint:gosec // G103: so the family says
		at := netip.AddrFrom16(in.Addr)
		if in.Scope_id != 0 {
			at = at.WithZone(a.zones.name(in.Scope_id))
		}
		return netip.AddrPortFrom(at, fromNetwork(in.Port))
	}
	return netip.AddrPort{}
}

// fromNetwork is a port as the kernel gives it.
func fromNetwork(port uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&port)) //nolint:gosec // G103: two bytes, as they lie in memory
	return uint16(b[0])<<8 | uint16(b[1])
}

// zones knows the name of the interface that was asked for last: to look it up
// takes several system calls.
type zones struct {
	id   uint32
	text string
}

func (z *zones) name(id uint32) string {
	if z.id != id {
		z.id, z.text = id, strconv.Itoa(int(id))
		if i, err := net.InterfaceByIndex(int(id)); err == nil {
			z.text = i.Name
		}
	}
	return z.text
}

// SetDeadline ends every Accept after that time, with os.ErrDeadlineExceeded.
func (a *Acceptor) SetDeadline(t time.Time) error { return a.file.SetReadDeadline(t) }

// SyscallConn gives access to the descriptor, for socket options.
func (a *Acceptor) SyscallConn() (syscall.RawConn, error) { return a.raw, nil }

// Addr is where it listens.
func (a *Acceptor) Addr() net.Addr { return a.addr }

// Close closes the descriptor. Accept returns net.ErrClosed.
func (a *Acceptor) Close() error {
	if a.closed.Swap(true) {
		return net.ErrClosed
	}
	return a.file.Close()
}
