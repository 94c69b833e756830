package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A descriptor crosses the socket with the bytes of the frame that it belongs
// to, as SCM_RIGHTS. Whoever receives one owns it, wanted or not: a peer that
// sends descriptors for nothing must not be able to use up a keeper's.

// errDescriptor: a log without the one descriptor that can be written to.
var errDescriptor = errors.New("not a descriptor to write to")

// inbox is a connection's bytes together with the descriptors that came with
// them, of which it holds one at most. It belongs to the connection's reader.
type inbox struct {
	conn *net.UnixConn
	// rights has room for one descriptor: the kernel makes none of what does
	// not fit, so that the twenty that somebody sends never come to exist here.
	rights []byte
	read   uint64 // bytes so far
	held   *passed
	end    uint64 // of the bytes that held came with
}

func newInbox(c *net.UnixConn) *inbox {
	return &inbox{conn: c, rights: make([]byte, unix.CmsgLen(4))}
}

// Read reads bytes, and keeps the descriptor that came with them. One read
// never goes past the bytes of a message that had descriptors.
func (b *inbox) Read(p []byte) (int, error) {
	n, size, _, _, err := b.conn.ReadMsgUnix(p, b.rights)
	n, size = max(n, 0), max(size, 0) // of an error both are -1
	b.read += uint64(n)
	if size > 0 {
		b.receive(b.rights[:size])
	}
	return n, err
}

// receive takes what the kernel has made for us. The latest is held.
func (b *inbox) receive(control []byte) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return // nothing that fits holds a descriptor
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // of another kind
		}
		for _, fd := range fds {
			b.drop()
			b.held, b.end = &passed{fd: fd}, b.read
		}
	}
}

// take hands out the descriptor that came with a frame which ends after so many
// bytes; nil: none did.
func (b *inbox) take(end uint64) *passed {
	if b.held == nil || end < b.end {
		return nil // it belongs to a frame that follows
	}
	fd := b.held
	b.held = nil
	return fd
}

// drop closes what is held.
func (b *inbox) drop() {
	b.held.close()
	b.held = nil
}

// passed is a descriptor that was received, until somebody has use for it. Nil is none.
type passed struct {
	fd   int
	once sync.Once
}

// close closes it, unless that was done.
func (p *passed) close() {
	if p != nil {
		p.once.Do(func() { _ = unix.Close(p.fd) }) // nothing was written
	}
}

// writable says whether lines can be written to it.
func (p *passed) writable() error {
	if p == nil {
		return fmt.Errorf("%w: exactly one is to come with the frame", errDescriptor)
	}
	flags, err := unix.FcntlInt(uintptr(p.fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errDescriptor, err)
	}
	if mode := flags & unix.O_ACCMODE; mode != unix.O_WRONLY && mode != unix.O_RDWR || flags&unix.O_PATH != 0 {
		return fmt.Errorf("%w: it is open for reading alone", errDescriptor)
	}
	return nil
}

// Log hands f over as the stderr of the keeper, which writes the engine's
// output and its own lines there from the next line on; the caller keeps its
// own copy. It is the owner's to ask, and ErrUnsupported, without anything
// being sent, where the keeper speaks version 1 alone: its lines go on to where
// they went before.
func (c *Client) Log(ctx context.Context, f *os.File) error {
	if c.version < logVersion {
		return fmt.Errorf("keeper: %s: %w: it speaks version %d, and %d is needed", opLog, ErrUnsupported, c.version, logVersion)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return fmt.Errorf("keeper: %s: %w", opLog, err)
	}
	// Not by f.Fd, which would make the file a blocking one for everybody who has it.
	uerr := raw.Control(func(fd uintptr) {
		_, err = c.request(ctx, frame{Op: opLog}, syscall.UnixRights(int(fd)))
	})
	return errors.Join(uerr, err)
}
