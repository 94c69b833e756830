package rawconn

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestFreshUntilItWaits: a question that is there, the answer to it and the end need
// no poller; whatever may have to wait does.
func TestFreshUntilItWaits(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, tc := range []struct {
			name   string
			then   func(c *Conn) error
			polled bool
		}{
			{"a deadline of what is not read", func(c *Conn) error { return c.SetReadDeadline(time.Time{}) }, false},
			{"is watched", func(c *Conn) error { c.Waiting(); c.Abort(); return nil }, false},
			{"a second read", func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err }, true},
			{"a deadline of the next read", func(c *Conn) error { return c.SetReadDeadline(time.Now().Add(time.Minute)) }, true},
			{"a deadline of writes", func(c *Conn) error { return c.SetWriteDeadline(time.Now().Add(time.Minute)) }, true},
		} {
			t.Run(network+", "+tc.name, func(t *testing.T) {
				c, peer := pair(t, "accepted "+network)
				within(t, peer)
				if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				if _, err := peer.Write([]byte("ab")); err != nil {
					t.Fatal(err)
				}
				for !c.Waiting() {
					time.Sleep(time.Millisecond)
				}
				p := make([]byte, 1)
				if n, err := c.Read(p); n != 1 || err != nil {
					t.Fatal(n, err)
				}
				if _, err := c.Write(p); err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(peer, p); err != nil {
					t.Fatal(err)
				}
				if c.conn.(*socket).polled.Load() {
					t.Error("polled before it had to wait")
				}
				if err := tc.then(c); err != nil {
					t.Error(err)
				}
				if polled := c.conn.(*socket).polled.Load(); polled != tc.polled {
					t.Errorf("polled: %v", polled)
				}
			})
		}
	}
}

// TestFreshWaits: what comes, or does not, after the read that found nothing.
func TestFreshWaits(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for range 100 {
			c, peer := pair(t, "accepted "+network)
			within(t, c)
			var all sync.WaitGroup
			all.Go(func() {
				if _, err := peer.Write([]byte("a")); err != nil {
					t.Error(err)
				}
			})
			if n, err := c.Read(make([]byte, 2)); n != 1 || err != nil {
				t.Fatal(network, n, err)
			}
			all.Wait()
			all.Go(func() { peer.Close() })
			if n, err := c.Read(make([]byte, 2)); n != 0 || !errors.Is(err, io.EOF) {
				t.Fatal(network, n, err)
			}
			all.Wait()
			c.Close()
		}
		c, _ := pair(t, "accepted "+network)
		if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: the first read's deadline: %v", network, err)
		}
	}
}

// TestFreshWritesAll: more than the socket takes.
func TestFreshWritesAll(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		c, peer := pair(t, "accepted "+network)
		within(t, peer)
		want := randomBytes(8 << 20)
		var all sync.WaitGroup
		all.Go(func() {
			if n, err := c.Write(want); n != len(want) || err != nil {
				t.Error(n, err)
			}
			c.Close()
		})
		got, err := io.ReadAll(peer)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: %d bytes, %v", network, len(got), err)
		}
		all.Wait()
	}
}

// TestFreshForAll: whoever closes it, whatever the others are about, its descriptor is
// closed once, and nobody gets at another's.
func TestFreshForAll(t *testing.T) {
	before := descriptors(t)
	a := acceptor(t, "tcp")
	k, err := NewCloser()
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		c, peer := acceptedPair(t, a)
		within(t, peer)
		_, _ = peer.Write([]byte("ab"))
		var all sync.WaitGroup
		all.Go(func() {
			for range 3 {
				_, _ = c.Read(make([]byte, 1))
			}
		})
		all.Go(func() { _, _ = c.Write([]byte("c")) })
		all.Go(func() { _ = c.SetReadDeadline(time.Now().Add(time.Minute)) })
		all.Go(func() { c.Waiting() })
		all.Go(func() { k.Close(c) })
		all.Go(func() { _ = c.Close() })
		all.Wait()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read from a closed connection")
		}
		if _, err := io.Copy(io.Discard, peer); err != nil && !errors.Is(err, unix.ECONNRESET) {
			t.Error(err)
		}
		peer.Close()
	}
	k.End()
	a.Close()
	if after := descriptors(t); after > before {
		t.Errorf("%d descriptors, %d before", after, before)
	}
}

// TestNoRoomInPoller: as with a file, which cannot be polled either. Who has to wait is
// told, and so is who would accept more.
func TestNoRoomInPoller(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := acceptor(t, "tcp")
	c := newAccepted(fd, "tcp", netip.AddrPort{}, &a.unpolled)
	for range 2 {
		if err := c.SetWriteDeadline(time.Now()); !errors.Is(err, unix.ENOMEM) {
			t.Error(err)
		}
		if _, err := a.Accept(); !errors.Is(err, unix.ENOMEM) {
			t.Error(err)
		}
	}
	acceptedPair(t, a)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.SetWriteDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}
