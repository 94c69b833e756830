package rawconn

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func acceptor(tb testing.TB, network string) *Acceptor {
	tb.Helper()
	return acceptorOf(tb, listen(tb, network))
}

func acceptorOf(tb testing.TB, l net.Listener) *Acceptor {
	tb.Helper()
	a, err := NewAcceptor(l)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { a.Close() })
	return a
}

// acceptedPair is a connection that a has accepted, and its client.
func acceptedPair(tb testing.TB, a *Acceptor) (*Conn, net.Conn) {
	tb.Helper()
	client, err := net.Dial(a.Addr().Network(), a.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	c := accept(tb, a)
	tb.Cleanup(func() { c.Close(); client.Close() })
	return c, client
}

func accept(tb testing.TB, a *Acceptor) *Conn {
	tb.Helper()
	nc, err := a.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return nc.(*Conn)
}

func TestAcceptedAddresses(t *testing.T) {
	for _, at := range []struct{ network, address string }{{"tcp", "127.0.0.1:0"}, {"tcp", "[::1]:0"}, {"tcp", ":0"}, {"unix", ""}} {
		t.Run(at.network+" "+at.address, func(t *testing.T) {
			if at.network == "unix" {
				at.address = t.TempDir() + "/s"
			}
			l, err := net.Listen(at.network, at.address)
			if err != nil && strings.HasPrefix(at.address, "[") {
				t.Skip("this host has no IPv6: ", err)
			}
			if err != nil {
				t.Fatal(err)
			}
			a := acceptorOf(t, l)
			c, client := acceptedPair(t, a)
			if c.LocalAddr().String() != client.RemoteAddr().String() {
				t.Errorf("our address is %v, the client's peer %v", c.LocalAddr(), client.RemoteAddr())
			}
			if at.network == "unix" {
				if c.RemoteAddr().Network() != "unix" || c.LocalAddr().Network() != "unix" || c.Peer().IsValid() {
					t.Errorf("%v and %v, %v", c.LocalAddr(), c.RemoteAddr(), c.Peer())
				}
				return
			}
			if want := client.LocalAddr().String(); c.RemoteAddr().String() != want {
				t.Errorf("accepted from %v, want %v", c.RemoteAddr(), want)
			}
			if want := client.LocalAddr().(*net.TCPAddr); c.Peer().Port() != uint16(want.Port) || c.Peer().Addr().Unmap() != want.AddrPort().Addr().Unmap() {
				t.Errorf("accepted from %v, want %v", c.Peer(), want)
			}
		})
	}
}

// TestAcceptedErrors: they are those of the net package, whatever holds the descriptor.
func TestAcceptedErrors(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		c, _ := acceptedPair(t, acceptor(t, network))
		if err := c.SetReadDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: a read after its deadline: %v", network, err)
		}
		if err := c.SetReadDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		waits := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			waits <- err
		}()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: a read when it was closed: %v", network, err)
		}
		if _, err := c.Write([]byte("a")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: a write after: %v", network, err)
		}
		if err := c.SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: a deadline after: %v", network, err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: a second close: %v", network, err)
		}
	}
}

func TestAcceptorEnds(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		a := acceptor(t, network)
		if _, err := a.AcceptQueued(); !errors.Is(err, unix.EAGAIN) {
			t.Errorf("%s: nobody is queued: %v", network, err)
		}
		if err := a.SetDeadline(time.Unix(1, 0)); err != nil {
			t.Error(err)
		}
		if _, err := a.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: after its deadline: %v", network, err)
		}
		client, err := net.Dial(network, a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if c, err := a.AcceptQueued(); err != nil {
			t.Errorf("%s: who is queued: %v", network, err)
		} else {
			c.Close()
		}
		if err := a.SetDeadline(time.Time{}); err != nil {
			t.Error(err)
		}
		waits := make(chan error)
		go func() {
			_, err := a.Accept()
			waits <- err
		}()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if err := <-waits; !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: closed: %v", network, err)
		}
		if _, err := a.AcceptQueued(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: queued, closed: %v", network, err)
		}
	}
}

// TestAcceptorUnblocks: who else has the socket may have made it a blocking one,
// on which the second accept4 would stop a thread for good.
func TestAcceptorUnblocks(t *testing.T) {
	a := acceptor(t, "tcp")
	for range 3 {
		got := make(chan *Conn)
		go func() { got <- accept(t, a) }()
		var errno error
		if err := a.raw.Control(func(fd uintptr) { errno = unix.SetNonblock(int(fd), false) }); err != nil || errno != nil {
			t.Fatal(err, errno)
		}
		client, err := net.Dial("tcp", a.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c := <-got
		c.Close()
		client.Close()
		a.mu.Lock()
		a.waited = true // as after the EAGAIN that the next Accept begins with
		a.mu.Unlock()
	}
}

// TestAcceptOutOfDescriptors: the error says so, and who waits is not lost.
func TestAcceptOutOfDescriptors(t *testing.T) {
	a := acceptor(t, "tcp")
	client, err := net.Dial("tcp", a.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = a.Accept()
	if e := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); e != nil {
		t.Fatal(e)
	}
	if !errors.Is(err, syscall.EMFILE) {
		t.Errorf("accept without a descriptor: %v", err)
	}
	c := accept(t, a)
	defer c.Close()
	if _, err := client.Write([]byte("a")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func TestAcceptorTakesSocketsOnly(t *testing.T) {
	if _, err := NewAcceptor(struct{ net.Listener }{}); err == nil {
		t.Error("took what is no socket")
	}
}

// TestAcceptorHasOneDescriptor: what it was made of is closed, and the path stays.
func TestAcceptorHasOneDescriptor(t *testing.T) {
	l := listen(t, "unix")
	a := acceptorOf(t, l)
	if err := l.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("what it was made of: %v", err)
	}
	acceptedPair(t, a)
	a.Close()
	if _, err := os.Lstat(l.Addr().String()); err != nil {
		t.Error(err)
	}
}
