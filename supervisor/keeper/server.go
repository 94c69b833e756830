package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxConns bounds the connections, and so the memory, that anybody can make a keeper spend.
	maxConns = 16
	// helloWithin is how long a connection may be silent before its first frame.
	helloWithin = 5 * time.Second
	// writeWithin is how long a client may leave its frames unread.
	writeWithin = 5 * time.Second
)

// server carries frames between connections and the keeper's one goroutine,
// which reads joins, requests and leaves, and never waits for a client.
type server struct {
	listener *net.UnixListener
	joins    chan *conn
	requests chan request
	leaves   chan *conn
	done     chan struct{}
	wg       sync.WaitGroup
}

// request is one frame that a connection sent.
type request struct {
	from *conn
	frame
	fd *passed // that came with it; nil: none did
}

// conn is one master's connection, or whoever else's with our uid.
type conn struct {
	*net.UnixConn
	// version is what both have agreed on; the keeper's goroutine's own.
	version int
	// out holds frames in order; the keeper's goroutine alone writes and closes it.
	out chan []byte
	// fresh holds the latest state, where it has not been sent yet.
	fresh chan []byte
}

// listen binds the socket in dir. Only a holder of the lock may call it.
func listen(dir string) (*server, error) {
	path := filepath.Join(dir, socketName)
	if err := removeFile(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // clearFiles does, while the lock is held
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s := &server{
		listener: l,
		joins:    make(chan *conn),
		requests: make(chan request),
		leaves:   make(chan *conn),
		done:     make(chan struct{}),
	}
	s.wg.Go(s.accept)
	return s, nil
}

func (s *server) accept() {
	for {
		nc, err := s.listener.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors or memory: it passes
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-s.done:
				return
			}
		}
		if cred, err := peer(nc); err != nil || !trusted(cred.Uid) {
			_ = nc.Close() // a stranger gets no answer
			continue
		}
		select {
		case s.joins <- newConn(nc):
		case <-s.done:
			_ = nc.Close() // the keeper is ending
			return
		}
	}
}

// trusted says whether a peer with that uid may speak to us: we ourselves and root.
func trusted(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// peer is who connected, as the kernel knows it.
func peer(c *net.UnixConn) (*unix.Ucred, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("peer of %s: %w", c.LocalAddr(), err)
	}
	return cred, nil
}

func newConn(nc *net.UnixConn) *conn {
	return &conn{UnixConn: nc, version: minVersion, out: make(chan []byte, 32), fresh: make(chan []byte, 1)}
}

// start begins to serve c, of which the caller has just taken note.
func (s *server) start(c *conn) {
	s.wg.Go(c.write)
	s.wg.Go(func() { s.read(c) })
}

// read hands c's frames on until the connection ends or says something that is no frame.
func (s *server) read(c *conn) {
	in := newInbox(c.UnixConn)
	defer in.drop()
	frames := newFrameReader(in, maxRequest)
	err := c.SetReadDeadline(time.Now().Add(helloWithin))
	for err == nil {
		var f frame
		f, err = frames.next()
		if errors.Is(err, errBadFrame) {
			f = frame{Op: opBad, Message: err.Error()}
		} else if err != nil {
			break
		}
		fd := in.take(frames.end)
		select {
		case s.requests <- request{c, f, fd}:
		case <-s.done:
			fd.close()
			return
		}
		if err == nil {
			err = c.SetReadDeadline(time.Time{})
		}
	}
	select {
	case s.leaves <- c:
	case <-s.done:
	}
}

// opBad stands for what was no frame; it never crosses the wire.
const opBad = "\x00bad"

// close ends all: what is queued on the connections in all is still written, within
// writeWithin, because the reply to an ack is among it.
func (s *server) close(all map[*conn]struct{}) error {
	close(s.done)
	err := s.listener.Close()
	for c := range all {
		close(c.out)
	}
	s.wg.Wait()
	return err
}

// send queues a frame, or says that the client reads too slowly.
func (c *conn) send(b []byte) bool {
	select {
	case c.out <- b:
		return true
	default:
		return false
	}
}

// publish replaces the state that waits to be sent.
func (c *conn) publish(b []byte) {
	select {
	case <-c.fresh:
	default:
	}
	c.fresh <- b
}

// write is the connection's writer. It closes the connection when out is closed
// or a write fails; the reader notices that.
func (c *conn) write() {
	defer c.Close()  //nolint:errcheck // the peer sees the end, which is all it says
	b, ok := <-c.out // the hello, before any state
	for ok {
		if err := c.SetWriteDeadline(time.Now().Add(writeWithin)); err != nil {
			return
		}
		if _, err := c.Write(b); err != nil {
			return
		}
		select {
		case b, ok = <-c.out:
		case b = <-c.fresh:
		}
	}
}
