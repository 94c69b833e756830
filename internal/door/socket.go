package door

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"stoker/internal/rawconn"
)

// socket is what the end of a door asks of the kernel.
type socket interface {
	// refuseNew keeps new connections away and leaves queued ones to be accepted.
	// calm is how long nothing must come before the queue counts as empty; after
	// an error new connections still come in.
	refuseNew() (calm time.Duration, err error)
	// queued counts the connections that wait to be accepted, halfOpen those in
	// the middle of their handshake; 0 where the kernel doesn't tell.
	queued() int
	halfOpen() int
	// acceptQueued takes a connection from the queue, EAGAIN when it is empty. It
	// is called where refuseNew made Accept fail with a deadline.
	acceptQueued() (net.Conn, error)
	// shut ends listening for every holder of the socket.
	shut() error
}

// takeOver makes an acceptor of ln, if that is a socket. What accepted connections
// inherit is set on sockets that were handed in, too: who shares one has it set on
// each of its connections, if not by the socket.
func takeOver(log hclog.Logger, ln net.Listener) net.Listener {
	if _, ok := ln.(syscall.Conn); !ok {
		return ln
	}
	a, err := rawconn.NewAcceptor(ln)
	if err != nil {
		log.Warn("cannot take over the listening socket; clients may see resets at the end", "error", err)
		return ln
	}
	raw, err := a.SyscallConn()
	if _, ok := a.Addr().(*net.TCPAddr); ok && err == nil {
		err = control(raw, inheritable)
	}
	if err != nil {
		log.Warn("cannot set what connections inherit", "error", err)
	}
	return a
}

func socketOf(ln net.Listener) socket {
	a, ok := ln.(*rawconn.Acceptor)
	if !ok {
		return opaque{}
	}
	raw, err := a.SyscallConn()
	if err != nil {
		return opaque{}
	}
	switch at := a.Addr().(type) {
	case *net.TCPAddr:
		return &tcpSocket{raw: raw, port: at.Port}
	case *net.UnixAddr:
		id, _ := inode(at.Name)
		return &unixSocket{ln: a, raw: raw, path: at.Name, id: id}
	}
	return opaque{}
}

// opaque is a listener of a kind that we know nothing of.
type opaque struct{}

func (opaque) refuseNew() (time.Duration, error) { return quiet, nil }
func (opaque) queued() int                       { return 0 }
func (opaque) halfOpen() int                     { return 0 }
func (opaque) acceptQueued() (net.Conn, error)   { return nil, unix.EAGAIN }
func (opaque) shut() error                       { return nil }

type tcpSocket struct {
	raw  syscall.RawConn
	port int
}

// dropSYN is a classic BPF program over a TCP segment, header first: a segment
// with SYN and without ACK is dropped, any other passes whole. Replies to our
// own SYN-ACKs pass, so that handshakes half-way can complete.
var dropSYN = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: 13},           // flags
	{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: 0x12},        // ACK, SYN
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0x02, Jf: 1}, // SYN alone?
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},                          // drop
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},                 // pass
}

func (s *tcpSocket) refuseNew() (time.Duration, error) {
	err := s.control(func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(dropSYN)), Filter: &dropSYN[0]})
	})
	if err != nil {
		// With new connections coming there is no calm to wait for.
		return 0, fmt.Errorf("attach filter: %w", err)
	}
	return quiet, nil
}

func (s *tcpSocket) queued() int {
	queued := 0
	_ = s.control(func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err == nil && info.State == listenState {
			queued = int(info.Unacked) // of a listening socket: the accept queue's length
		}
		return err
	})
	return queued
}

func (s *tcpSocket) halfOpen() int { return halfOpen(s.port) }

func (s *tcpSocket) acceptQueued() (net.Conn, error) { return nil, unix.EAGAIN }

func (s *tcpSocket) shut() error {
	return s.control(func(fd int) error { return ended(unix.Shutdown(fd, unix.SHUT_RD)) })
}

func (s *tcpSocket) control(do func(fd int) error) error { return control(s.raw, do) }

type unixSocket struct {
	ln   *rawconn.Acceptor
	raw  syscall.RawConn
	path string
	id   fileID // of the path when it was ours
}

// refuseNew unlinks the path and shuts the socket for reading: connect is
// refused from then on, accept still yields what is queued. The kernel tells no
// poller of the shutdown, and Go's Accept waits on when the queue is empty; so a
// deadline in the past turns all Accepts into acceptQueued, which can tell. There
// is nothing to guess, so that calm is as long as the whole wait.
func (s *unixSocket) refuseNew() (time.Duration, error) {
	s.unlink()
	if err := s.shut(); err != nil {
		return 0, fmt.Errorf("shut for reading: %w", err)
	}
	if err := s.ln.SetDeadline(time.Unix(1, 0)); err != nil {
		return 0, fmt.Errorf("rouse accept: %w", err)
	}
	return emptying, nil
}

// unlink removes the path unless another socket has taken it since.
func (s *unixSocket) unlink() {
	if id, err := inode(s.path); err == nil && id == s.id {
		_ = os.Remove(s.path)
	}
}

func (s *unixSocket) acceptQueued() (net.Conn, error) { return s.ln.AcceptQueued() }

func (s *unixSocket) queued() int   { return 0 }
func (s *unixSocket) halfOpen() int { return 0 } // connect is one step

func (s *unixSocket) shut() error {
	return control(s.raw, func(fd int) error { return ended(unix.Shutdown(fd, unix.SHUT_RD)) })
}

// ended forgives a shutdown of what listens no more.
func ended(err error) error {
	if errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

func control(raw syscall.RawConn, do func(fd int) error) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = do(int(fd)) }); e != nil {
		return e
	}
	return err
}

// fileID names a file for as long as it exists.
type fileID struct{ dev, ino uint64 }

func inode(path string) (fileID, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return fileID{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}, fs.ErrInvalid
	}
	return fileID{st.Dev, st.Ino}, nil
}
