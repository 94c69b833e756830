package rawconn

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Pacer decides how long a peer may take over what is written to it. It is
// called by the goroutine that writes, and only when a write has to wait: one
// that does not costs neither a clock nor a timer.
//
//	write ──▶ Blocked ──▶ waits, writes on, waits … ──▶ Unblocked
//	                        │ deadline          ▲
//	                        └──▶ Stalled ───────┘ or the end, with os.ErrDeadlineExceeded
type Pacer interface {
	// Blocked: the peer takes nothing more right now; once for each write. The
	// time to set a deadline.
	Blocked()
	// Stalled: the deadline is over. It moves it and returns true for the write
	// to go on.
	Stalled() bool
	// Unblocked: a write that was blocked is over. The time to take back the
	// deadline, which would end the next one.
	Unblocked()
}

// SetPacer lets p watch over writes and the destination side of Splice. It must
// be called before the first of them.
func (c *Conn) SetPacer(p Pacer) { c.pacer = p }

// write runs try, which writes what c.out says, to its end, and returns how
// many bytes were written.
func (c *Conn) write(try func(fd uintptr) bool) (int, error) {
	err := c.raw.Write(try)
	for c.pacer != nil && errors.Is(err, os.ErrDeadlineExceeded) && c.pacer.Stalled() {
		err = c.raw.Write(try) // from where it was
	}
	n, werr := c.out.n, c.out.err
	c.out.n, c.out.err = 0, nil
	c.out.total += int64(n)
	if c.out.blocked {
		c.out.blocked = false
		c.pacer.Unblocked()
	}
	if err == nil {
		err = werr
	}
	return n, err
}

// block is what a try returns when the socket takes nothing more.
func (c *Conn) block() bool {
	if c.pacer != nil && !c.out.blocked {
		c.out.blocked = true
		c.pacer.Blocked()
	}
	return false
}

// Taken is how many bytes of what was written the peer's kernel has taken. A
// Pacer asks for it: that a socket is not writable does not mean that nothing
// moves, since it becomes so only when a third of its buffer, which may be
// megabytes, is free.
func (c *Conn) Taken() int64 { return c.out.total + int64(c.out.n) - int64(c.Unacknowledged()) }

// Unacknowledged is how many of the bytes that were written last the peer's
// kernel has not confirmed. A TCP connection knows it also when it is over; what a
// unix socket says counts its bookkeeping too, and is nothing once the peer has gone.
func (c *Conn) Unacknowledged() int {
	n := 0
	// Who cannot be asked has been closed.
	_ = c.raw.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) })
	return n
}
