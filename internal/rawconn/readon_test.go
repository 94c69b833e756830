package rawconn

import (
	"bytes"
	"errors"
	"io"
	"syscall"
	"testing"
	"time"
)

// watch is one that ends with the test.
func watch(t *testing.T) *Watch {
	t.Helper()
	w, err := NewWatch()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// TestReadOnEndsWithItsPeer: an end that comes with the last bytes, or right behind
// them, wakes who has taken those bytes and waits for more.
func TestReadOnEndsWithItsPeer(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		for _, how := range []string{"close", "half", "reset"} {
			t.Run(network+" "+how, func(t *testing.T) {
				w := watch(t)
				for i := range 300 {
					endsWithPeer(t, w, network, how, i)
				}
			})
		}
	}
}

func endsWithPeer(t *testing.T, w *Watch, network, how string, i int) {
	t.Helper()
	c, peer := pair(t, network)
	defer func() { _ = c.Close(); _ = peer.Close() }()
	if i%2 == 0 { // else it looks after each piece
		if err := c.WatchEnd(w); err != nil {
			t.Fatal(err)
		}
		defer c.UnwatchEnd(w)
	}
	taken := make(chan struct{}, 1)
	sent := []byte("data: token\n\n")
	go func() {
		_, _ = peer.Write(sent)
		<-taken
		_, _ = peer.Write(sent)
		switch how {
		case "half":
			_ = peer.(interface{ CloseWrite() error }).CloseWrite()
		case "reset":
			if l, tcp := peer.(interface{ SetLinger(sec int) error }); tcp {
				_ = l.SetLinger(0)
			}
			fallthrough
		default:
			_ = peer.Close()
		}
	}()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	var got []byte
	room := make([]byte, 64)
	err := c.ReadOn(func() []byte { return room }, func(n int) bool {
		got = append(got, room[:n]...)
		if len(got) == len(sent) {
			taken <- struct{}{}
		}
		return false
	}, func() error { return nil })
	switch {
	case how == "reset" && errors.Is(err, syscall.ECONNRESET):
		return // what had not been read is lost with it
	case !errors.Is(err, io.EOF):
		t.Fatalf("round %d: %v after %q", i, err, got)
	case !bytes.Equal(got, bytes.Repeat(sent, 2)):
		t.Fatalf("round %d: got %q", i, got)
	}
}

// TestReadOn: pieces that fill the room and that do not, enough, and an error of rest.
func TestReadOn(t *testing.T) {
	for _, watched := range []bool{true, false} {
		c, peer := pair(t, "tcp")
		w := watch(t)
		if watched {
			if err := c.WatchEnd(w); err != nil {
				t.Fatal(err)
			}
		}
		var got []byte
		room := make([]byte, 4)
		rested := 0
		write := func(s string) {
			if _, err := peer.Write([]byte(s)); err != nil {
				t.Error(err)
			}
		}
		write("abcdefgh") // fills the room twice
		err := c.ReadOn(func() []byte { return room }, func(n int) bool {
			got = append(got, room[:n]...)
			return len(got) == 11
		}, func() error {
			rested++
			write(map[int]string{1: "ij", 2: "k"}[rested])
			return nil
		})
		if err != nil || string(got) != "abcdefghijk" || rested != 2 {
			t.Errorf("watched %t: %q, rested %d times, %v", watched, got, rested, err)
		}
		refused := errors.New("no")
		if err := c.ReadOn(func() []byte { return room }, func(int) bool { return false }, func() error { return refused }); !errors.Is(err, refused) {
			t.Errorf("watched %t: %v", watched, err)
		}
		_ = c.Close()
		_ = peer.Close()
	}
}

// TestWatchTells: of who has closed already, also before what it sent is read, and of
// nobody that was forgotten.
func TestWatchTells(t *testing.T) {
	w := watch(t)
	c, peer := pair(t, "tcp")
	defer func() { _ = c.Close() }()
	_, _ = peer.Write([]byte("unread"))
	_ = peer.Close()
	told := make(teller, 1)
	if _, err := w.Add(c, told); err != nil {
		t.Fatal(err)
	}
	<-told
	d, other := pair(t, "unix")
	id, err := w.Add(d, make(teller)) // would be waited for for ever
	if err != nil {
		t.Fatal(err)
	}
	w.Forget(id)
	_ = other.Close()
	_ = d.Close()
	if len(w.ended) != 1 {
		t.Errorf("%d are remembered", len(w.ended))
	}
}

type teller chan struct{}

func (c teller) InputEnded(bool) { c <- struct{}{} }

// TestReadOnLooksAgain: who is told of the end while it is busy with a piece takes the
// next, which came before the end, and does not wait then.
func TestReadOnLooksAgain(t *testing.T) {
	w := watch(t)
	c, peer := pair(t, "tcp")
	defer func() { _ = c.Close() }()
	if err := c.WatchEnd(w); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, _ = peer.Write([]byte("a"))
	room := make([]byte, 64)
	var got []byte
	err := c.ReadOn(func() []byte { return room }, func(n int) bool {
		if got = append(got, room[:n]...); len(got) > 1 {
			return false
		}
		_, _ = peer.Write([]byte("b"))
		_ = peer.Close()
		for !c.ended.Load() {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(20 * time.Millisecond) // for the poller to have told of all, too: else this shows nothing
		return false
	}, func() error { return nil })
	if !errors.Is(err, io.EOF) || string(got) != "ab" {
		t.Errorf("%q, %v", got, err)
	}
}
