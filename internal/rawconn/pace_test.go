package rawconn

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// pacer notes what it is told, and goes on a number of times.
type pacer struct {
	c     *Conn
	more  int
	calls []string
}

func (p *pacer) Blocked() {
	p.calls = append(p.calls, "blocked")
	_ = p.c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
}

func (p *pacer) Stalled() bool {
	p.calls = append(p.calls, "stalled")
	p.more--
	_ = p.c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond))
	return p.more >= 0
}

func (p *pacer) Unblocked() {
	p.calls = append(p.calls, "unblocked")
	_ = p.c.SetWriteDeadline(time.Time{})
}

func TestPacer(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c, peer := pair(t, kind)
			p := &pacer{c: c, more: 2}
			c.SetPacer(p)
			if _, err := c.Write([]byte("a")); err != nil || len(p.calls) > 0 {
				t.Errorf("a write that does not wait: %v, %v", err, p.calls)
			}
			content := randomBytes(16 << 20)
			n, err := c.WriteBuffers([][]byte{content[:100], content[100:]})
			if !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n >= int64(len(content)) {
				t.Fatalf("wrote %d, %v", n, err)
			}
			if want := []string{"blocked", "stalled", "stalled", "stalled", "unblocked"}; !slices.Equal(p.calls, want) {
				t.Errorf("calls %q\nwant  %q", p.calls, want)
			}
			if taken := c.Taken(); taken > n+1 {
				t.Errorf("%d bytes taken of %d", taken, n+1)
			}
			// What was written before goes on where it was.
			p.calls, p.more = nil, 1000
			var reading sync.WaitGroup
			got := make([]byte, 1+len(content))
			reading.Go(func() {
				time.Sleep(50 * time.Millisecond) // so that the writer finds no room first
				if _, err := io.ReadFull(peer, got); err != nil {
					t.Error(err)
				}
			})
			if _, err := c.Write(content[n:]); err != nil {
				t.Errorf("after %q: %v", p.calls, err)
			}
			reading.Wait()
			if got[0] != 'a' || !slices.Equal(got[1:], content) {
				t.Error("bytes were lost or came twice")
			}
			if !slices.Contains(p.calls, "stalled") || p.calls[len(p.calls)-1] != "unblocked" {
				t.Errorf("calls %q", p.calls)
			}
			if strings.HasSuffix(kind, "tcp") && c.Taken() != int64(len(got)) {
				t.Errorf("%d bytes taken of %d", c.Taken(), len(got))
			}
		})
	}
}

// While nothing comes there is no buffer; with what comes there is one.
func TestReadLazily(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			c, peer := pair(t, kind)
			var buf []byte
			waits := make(chan bool, 100)
			room := func() []byte { buf = make([]byte, 4); return buf }
			var restErr error
			rest := func() error { buf = nil; waits <- true; return restErr }
			read := func(want string, wantErr error) {
				t.Helper()
				n, err := c.ReadLazily(room, rest)
				if string(buf[:n]) != want || !errors.Is(err, wantErr) {
					t.Errorf("read %q, %v", buf[:n], err)
				}
			}
			_, _ = io.WriteString(peer, "abcdef")
			read("abcd", nil)
			read("ef", nil)
			if len(waits) > 0 {
				t.Error("it rested while bytes were there")
			}
			go func() {
				<-waits
				_, _ = io.WriteString(peer, "gh")
			}()
			read("gh", nil)
			restErr = errors.New("could not flush")
			read("", restErr)
			<-waits
			restErr = nil
			go func() {
				<-waits
				_ = peer.Close()
			}()
			read("", io.EOF)
			_ = c.SetReadDeadline(time.Now())
			read("", os.ErrDeadlineExceeded)
			_ = c.Close()
			buf = nil
			if _, err := c.ReadLazily(room, rest); err == nil {
				t.Error("read from a closed connection")
			}
		})
	}
}
