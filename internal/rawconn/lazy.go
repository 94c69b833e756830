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
