package rawconn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// asks is Ask with a buffer of its own.
func asks(c *Conn, p []byte, strict bool) (a Asked, answer []byte) {
	buf := make([]byte, 100)
	a = c.Ask(p, strict, func() []byte { return buf }, func() error { return nil })
	return a, buf[:a.N]
}

func TestAsk(t *testing.T) {
	large := randomBytes(16 << 20) // more than a socket takes
	for _, kind := range kinds {
		for _, tc := range []struct {
			name     string
			before   func(peer net.Conn) // has happened when Ask begins
			question []byte
			after    func(peer net.Conn) // when the peer has read the question
			strict   bool
			stale    error
			answer   string
			err      error
		}{
			{"answered", nil, []byte("q"), func(peer net.Conn) { _, _ = peer.Write([]byte("answer")) }, true, nil, "answer", nil},
			{"more than a socket takes", nil, large, func(peer net.Conn) { _, _ = peer.Write([]byte("answer")) }, true, nil, "answer", nil},
			{"ended instead", nil, []byte("q"), func(peer net.Conn) { _ = peer.Close() }, true, nil, "", io.EOF},
			{"ended with the answer", nil, []byte("q"), func(peer net.Conn) { _, _ = peer.Write([]byte("answer")); _ = peer.Close() }, true, nil, "answer", nil},
			{"ended before", func(peer net.Conn) { _ = peer.Close() }, []byte("q"), nil, true, io.EOF, "", nil},
			{"unasked", func(peer net.Conn) { _, _ = peer.Write([]byte("hello")) }, []byte("q"), nil, true, ErrUnsolicited, "", nil},
			{"unasked, and that is right", func(peer net.Conn) { _, _ = peer.Write([]byte("hello")) }, []byte("q"), func(net.Conn) {}, false, nil, "hello", nil},
			{"half ended before, and that is right", func(peer net.Conn) { _ = peer.(interface{ CloseWrite() error }).CloseWrite() }, []byte("q"), func(net.Conn) {}, false, nil, "", io.EOF},
		} {
			t.Run(kind+", "+tc.name, func(t *testing.T) {
				c, peer := pair(t, kind)
				if tc.before != nil {
					tc.before(peer)
					for c.CheckIdle() == nil { // until it has come
						time.Sleep(time.Millisecond)
					}
				}
				read := make(chan bool, 1)
				if tc.after != nil {
					go func() {
						got := make([]byte, len(tc.question))
						_, err := io.ReadFull(peer, got)
						read <- err == nil && bytes.Equal(got, tc.question)
						tc.after(peer)
					}()
				}
				a, answer := asks(c, tc.question, tc.strict)
				if !errors.Is(a.Stale, tc.stale) || tc.stale == nil && a.Stale != nil || !errors.Is(a.Err, tc.err) || tc.err == nil && tc.stale == nil && a.Err != nil {
					t.Fatalf("%+v", a)
				}
				if tc.stale != nil {
					if a.Written != 0 {
						t.Errorf("%d bytes written", a.Written)
					}
					return
				}
				if string(answer) != tc.answer || a.Written != len(tc.question) || a.WriteErr != nil {
					t.Errorf("%q, %+v", answer, a)
				}
				if !<-read {
					t.Error("the question did not arrive")
				}
				if strings.HasPrefix(tc.name, "ended with") {
					if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
						t.Errorf("then %d, %v", n, err)
					}
				}
			})
		}
	}
}

// An answer that begins later than the question wakes who asks, however the two
// cross: many questions, each answered after another time.
func TestAskManyTimes(t *testing.T) {
	for _, kind := range kinds {
		c, peer := pair(t, kind)
		go func() {
			buf := make([]byte, 1)
			for i := 0; ; i++ {
				if _, err := io.ReadFull(peer, buf); err != nil {
					return
				}
				for range i % 300 { // some are answered at once, some after a moment
					_ = time.Now()
				}
				_, _ = peer.Write(buf)
			}
		}()
		_ = c.SetReadDeadline(time.Now().Add(30 * time.Second))
		for i := range 5000 {
			a, answer := asks(c, []byte{byte(i)}, true)
			if a.Stale != nil || a.Err != nil || len(answer) != 1 || answer[0] != byte(i) {
				t.Fatalf("%s: question %d: %q, %+v", kind, i, answer, a)
			}
		}
	}
}

func TestAskGivesUp(t *testing.T) {
	c, peer := pair(t, "tcp")
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if a, _ := asks(c, []byte("q"), true); a.Stale != nil || a.Written != 1 || !errors.Is(a.Err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer: %+v", a)
	}
	if a, _ := asks(c, []byte("q"), true); !errors.Is(a.Stale, os.ErrDeadlineExceeded) || a.Written != 0 {
		t.Errorf("after the deadline: %+v", a)
	}
	_ = c.SetReadDeadline(time.Time{})
	go func() {
		_, _ = io.ReadFull(peer, make([]byte, 2))
		c.Abort()
	}()
	if a, _ := asks(c, []byte("q"), true); a.Stale != nil || !errors.Is(a.Err, io.EOF) {
		t.Errorf("aborted: %+v", a)
	}
	_ = c.Close()
	if a, _ := asks(c, []byte("q"), true); !errors.Is(a.Stale, net.ErrClosed) {
		t.Errorf("closed: %+v", a)
	}
}

func TestAskAllocatesNothing(t *testing.T) {
	c, peer := pair(t, "tcp")
	go func() { _, _ = io.Copy(peer, peer) }()
	buf, question := make([]byte, 10), []byte("q")
	room, rest := func() []byte { return buf }, func() error { return nil }
	if n := testing.AllocsPerRun(100, func() { c.Ask(question, true, room, rest) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
