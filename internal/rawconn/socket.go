package rawconn

import (
	"errors"
	"net"
	"net/netip"
	"os"
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

// socket holds the descriptor of an accepted connection. It is an os.File, which
// asks nothing of a non-blocking descriptor but what it is, where a connection of
// the net package wants to know its own address, and sets options. Addresses are
// found when somebody asks for them.
type socket struct {
	file    *os.File
	raw     syscall.RawConn
	network string
	peer    netip.AddrPort
	closed  atomic.Bool
}

// errUnpolled: the kernel has no room for another descriptor in the poller's set.
// It passes, as a shortage of memory does.
var errUnpolled = os.NewSyscallError("epoll_ctl", unix.ENOMEM)

// open makes a Conn of the non-blocking descriptor, which it owns from now on.
func (s *socket) open(fd int) (*Conn, error) {
	s.file = os.NewFile(uintptr(fd), s.network)
	// A file that cannot be polled is made all the same, and is one without deadlines.
	err := s.file.SetDeadline(time.Time{})
	if errors.Is(err, os.ErrNoDeadline) {
		err = errUnpolled
	}
	if err == nil {
		s.raw, err = s.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, s.file.Close())
	}
	return &Conn{conn: s, raw: s}, nil
}

// Read implements syscall.RawConn. Files call their end otherwise than connections do.
func (s *socket) Read(f func(fd uintptr) bool) error { return s.named(s.raw.Read(f)) }

// Write implements syscall.RawConn.
func (s *socket) Write(f func(fd uintptr) bool) error { return s.named(s.raw.Write(f)) }

// Control implements syscall.RawConn.
func (s *socket) Control(f func(fd uintptr)) error { return s.named(s.raw.Control(f)) }

func (s *socket) named(err error) error {
	if err != nil && s.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// Close implements owner.
func (s *socket) Close() error {
	if s.closed.Swap(true) {
		return net.ErrClosed
	}
	return s.file.Close()
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
func (s *socket) SetDeadline(t time.Time) error { return s.named(s.file.SetDeadline(t)) }

// SetReadDeadline implements owner.
func (s *socket) SetReadDeadline(t time.Time) error { return s.named(s.file.SetReadDeadline(t)) }

// SetWriteDeadline implements owner.
func (s *socket) SetWriteDeadline(t time.Time) error { return s.named(s.file.SetWriteDeadline(t)) }

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
