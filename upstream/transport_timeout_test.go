package upstream

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/steady"
)

func TestResponseTimeout(t *testing.T) {
	tests := map[string]struct {
		answer string
		x      func() *exchange.Exchange
	}{
		"silence":                {"", get},
		"half a head":            {"HTTP/1.1 200 OK\r\n", get},
		"interim answers only":   {"HTTP/1.1 102 Processing\r\n\r\n", get},
		"silence after 1 MiB":    {"", func() *exchange.Exchange { return post(make([]byte, 1<<20)) }},
		"silence after a little": {"", func() *exchange.Exchange { return post(make([]byte, 1<<10)) }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := serve(t, "tcp", func(c net.Conn) {
				io.WriteString(c, test.answer)
				io.Copy(io.Discard, c)
			})
			tr := s.transport(t, TransportOptions{ResponseTimeout: 50 * time.Millisecond})
			f := asFailure(t, tr.Do(t.Context(), test.x(), newNotes(t)), OpTimeout)
			if !f.Sent || f.Begun {
				t.Errorf("%+v", f)
			}
		})
	}
}

// The limit is for the head; a stream may take as long as it likes, and so may
// the next exchange on the connection.
func TestResponseTimeoutEndsWithTheHead(t *testing.T) {
	for _, length := range []int{0, 1 << 20} {
		steady.WithLimit(t, 60*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
			s := serve(t, "tcp", answeringSlowly(3*limit))
			tr := s.transport(t, TransportOptions{ResponseTimeout: limit})
			for range 2 {
				x := post(make([]byte, length))
				if err := tr.Do(t.Context(), x, newNotes(t)); err != nil {
					t.Errorf("with a body of %d bytes: %v", length, err)
				}
			}
			if n := s.accepted.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
		})
	}
}

// An answer may begin before the upload is over, whose end then starts no clock.
func TestResponseTimeoutIsNotForABodyThatFollowsTheHead(t *testing.T) {
	const limit = 50 * time.Millisecond
	s := serve(t, "tcp", func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
		io.Copy(io.Discard, r.Body)
		time.Sleep(3 * limit) // the thing under test is a clock of the kernel's poller
		io.WriteString(c, "!")
		io.Copy(io.Discard, in)
	})
	body, client := io.Pipe()
	x, sink := post(nil), newNotes(t)
	x.Length, x.Body = -1, body
	sink.onHead = func() { go client.Close() }
	if err := s.transport(t, TransportOptions{ResponseTimeout: limit}).Do(t.Context(), x, sink); err != nil {
		t.Error(err)
	}
}

// answeringSlowly answers with a head at once and the body after a pause.
func answeringSlowly(pause time.Duration) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			io.Copy(io.Discard, r.Body)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n")
			time.Sleep(pause) // the thing under test is a clock of the kernel's poller
			io.WriteString(c, "!")
		}
	}
}
