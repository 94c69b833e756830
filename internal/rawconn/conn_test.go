package rawconn

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// kinds are the sockets that a Conn may be of; one that is polled was accepted, too.
var kinds = []string{"tcp", "unix", "accepted tcp", "accepted unix", "polled tcp", "polled unix"}

// pair connects two sockets: ours, wrapped or by an Acceptor, and the peer's, plain.
func pair(tb testing.TB, kind string) (*Conn, net.Conn) {
	tb.Helper()
	if network, accepted := strings.CutPrefix(kind, "accepted "); accepted {
		a := acceptor(tb, network)
		defer a.Close()
		return acceptedPair(tb, a)
	}
	if network, polled := strings.CutPrefix(kind, "polled "); polled {
		c, peer := pair(tb, "accepted "+network)
		if err := c.conn.(*socket).poll(); err != nil {
			tb.Fatal(err)
		}
		return c, peer
	}
	l := listen(tb, kind)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			tb.Error(err)
		}
		accepted <- c
	}()
	ours, err := net.Dial(kind, l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	peer := <-accepted
	c, err := Wrap(ours)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { c.Close(); peer.Close() })
	return c, peer
}

func listen(tb testing.TB, network string) net.Listener {
	tb.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(tb.TempDir(), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func randomBytes(n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p)
	return p
}

func TestWrapTakesStreamSocketsOnly(t *testing.T) {
	c, _ := pair(t, "tcp")
	if again, err := Wrap(c); err != nil || again != c {
		t.Errorf("Wrap of a Conn = %v, %v", again, err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if _, err := Wrap(a); err == nil {
		t.Error("Wrap took a pipe")
	}
	path := filepath.Join(t.TempDir(), "s")
	packets, err := net.Listen("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	packet, err := net.Dial("unixpacket", path)
	if err != nil {
		t.Fatal(err)
	}
	defer packet.Close()
	if _, err := Wrap(packet); err == nil {
		t.Error("Wrap took a socket of packets")
	}
}

// The poller is edge-triggered: a FIN that came with the data must be found by
// trying again, since nothing will announce it.
func TestFINThatCameWithTheDataIsNotLost(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for range 50 {
				c, peer := pair(t, kind)
				peer.Write([]byte("last words"))
				peer.Close()
				got, err := io.ReadAll(c)
				if err != nil || string(got) != "last words" {
					t.Fatalf("read %q, %v", got, err)
				}
			}
		})
	}
}

func TestWritesMoreThanTheSocketHolds(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c, peer := pair(t, kind)
			sent := randomBytes(8 << 20)
			received := make(chan []byte)
			go func() {
				p, _ := io.ReadAll(peer)
				received <- p
			}()
			if n, err := c.Write(sent); n != len(sent) || err != nil {
				t.Fatalf("Write = %d, %v", n, err)
			}
			c.CloseWrite()
			if !bytes.Equal(<-received, sent) {
				t.Error("what arrived differs")
			}
		})
	}
}

func TestWriteBuffers(t *testing.T) {
	all := randomBytes(3 << 20)
	cut := func(sizes ...int) (bufs [][]byte) {
		for rest, i := all, 0; len(rest) > 0; i++ {
			n := min(sizes[i%len(sizes)], len(rest))
			bufs, rest = append(bufs, rest[:n]), rest[n:]
		}
		return bufs
	}
	tests := map[string][][]byte{
		"one":                    cut(len(all)),
		"head and body":          cut(200, 1024),
		"more than one call may": cut(700),
		"empty ones between":     cut(0, 5000, 0, 0, 70000),
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for name, bufs := range tests {
				t.Run(name, func(t *testing.T) {
					c, peer := pair(t, kind)
					received := make(chan []byte)
					go func() {
						p, _ := io.ReadAll(peer)
						received <- p
					}()
					if n, err := c.WriteBuffers(bufs); n != int64(len(all)) || err != nil {
						t.Fatalf("WriteBuffers = %d, %v", n, err)
					}
					c.CloseWrite()
					if !bytes.Equal(<-received, all) {
						t.Error("what arrived differs")
					}
				})
			}
		})
	}
	c, _ := pair(t, "tcp")
	if n, err := c.WriteBuffers([][]byte{nil, {}}); n != 0 || err != nil {
		t.Errorf("WriteBuffers of nothing = %d, %v", n, err)
	}
}

func TestDeadlines(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c, _ := pair(t, kind)
			c.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("Read past its deadline: %v", err)
			}
			much := make([]byte, 64<<20) // before the clock starts: it takes its time
			c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			n, err := c.Write(much)
			if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == 64<<20 {
				t.Errorf("Write past its deadline = %d, %v", n, err)
			}
		})
	}
}

func TestCloseAndAbortWakeReaderAndWriter(t *testing.T) {
	ends := map[string]func(c *Conn){
		"close": func(c *Conn) { c.Close() },
		"abort": func(c *Conn) { c.Abort() },
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for name, end := range ends {
				t.Run(name, func(t *testing.T) {
					c, peer := pair(t, kind)
					idle := make(chan struct{})
					read, written := make(chan error), make(chan error)
					go func() {
						_, err := c.ReadIdle(make([]byte, 1), func() error { close(idle); return nil })
						read <- err
					}()
					go func() {
						_, err := c.Write(make([]byte, 64<<20))
						written <- err
					}()
					<-idle
					io.ReadFull(peer, make([]byte, 1<<20)) // the writer is at work
					end(c)
					if err := <-read; err == nil {
						t.Error("the reader read on")
					}
					if err := <-written; err == nil {
						t.Error("the writer wrote it all")
					}
					if _, err := io.Copy(io.Discard, peer); err != nil && !errors.Is(err, syscall.ECONNRESET) {
						t.Errorf("the peer read %v", err)
					}
				})
			}
		})
	}
}

