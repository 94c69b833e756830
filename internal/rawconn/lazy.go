package rawconn

import (
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ReadLazily is Read into the memory that room returns, which is asked for only
// when there may be something to read. Before it waits, rest is called, and
// room again after: a connection that waits holds no buffer, and one on which
// the next bytes have come already costs no system call more than with Read.
// Rest is also the moment to flush what was made of earlier reads, as ReadIdle's
// function is; an error from it ends the read and is returned as it is.
func (c *Conn) ReadLazily(room func() []byte, rest func() error) (int, error) {
	if c.in.tryLazy == nil {
		c.in.tryLazy = c.tryReadLazily
	}
	c.in.room, c.in.rest = room, rest
	err := c.raw.Read(c.in.tryLazy)
	n, rerr := c.in.n, c.in.err
	c.in.room, c.in.rest, c.in.n, c.in.err = nil, nil, 0, nil
	if err == nil {
		err = rerr
	}
	return n, err
}

func (c *Conn) tryReadLazily(fd uintptr) bool {
	p := c.in.room()
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // G103: the kernel wants an address
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			c.in.err = c.in.rest()
			return c.in.err != nil
		case errno != 0:
			c.in.err = os.NewSyscallError("recvfrom", errno)
		case n == 0:
			c.in.err = io.EOF
		default:
			c.in.n = int(n)
			c.count(c.in.n)
		}
		return true
	}
}

// ReadOn is ReadLazily on and on: got is given the length of each piece, which lies
// in the memory that room returned last, until it says that this is enough. An
// error of the connection's ends it, as one of rest does.
//
// With WatchEnd it waits after a piece that did not fill the room, without the
// look that finds nothing: the poller tells of whatever comes after, since all is
// within one of its waits, and the watch of an end that came with the piece itself.
// For a stream of small events that is one system call in four.
func (c *Conn) ReadOn(room func() []byte, got func(n int) (enough bool), rest func() error) error {
	if c.in.tryOn == nil {
		c.in.tryOn = c.tryReadOn
	}
	c.in.room, c.in.got, c.in.rest = room, got, rest
	err := c.raw.Read(c.in.tryOn)
	rerr := c.in.err
	c.in.room, c.in.got, c.in.rest, c.in.err = nil, nil, nil, nil
	if err == nil {
		err = rerr
	}
	return err
}

// tryReadOn is small: who gets the pieces may be in got for as long as a stream is open.
func (c *Conn) tryReadOn(fd uintptr) bool {
	for {
		n, full := c.take(fd)
		switch {
		case c.in.err != nil:
			return true
		case n == 0:
		case c.in.got(n):
			return true
		case full || !c.watched || c.ended.Load():
			continue
		}
		c.in.err = c.in.rest()
		return c.in.err != nil
	}
}

// take reads what is there, nothing if n is 0, and says whether it filled the room.
//
//go:noinline
func (c *Conn) take(fd uintptr) (got int, full bool) {
	p := c.in.room()
	for {
		n, _, errno := syscall.RawSyscall6(unix.SYS_RECVFROM, fd,
			uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_DONTWAIT, 0, 0) //nolint:gosec // G103: the kernel wants an address
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return 0, false
		case errno != 0:
			c.in.err = os.NewSyscallError("recvfrom", errno)
			return 0, false
		case n == 0:
			c.in.err = io.EOF
			return 0, false
		}
		c.count(int(n))
		return int(n), int(n) == len(p)
	}
}

// WatchEnd has w tell c when its peer closes its side, for ReadOn. UnwatchEnd must
// follow, if it returns nil.
func (c *Conn) WatchEnd(w *Watch) error {
	id, err := w.Add(c, c)
	if err != nil {
		w.Forget(id)
		return err
	}
	c.watchedAs, c.watched = id, true
	return nil
}

// EndIsTold says that another calls InputEnded, as WatchEnd's watch would: from then
// on ReadOn waits without looking.
func (c *Conn) EndIsTold() { c.watched = true }

// Watched says whether ReadOn waits without looking.
func (c *Conn) Watched() bool { return c.watched }

// UnwatchEnd takes c off w.
func (c *Conn) UnwatchEnd(w *Watch) { w.Forget(c.watchedAs) }

// InputEnded implements Watched. Who reads may have taken the last bytes and not have
// seen the end that came with them, and nobody will wake it for that again:
//
//	reader: takes bytes, short ──▶ ended? ──yes──▶ looks again, finds the end
//	                                 └───no───▶ waits ──▶ woken by the shutdown
//	watch:  ended = true ──▶ shutdown, which is an edge for the poller
//
// To shut down a direction that the peer has closed changes nothing else.
func (c *Conn) InputEnded(bool) {
	if c.ended.Swap(true) {
		return // by the shutdown below, which is news to the watch, too
	}
	_ = c.raw.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RD) }) // closed, or reset: it wakes all the same
}
