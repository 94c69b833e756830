package rawconn

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// owner is what holds a Conn's descriptor: a connection of the net package, or a socket.
type owner interface {
	Close() error
	CloseWrite() error
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

var (
	_ owner = (*net.TCPConn)(nil)
	_ owner = (*net.UnixConn)(nil)
	_ owner = (*socket)(nil)
)

// socket holds the descriptor of an accepted connection. Addresses are found when
// somebody asks for them.
//
// Most of what is accepted for one request has that in its buffer by then, and takes
// its answer at once: such a connection never waits, and is nothing to the runtime's
// poller, which to tell, and to make forget, is a tenth of what the connection costs.
// So a socket begins fresh, and is made an os.File when somebody has to wait for it:
//
//	fresh ──▶ a read or write finds that it must wait; a second read;  ──▶ polled
//	  │       a deadline, but that of the first read, which is noted          │
//	  └──────────────────────────────▶ closed ◀───────────────────────────────┘
//
// What need not wait goes to the descriptor directly, also when it is polled, and is
// counted: who leaves last closes what has been closed meanwhile. To ask a file for it
// would be dearer than the count. But where there is a deadline, nothing goes past the
// poller, which is who ends it, nor does a second read: it might find something again
// and again.
type socket struct {
	network string
	peer    netip.AddrPort
	// unpolled is set when the poller has no room for another; its acceptor's.
	unpolled *atomic.Bool
	fd       int
	// within counts direct calls; closed is added to it at the end.
	within atomic.Int64
	// polled: it is known to the poller, by file and raw, which don't change any more.
	polled atomic.Bool
	// bounded: writes have had a deadline.
	bounded atomic.Bool
	// read: once, or about to be.
	read atomic.Bool
	file *os.File
	raw  syscall.RawConn

	mu     sync.Mutex // of becoming polled, or closed
	readBy time.Time  // until it is polled
}

// closed is in socket.within of one that is.
const closed = -1 << 40

// errUnpolled: the kernel has no room for another descriptor in the poller's set.
// It passes, as a shortage of memory does.
var errUnpolled = os.NewSyscallError("epoll_ctl", unix.ENOMEM)

// accepted is a connection and its socket in one piece of memory.
type accepted struct {
	Conn
	socket
}

// newAccepted makes a Conn of the non-blocking descriptor, which it owns from now on.
func newAccepted(fd int, network string, peer netip.AddrPort, unpolled *atomic.Bool) *Conn {
	a := &accepted{socket: socket{network: network, peer: peer, unpolled: unpolled, fd: fd}}
	a.conn, a.Conn.raw = &a.socket, &a.socket
	return &a.Conn
}

// enter begins a direct call, and says whether it may. leave must follow.
func (s *socket) enter() bool {
	for {
		n := s.within.Load()
		if n < 0 {
			return false
		}
		if s.within.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave ends a direct call.
func (s *socket) leave() {
	if s.within.Add(-1) == closed {
		_ = s.letGo() // who closed it does not wait to be told
	}
}

// poll makes the poller know the socket.
func (s *socket) poll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pollLocked()
}

// pollLocked is poll. The kernel tells the poller of whatever has come by now.
func (s *socket) pollLocked() error {
	switch {
	case s.within.Load() < 0:
		return net.ErrClosed
	case s.polled.Load():
		return nil
	case s.file == nil:
		s.file = os.NewFile(uintptr(s.fd), s.network)
	}
	// A file that cannot be polled is made all the same, and is one without deadlines.
	err := s.file.SetReadDeadline(s.readBy)
	if errors.Is(err, os.ErrNoDeadline) {
		s.unpolled.Store(true)
		err = errUnpolled
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	s.polled.Store(err == nil)
	return err
}

// Read implements syscall.RawConn. Files call their end otherwise than connections do.
func (s *socket) Read(f func(fd uintptr) bool) error {
	if !s.polled.Load() {
		over, err := false, error(nil)
		if !s.read.Swap(true) {
			over, err = s.direct(f)
		}
		if over || err != nil {
			return err
		}
		if err := s.poll(); err != nil {
			return err
		}
	}
	return s.named(s.raw.Read(f))
}

// Write implements syscall.RawConn.
func (s *socket) Write(f func(fd uintptr) bool) error {
	if !s.bounded.Load() {
		if over, err := s.direct(f); over || err != nil {
			return err
		}
		if err := s.poll(); err != nil {
			return err
		}
	}
	return s.named(s.raw.Write(f))
}

// direct calls f once, and says whether that is over or has to wait.
func (s *socket) direct(f func(fd uintptr) bool) (over bool, err error) {
	if !s.enter() {
		return false, net.ErrClosed
	}
	defer s.leave()
	return f(uintptr(s.fd)), nil
}

// Control implements syscall.RawConn.
func (s *socket) Control(f func(fd uintptr)) error {
	if !s.enter() {
		return net.ErrClosed
	}
	defer s.leave()
	f(uintptr(s.fd))
	return nil
}

func (s *socket) named(err error) error {
	if err != nil && s.within.Load() < 0 {
		return net.ErrClosed
	}
	return err
}

// Close implements owner.
func (s *socket) Close() error {
	s.mu.Lock()
	was := s.within.Load() < 0
	last := !was && s.within.Add(closed) == closed
	s.mu.Unlock()
	switch {
	case was:
		return net.ErrClosed
	case last:
		return s.letGo()
	}
	return nil
}

// closeFresh is Close without a word to the scheduler, of a socket that the poller has
// never been told of and that nobody uses. Else it does nothing, and is false.
func (s *socket) closeFresh() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil || !s.within.CompareAndSwap(0, closed) {
		return false
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(s.fd), 0, 0) // however it ends, the descriptor is gone
	return true
}

// letGo closes the descriptor. Nobody enters any more, and nobody is within.
func (s *socket) letGo() error {
	if s.file != nil {
		return s.file.Close()
	}
	return os.NewSyscallError("close", unix.Close(s.fd))
}

// CloseWrite implements owner.
func (s *socket) CloseWrite() error {
	var errno error
	if err := s.Control(func(fd uintptr) { errno = unix.Shutdown(int(fd), unix.SHUT_WR) }); err != nil {
		return err
	}
	return os.NewSyscallError("shutdown", errno)
}

// SetDeadline implements owner.
func (s *socket) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline implements owner. What is there by the first read is had also after
// its deadline.
func (s *socket) SetReadDeadline(t time.Time) error {
	if !s.polled.Load() {
		if noted, err := s.noteReadBy(t); noted || err != nil {
			return err
		}
	}
	return s.named(s.file.SetReadDeadline(t))
}

// noteReadBy notes a deadline for when the poller knows the socket. If it has come to
// know it, nothing is noted.
func (s *socket) noteReadBy(t time.Time) (noted bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.within.Load() < 0:
		return false, net.ErrClosed
	case s.polled.Load():
		return false, nil
	}
	s.readBy = t
	if s.read.Load() && !t.IsZero() {
		return true, s.pollLocked()
	}
	return true, nil
}

// SetWriteDeadline implements owner.
func (s *socket) SetWriteDeadline(t time.Time) error {
	if err := s.poll(); err != nil {
		return err
	}
	s.bounded.Store(true)
	return s.named(s.file.SetWriteDeadline(t))
}

// RemoteAddr implements owner.
func (s *socket) RemoteAddr() net.Addr {
	if s.peer.IsValid() {
		return net.TCPAddrFromAddrPort(s.peer)
	}
	return s.ask(unix.Getpeername)
}

// LocalAddr implements owner.
func (s *socket) LocalAddr() net.Addr { return s.ask(unix.Getsockname) }

// ask is an address that the kernel is asked for. Of a connection that is over it
// is one without a name.
func (s *socket) ask(which func(fd int) (unix.Sockaddr, error)) net.Addr {
	var at unix.Sockaddr
	_ = s.Control(func(fd uintptr) { at, _ = which(int(fd)) })
	switch at := at.(type) {
	case *unix.SockaddrInet4:
		return &net.TCPAddr{IP: at.Addr[:], Port: at.Port}
	case *unix.SockaddrInet6:
		a := &net.TCPAddr{IP: at.Addr[:], Port: at.Port}
		if at.ZoneId != 0 {
			a.Zone = new(zones).name(at.ZoneId)
		}
		return a
	case *unix.SockaddrUnix:
		return &net.UnixAddr{Name: at.Name, Net: s.network}
	}
	if s.network == "unix" {
		return &net.UnixAddr{Net: s.network}
	}
	return &net.TCPAddr{}
}
