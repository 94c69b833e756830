package rawconn

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// maxIovecs is the kernel's UIO_MAXIOV: more in one call is EINVAL.
const maxIovecs = 1024

// WriteBuffers writes all of bufs in order, as few system calls as the socket
// allows, and returns how many bytes were written. The slices are not changed.
func (c *Conn) WriteBuffers(bufs [][]byte) (int64, error) {
	iov := c.out.iov[:0]
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		iov = append(iov, v)
	}
	if len(iov) == 0 {
		return 0, nil
	}
	if c.out.tryAll == nil {
		c.out.tryAll = c.tryWriteAll
	}
	c.out.iov, c.out.rest = iov, iov
	n, err := c.write(c.out.tryAll)
	clear(iov) // keep no caller's buffer alive
	c.out.iov, c.out.rest = iov[:0], nil
	c.out.msg = unix.Msghdr{}
	return int64(n), err
}

func (c *Conn) tryWriteAll(fd uintptr) bool {
	for len(c.out.rest) > 0 {
		c.out.msg.Iov = &c.out.rest[0]
		c.out.msg.SetIovlen(min(len(c.out.rest), maxIovecs))
		n, _, errno := syscall.RawSyscall(unix.SYS_SENDMSG, fd,
			uintptr(unsafe.Pointer(&c.out.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL) //nolint:gosec // G103: the kernel wants an address
		if errno == unix.EINTR {
			continue
		}
		if errno == unix.EAGAIN {
			return c.block()
		}
		if errno != 0 {
			c.out.err = os.NewSyscallError("sendmsg", errno)
			return true
		}
		c.out.n += int(n)
		c.out.rest = advance(c.out.rest, int(n))
	}
	return true
}

// advance drops the first n bytes of what iov describes.
func advance(iov []unix.Iovec, n int) []unix.Iovec {
	for n > 0 {
		have := int(iov[0].Len)
		if n < have {
			iov[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(iov[0].Base), n)) //nolint:gosec // G103: stays within the buffer, n < have
			iov[0].SetLen(have - n)
			return iov
		}
		n -= have
		iov = iov[1:]
	}
	return iov
}
