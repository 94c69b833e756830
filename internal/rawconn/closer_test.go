package rawconn

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patientCloser gives no number back before its end, so that what is seen is what
// Close alone does.
func patientCloser(tb testing.TB) *Closer {
	tb.Helper()
	k, err := newCloser(time.Hour)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(k.End)
	return k
}

// ends fails the test if c is still open when it is read from, rather than to wait for
// what never comes: its peer leaves then.
func ends(tb testing.TB, c, peer net.Conn) (n int, err error) {
	tb.Helper()
	open := make(chan struct{})
	clock := time.AfterFunc(20*time.Second, func() {
		_ = peer.Close()
		close(open)
	})
	n, err = c.Read(make([]byte, 1))
	if !clock.Stop() {
		<-open
		tb.Fatal("it is still open")
	}
	return n, err
}

// within bounds a wait for what must come, and for nothing else.
func within(tb testing.TB, c net.Conn) {
	tb.Helper()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		tb.Fatal(err)
	}
}

// TestCloserClosesAtOnce: the peer sees the end then and there, behind all that was
// written, or the reset that it would have seen of a close.
func TestCloserClosesAtOnce(t *testing.T) {
	for _, kind := range kinds {
		for _, tc := range []struct {
			name    string
			unread  bool // what the peer has sent is not read
			lingers bool
			want    error
		}{
			{name: "clean", want: io.EOF},
			{name: "unread", unread: true, want: syscall.ECONNRESET},
			{name: "reset", lingers: true, want: syscall.ECONNRESET},
		} {
			if tc.lingers && strings.HasSuffix(kind, "unix") {
				continue // they know no reset
			}
			ok := t.Run(kind+", "+tc.name, func(t *testing.T) {
				k := patientCloser(t)
				c, peer := pair(t, kind)
				within(t, peer)
				if _, err := peer.Write([]byte("question")); err != nil {
					t.Fatal(err)
				}
				for !c.Waiting() {
					time.Sleep(time.Millisecond)
				}
				if !tc.unread {
					if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
						t.Fatal(err)
					}
				}
				if tc.lingers {
					_ = c.raw.Control(func(fd uintptr) {
						_ = unix.SetsockoptLinger(int(fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
					})
				}
				k.Close(c)
				if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, tc.want) {
					t.Errorf("the peer reads %v, want %v", err, tc.want)
				}
			})
			if !ok {
				return // the others would wait as long for what does not come
			}
		}
	}
}

// TestCloserLeavesNothing: what is still used is over, and is no other connection.
func TestCloserLeavesNothing(t *testing.T) {
	for _, kind := range kinds {
		k := patientCloser(t)
		c, peer := pair(t, kind)
		k.Close(c)
		k.Close(c)
		if n, err := ends(t, c, peer); n != 0 || err == nil {
			t.Errorf("%s: read %d, %v", kind, n, err)
		}
		if n, err := c.Write([]byte("a")); n != 0 || err == nil {
			t.Errorf("%s: wrote %d, %v", kind, n, err)
		}
		if c.Waiting() {
			t.Errorf("%s: something waits", kind)
		}
		c.Abort()
		var want error
		if strings.HasPrefix(kind, "accepted ") { // nobody has waited for it: its number was given back
			want = net.ErrClosed
		}
		if err := c.Close(); !errors.Is(err, want) {
			t.Errorf("%s: %v", kind, err)
		}
		k.Close(c)
		k.End()
		k.End()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: read after the end: %v", kind, err)
		}
	}
}

// TestCloserGivesNumbersBack: soon, at its end, and at once when there are too many.
func TestCloserGivesNumbersBack(t *testing.T) {
	before := descriptors(t)
	t.Cleanup(func() { // when all is closed
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, %d before", after, before)
		}
	})
	k, err := NewCloser()
	if err != nil {
		t.Fatal(err)
	}
	const many = 20
	k.most = many / 2
	var peers []net.Conn
	for range many {
		c, peer := pair(t, "polled tcp")
		within(t, peer)
		peers = append(peers, peer)
		k.Close(c)
	}
	for _, peer := range peers {
		if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Fatalf("the peer reads %v", err)
		}
		peer.Close()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		left := len(k.closed)
		k.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are left", left)
		}
	}
	c, _ := pair(t, "polled tcp")
	k.Close(c)
	k.End()
	late, peer := pair(t, "polled tcp")
	within(t, peer)
	k.Close(late)
	if _, err := peer.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("after the end the peer reads %v", err)
	}
	peer.Close()
}

// TestCloserAndOthers: it may be closed by anybody at the same time.
func TestCloserAndOthers(t *testing.T) {
	k, err := NewCloser()
	if err != nil {
		t.Fatal(err)
	}
	a := acceptor(t, "tcp")
	for i := range 400 {
		c, peer := acceptedPair(t, a)
		if i%2 == 0 {
			_ = c.conn.(*socket).poll()
		}
		var all sync.WaitGroup
		all.Go(func() { k.Close(c) })
		all.Go(func() { _ = c.Close() })
		all.Go(func() { c.Abort() })
		all.Wait()
		peer.Close()
	}
	k.End()
}

func descriptors(tb testing.TB) int {
	tb.Helper()
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		tb.Fatal(err)
	}
	return len(open)
}