// Close waits for the reader to let go of the descriptor, Abort must not.
func TestAbortDoesNotWaitForAnIdleFunction(t *testing.T) {
	c, peer := pair(t, "tcp")
	stuck, release, over := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(over)
		c.ReadIdle(make([]byte, 1), func() error { close(stuck); <-release; return nil })
	}()
	<-stuck
	c.Abort()
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the peer read %v", err)
	}
	close(release)
	<-over
}

func TestReadIdleTellsWhenNothingIsThere(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c, peer := pair(t, kind)
			peer.Write([]byte("abc"))
			buf := make([]byte, 2)
			idle := 0
			onIdle := func() error {
				idle++
				peer.Write([]byte("d"))
				return nil
			}
			for i, want := range []struct {
				data string
				idle int
			}{{"ab", 0}, {"c", 0}, {"d", 1}} {
				n, err := c.ReadIdle(buf, onIdle)
				if err != nil || string(buf[:n]) != want.data || idle != want.idle {
					t.Errorf("read %d: %q, %v, idle %d times", i, buf[:n], err, idle)
				}
			}
			no := errors.New("no")
			if _, err := c.ReadIdle(buf, func() error { return no }); !errors.Is(err, no) {
				t.Errorf("ReadIdle = %v, not idle's error", err)
			}
			peer.Write([]byte("e"))
			if n, err := c.Read(buf); err != nil || n != 1 {
				t.Errorf("Read after idle's error = %d, %v", n, err)
			}
		})
	}
}

func TestCheckIdle(t *testing.T) {
	tests := map[string]struct {
		peer func(net.Conn)
		want error
	}{
		"silent":              {func(net.Conn) {}, nil},
		"closed":              {func(c net.Conn) { c.Close() }, io.EOF},
		"speaks":              {func(c net.Conn) { c.Write([]byte("x")) }, ErrUnsolicited},
		"speaks, then closed": {func(c net.Conn) { c.Write([]byte("x")); c.Close() }, ErrUnsolicited},
	}
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			for name, test := range tests {
				t.Run(name, func(t *testing.T) {
					c, peer := pair(t, kind)
					test.peer(peer)
					// Loopback delivers within the peer's own call.
					if err := c.CheckIdle(); !errors.Is(err, test.want) {
						t.Errorf("CheckIdle = %v, want %v", err, test.want)
					}
				})
			}
		})
	}
	c, peer := pair(t, "tcp")
	peer.(*net.TCPConn).SetLinger(0)
	peer.Close()
	if err := c.CheckIdle(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("CheckIdle after a reset = %v", err)
	}
	c.Close()
	if err := c.CheckIdle(); err == nil {
		t.Error("CheckIdle of a closed connection = nil")
	}
}

// Somebody who called File on the listener or connection made the shared
// description blocking. A plain read would stop the thread for ever.
func TestNeverBlocksTheThreadOnABlockingDescriptor(t *testing.T) {
	c, peer := pair(t, "tcp")
	c.raw.Control(func(fd uintptr) { syscall.SetNonblock(int(fd), false) })
	idle := make(chan struct{})
	read := make(chan string)
	go func() {
		buf := make([]byte, 8)
		n, _ := c.ReadIdle(buf, func() error { close(idle); return nil })
		read <- string(buf[:n])
	}()
	<-idle // with a blocking read this never comes
	peer.Write([]byte("hello"))
	if got := <-read; got != "hello" {
		t.Errorf("read %q", got)
	}
}

func TestCountReceived(t *testing.T) {
	c, peer := pair(t, "tcp")
	dst, _ := pair(t, "tcp")
	var n atomic.Uint64
	c.CountReceived(&n)
	peer.Write([]byte("12345"))
	io.ReadFull(c, make([]byte, 5))
	peer.Write([]byte("678"))
	dst.Splice(c, 3)
	if n.Load() != 8 {
		t.Errorf("counted %d of 8 bytes", n.Load())
	}
}

func TestReadAndWriteAllocateNothing(t *testing.T) {
	c, peer := pair(t, "unix")
	other, err := Wrap(peer)
	if err != nil {
		t.Fatal(err)
	}
	p, q := make([]byte, 100), make([]byte, 100)
	bufs := [][]byte{p[:50], p[50:]}
	idle := func() error { return nil }
	allocs := testing.AllocsPerRun(100, func() {
		c.Write(p)
		other.ReadIdle(q, idle)
		c.WriteBuffers(bufs)
		io.ReadFull(other, q)
		other.CheckIdle()
	})
	if allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

// TestWriteLast: the end comes behind all that was written, however it comes.
func TestWriteLast(t *testing.T) {
	for _, kind := range kinds {
		for name, end := range map[string]func(c *Conn) error{"close": (*Conn).Close, "half": (*Conn).CloseWrite} {
			for _, n := range []int{1, 1 << 20} {
				c, peer := pair(t, kind)
				within(t, peer)
				want := randomBytes(n)
				wrote := make(chan error, 1)
				go func() {
					_, err := c.Write(want[:n/2])
					if err == nil {
						_, err = c.WriteLast(want[n/2:])
					}
					wrote <- errors.Join(err, end(c))
				}()
				got, err := io.ReadAll(peer)
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s, %s: %d of %d bytes, %v", kind, name, len(got), n, err)
				}
				if err := <-wrote; err != nil {
					t.Errorf("%s, %s: %v", kind, name, err)
				}
			}
		}
	}
}
