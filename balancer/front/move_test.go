package front_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"stoker/balancer/front"
	"stoker/exchange"
)

// summed answers with the length and sum of what it was sent.
func summed(w io.Writer, r *http.Request) {
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	text := fmt.Sprintf("%d %x %v", n, sum.Sum(nil), err)
	fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
}

// varied is n bytes in which nothing can be lost, doubled or moved unseen.
func varied(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i>>16 ^ i>>8 ^ i*31)
	}
	return p
}

// A large body arrives as it was sent, whatever pieces it comes in, with the head
// or after it, and the connection serves on.
func TestLargeUploadsArriveExactly(t *testing.T) {
	m := start(t, served(summed))
	c, in := m.dial(t)
	for _, size := range []int{64<<10 + 1, 128 << 10, 300 << 10, 1 << 20, 5<<20 + 7} {
		for _, piece := range []int{1000, 70 << 10, 8 << 20} {
			if size/piece > 1000 {
				continue
			}
			content := varied(size)
			_, _ = fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size)
			for rest := content; len(rest) > 0; {
				n := min(piece, len(rest))
				if _, err := c.Write(rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
			}
			if _, body := status(t, in, http.StatusOK); body != fmt.Sprintf("%d %x <nil>", size, sha256.Sum256(content)) {
				t.Errorf("%d bytes by %d: %s", size, piece, body)
			}
			if rec := m.record(t); rec.Outcome != exchange.OutcomeOK || rec.BytesIn != int64(size) {
				t.Errorf("%d bytes by %d: %s, %d bytes in", size, piece, rec.Outcome, rec.BytesIn)
			}
		}
	}
}

// Who breaks off in the middle of a large body is to blame for it, and the engine
// is not told that this was all.
func TestLargeUploadsThatBreakOff(t *testing.T) {
	for _, tc := range []struct {
		name   string
		end    func(c *net.TCPConn)
		status int
		want   exchange.Outcome
	}{
		{"leaves", func(c *net.TCPConn) { _ = c.Close() }, 499, exchange.OutcomeClientGone},
		{"resets", func(c *net.TCPConn) { _ = c.SetLinger(0); _ = c.Close() }, 499, exchange.OutcomeClientGone},
		{"stalls", func(*net.TCPConn) {}, http.StatusRequestTimeout, exchange.OutcomeClientError},
	} {
		t.Run(tc.name, func(t *testing.T) {
			seen := make(chan error, 1)
			m := start(t, func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err == nil {
					_, err = io.Copy(io.Discard, r.Body)
				}
				seen <- err
			})
			l := front.DefaultLimits()
			l.Body = patience / 10
			m.front.SetLimits(l)
			c, _ := m.dial(t)
			_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n"+strings.Repeat("x", 1000000))
			tc.end(c.(*net.TCPConn))
			if rec := m.record(t); rec.Outcome != tc.want || rec.Status != tc.status {
				t.Errorf("%d %s: %v, want %d %s", rec.Status, rec.Outcome, rec.Err, tc.status, tc.want)
			}
			if err := <-seen; err == nil {
				t.Error("the engine takes a part for the whole")
			}
			if !m.member.Ready() {
				t.Error("the engine is blamed")
			}
		})
	}
}

// An engine that answers in the middle of a large body, and one that dies there.
func TestLargeUploadsThatAreNotWanted(t *testing.T) {
	head := "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"
	for _, tc := range []struct {
		name, answer string
		status       int
	}{
		{"refused", "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig", http.StatusRequestEntityTooLarge},
		{"dead", "", http.StatusBadGateway},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := start(t, func(c net.Conn) {
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				_, _ = io.CopyN(io.Discard, r.Body, 1000000)
				_, _ = io.WriteString(c, tc.answer)
			})
			c, in := m.dial(t)
			_, _ = c.Write(append([]byte(head), bytes.Repeat([]byte("x"), 1200000)...))
			status(t, in, tc.status)
		})
	}
}
