package rawconn

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is what one splice call may move. The default of 64 KiB doubles the
// calls per MiB; 1 MiB would let 64 transfers use up what an unprivileged
// user's pipes may hold together (pipe-user-pages-soft).
const pipeSize = 256 << 10

// copySize is the buffer of the fallback that copies.
const copySize = 64 << 10

// SourceError is an error of the connection that bytes were moved from. All
// other errors of Splice, Copy and ReadFrom are those of the destination.
// The standard library's splice does not tell the two apart, and so cannot
// tell a client that went away from an engine that died.
type SourceError struct{ Err error }

func (e *SourceError) Error() string { return fmt.Sprintf("read from source: %v", e.Err) }

// Unwrap gives the error of the read.
func (e *SourceError) Unwrap() error { return e.Err }

// errNoSplice: this kernel or this pair of sockets does not splice. Nothing was moved.
var errNoSplice = errors.New("splice is not possible here")

// ReadFrom makes io.Copy to c splice when r is a *Conn, or an
// *io.LimitedReader of one.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	switch v := r.(type) {
	case *Conn:
		return c.Splice(v, math.MaxInt64)
	case *io.LimitedReader:
		src, ok := v.R.(*Conn)
		if !ok {
			break
		}
		n, err := c.Splice(src, v.N)
		v.N -= n
		return n, err
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// Splice moves up to n bytes from src to c inside the kernel, each as soon as
// it is there. It returns how many c was given; with a nil error, fewer than n
// mean that src has ended. An error of src is a *SourceError. Bytes taken from
// src when c fails are lost, as c is.
//
// It counts as a read of src and a write of c.
func (c *Conn) Splice(src *Conn, n int64) (moved int64, err error) {
	moved, err = c.splice(src, n)
	if errors.Is(err, errNoSplice) {
		return Copy(c, src, n)
	}
	return moved, err
}

func (c *Conn) splice(src *Conn, n int64) (moved int64, err error) {
	pipe, err := OpenPipe()
	if err != nil {
		return 0, errNoSplice // out of descriptors: the copy needs none
	}
	defer pipe.Close()
	for moved < n {
		in, err := pipe.Fill(src, n-moved)
		if errors.Is(err, unix.EINVAL) && moved == 0 {
			return 0, errNoSplice
		}
		if err != nil {
			return moved, &SourceError{err}
		}
		if in == 0 {
			return moved, nil
		}
		out, err := pipe.Drain(c)
		moved += out
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}

// Pipe is what bytes go through on their way from one socket to another inside
// the kernel. It is for one goroutine at a time, and for who has something to do
// between the two steps; Splice has not.
type Pipe struct{ from, to, held int }

// OpenPipe needs two descriptors, until Close.
func OpenPipe() (*Pipe, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// Best effort: a smaller pipe only means more calls.
	_, _ = unix.FcntlInt(uintptr(ends[1]), unix.F_SETPIPE_SZ, pipeSize)
	return &Pipe{from: ends[0], to: ends[1]}, nil
}

// Close lets go of the descriptors, and of what is in the pipe.
func (p *Pipe) Close() {
	_ = unix.Close(p.from)
	_ = unix.Close(p.to)
}

// Fill takes what src has, at most atMost bytes, into the empty pipe. It waits
// while src has nothing, and returns 0 when src has ended. An error that is
// EINVAL: this kind of socket cannot be spliced from. It counts as a read of src.
func (p *Pipe) Fill(src *Conn, atMost int64) (int64, error) {
	n, err := src.fillPipe(p.to, int(min(atMost, pipeSize)))
	p.held = n
	return int64(n), err
}

// Drain writes to dst all that the pipe holds, and returns how much of it was
// written. It counts as a write of dst.
func (p *Pipe) Drain(dst *Conn) (int64, error) {
	n, err := dst.drainPipe(p.from, p.held)
	p.held = 0
	return int64(n), err
}

// fillPipe moves what c has, at most atMost bytes, into an empty pipe. It
// waits when c has nothing, and returns 0 when c has ended.
func (c *Conn) fillPipe(pipe, atMost int) (int, error) {
	if c.in.fill == nil {
		c.in.fill = c.tryFill
	}
	c.in.pipe, c.in.atMost = pipe, atMost
	err := c.raw.Read(c.in.fill)
	n, rerr := c.in.n, c.in.err
	c.in.n, c.in.err = 0, nil
	if err == nil {
		err = rerr
	}
	return n, err
}

// tryFill uses the ordinary system call, unlike Read: one that moves a quarter
// of a megabyte is worth telling the scheduler about.
func (c *Conn) tryFill(fd uintptr) bool {
	for {
		n, err := unix.Splice(int(fd), nil, c.in.pipe, nil, c.in.atMost, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case err == nil:
			c.in.n = int(n)
			c.count(c.in.n)
			return true
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return false // the pipe is empty, so it is the socket that has nothing
		default:
			c.in.err = os.NewSyscallError("splice", err)
			return true
		}
	}
}

// drainPipe moves n bytes, which the pipe holds, to c.
func (c *Conn) drainPipe(pipe, n int) (int, error) {
	if c.out.drain == nil {
		c.out.drain = c.tryDrain
	}
	c.out.pipe, c.out.left = pipe, n
	return c.write(c.out.drain)
}

func (c *Conn) tryDrain(fd uintptr) bool {
	for c.out.left > 0 {
		n, err := unix.Splice(c.out.pipe, nil, int(fd), nil, c.out.left, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		switch {
		case err == nil:
			c.out.n += int(n)
			c.out.left -= int(n)
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN):
			return c.block()
		default:
			c.out.err = os.NewSyscallError("splice", err)
			return true
		}
	}
	return true
}

// Copy is Splice to a destination that is no socket: through a buffer, each
// byte as soon as it is there.
func Copy(dst io.Writer, src *Conn, n int64) (moved int64, err error) {
	buf := make([]byte, min(n, copySize))
	for moved < n {
		in, err := src.Read(buf[:min(n-moved, int64(len(buf)))])
		if errors.Is(err, io.EOF) {
			return moved, nil
		}
		if err != nil {
			return moved, &SourceError{err}
		}
		out, err := dst.Write(buf[:in])
		moved += int64(out)
		if err != nil {
			return moved, err
		}
	}
	return moved, nil
}
