package front

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stoker/internal/proxyproto"
)

// Proxies are who connects for others, and says for whom: by a PROXY header ahead
// of everything else, TLS included.
type Proxies struct {
	// From are the networks from which every connection begins with one, as does
	// every one over a unix socket.
	From []netip.Prefix
	// Only: whoever connects from elsewhere is refused; else it is a client.
	Only bool
}

var (
	// errStranger: who connects is none of the proxies that a listener is for.
	errStranger = errors.New("this port is for proxies alone")
	errProxy    = errors.New("no client was named by the proxy")
	errUnnamed  = fmt.Errorf("%w: its PROXY header did not arrive in time", errProxy)
	errCut      = fmt.Errorf("%w: the connection ended within its PROXY header", errProxy)
)

// announces says whether a connection of peer begins with a header. The error
// is errStranger.
func (p *Proxies) announces(peer netip.AddrPort) (bool, error) {
	switch {
	case p == nil:
		return false, nil
	case !peer.IsValid(), slices.ContainsFunc(p.From, func(n netip.Prefix) bool { return n.Contains(peer.Addr()) }):
		return true, nil
	case p.Only:
		return false, errStranger
	}
	return false, nil
}

// One buffer must hold any header, and all of it.
const _ = uint(smallInput - proxyproto.Max)

// meet reads the PROXY header, and says whether the connection goes on, as that
// of the client that it names. Not a byte more is taken: what follows is TLS's, or
// the next reader's.
func (s *session) meet() bool {
	began := time.Now()
	c := s.conn
	c.readUntil(began.Add(c.front.limits.Load().Head), 0)
	h, err := c.readHeader()
	switch {
	case err == nil:
		err = c.front.introduce(c, h.Client)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = errUnnamed
	}
	if err == nil {
		return !c.is(gone)
	}
	c.torn.Store(true)
	if errors.Is(err, errProxy) || errors.Is(err, errTooManyOfOne) {
		c.front.observeRefusal(c, err, began)
	}
	return false // an answer would be the proxy's, which understands none
}

// readHeader takes it from the socket. An end before its first byte is io.EOF:
// that is how balancers look whether somebody listens.
func (c *conn) readHeader() (proxyproto.Header, error) {
	buf := smallInputs.Get().(*[smallInput]byte)
	defer smallInputs.Put(buf)
	for got := 0; ; {
		n, err := c.peek(buf[got:])
		if errors.Is(err, io.EOF) && got > 0 {
			err = errCut
		}
		if err != nil {
			return proxyproto.Header{}, err
		}
		h, length, err := proxyproto.Parse(buf[:got+n])
		if err != nil {
			return h, fmt.Errorf("%w: %w", errProxy, err)
		}
		// Incomplete, all that is there belongs to it.
		rest := n
		if length > 0 {
			rest = length - got
		}
		if n, err = c.raw.Read(buf[got : got+rest]); err != nil {
			return h, err
		}
		if got += n; length > 0 {
			return h, nil
		}
	}
}

// peek reads what is there, and leaves it there; it waits while there is nothing.
func (c *conn) peek(p []byte) (n int, err error) {
	raw, err := c.raw.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno error
	err = raw.Read(func(fd uintptr) bool {
		for {
			n, _, errno = unix.Recvfrom(int(fd), p, unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if !errors.Is(errno, syscall.EINTR) {
				return !errors.Is(errno, syscall.EAGAIN)
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errno != nil:
		return 0, os.NewSyscallError("recvfrom", errno)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// introduce makes c the connection of client, where that is known: it is what
// is logged, passed on, limited and counted from now on. The error is that the
// client has too many.
func (f *Front) introduce(c *conn, client netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if client.IsValid() {
		c.client = netip.AddrPortFrom(client.Addr().Unmap(), client.Port())
	}
	if c.refused == nil && c.client.IsValid() {
		if err := f.tooManyOfOne(c); err != nil {
			c.peer = netip.Addr{} // it was not counted
			if f.refused >= maxRefused {
				return err
			}
			c.refused = err
		}
		f.count(c, 1)
	}
	f.moveLocked(c, idle) // from now on its first request may take its time
	return nil
}
