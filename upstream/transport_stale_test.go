package upstream

import (
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A connection closed while it was idle is replaced without a word.
func TestStaleIdleConnectionIsReplaced(t *testing.T) {
	for _, network := range transports {
		t.Run(network, func(t *testing.T) {
			closed := make(chan struct{})
			s := serve(t, network, func(c net.Conn) {
				afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)(c)
				c.Close()
				closed <- struct{}{}
			})
			tr := s.transport(t, TransportOptions{})
			for range 3 {
				if err := tr.Do(t.Context(), post([]byte("x")), newNotes(t)); err != nil {
					t.Fatal(err)
				}
				<-closed
			}
		})
	}
}

// A connection closed as the request was being written: whether that was read
// nobody knows, so the balancer must.
func TestStaleConnectionThatWasWrittenToIsReported(t *testing.T) {
	ok := "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	tests := map[string]struct {
		second string // the answer to the second request
		op     Op
	}{
		"nothing":     {"", OpStale},
		"half a head": {"HTTP/1.1 2", OpRead},
	}
	for _, network := range transports {
		for name, test := range tests {
			t.Run(network+"/"+name, func(t *testing.T) {
				s := serve(t, network, func(c net.Conn) {
					answers := []string{ok, test.second}
					answering(func(*http.Request, []byte) []byte {
						a := answers[0]
						answers = answers[1:]
						if len(answers) > 0 {
							return []byte(a)
						}
						io.WriteString(c, a)
						return nil
					})(c)
				})
				tr := s.transport(t, TransportOptions{})
				if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
					t.Fatal(err)
				}
				x := post([]byte("body"))
				f := asFailure(t, tr.Do(t.Context(), x, newNotes(t)), test.op)
				if again, _ := io.ReadAll(x.Body); !f.Sent || f.Begun || !f.Replayable || string(again) != "body" {
					t.Errorf("%+v, body %q", f, again)
				}
			})
		}
	}
}

// What came from the upstream behind its last answer must not become the next.
func TestUnsolicitedAnswerIsNotTaken(t *testing.T) {
	sent := make(chan struct{})
	s := serve(t, "unix", func(c net.Conn) {
		afterRequest("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false)(c)
		<-sent
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		sent <- struct{}{}
		io.Copy(io.Discard, c)
	})
	tr := s.transport(t, TransportOptions{})
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	sent <- struct{}{}
	<-sent
	sink := newNotes(t)
	go func() { sent <- struct{}{}; <-sent }() // the second connection
	if err := tr.Do(t.Context(), get(), sink); err != nil || sink.body.Len() > 0 {
		t.Errorf("second: %v, body %q", err, sink.body.String())
	}
	if n := s.accepted.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestIdleConnectionsAreBoundedAndPruned(t *testing.T) {
	open := make(chan int, 100)
	var together sync.WaitGroup // the first three
	together.Add(3)
	var asked atomic.Int64
	s := serve(t, "unix", func(c net.Conn) {
		open <- 1
		defer func() { open <- -1 }()
		answering(func(*http.Request, []byte) []byte {
			if asked.Add(1) <= 3 {
				together.Done()
				together.Wait()
			}
			return []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		})(c)
	})
	tr := s.transport(t, TransportOptions{MaxIdle: 2, IdleTimeout: 50 * time.Millisecond})
	done := make(chan error)
	for range 3 {
		go func() { done <- tr.Do(t.Context(), get(), newNotes(t)) }()
	}
	for range 3 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	// Each that was opened is closed by us without another exchange.
	for sum, n := 0, 0; n < 6; n++ {
		if sum += <-open; n == 5 && sum != 0 {
			t.Errorf("%d connections left open", sum)
		}
	}

	none := s.transport(t, TransportOptions{MaxIdle: -1})
	if err := none.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	if n := <-open + <-open; n != 0 {
		t.Errorf("kept a connection that it may not keep")
	}
}

func TestCloseClosesIdleConnectionsAndGoesOnServing(t *testing.T) {
	closed := make(chan struct{}, 2)
	s := serve(t, "tcp", func(c net.Conn) {
		answering(func(*http.Request, []byte) []byte { return []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") })(c)
		closed <- struct{}{}
	})
	tr := s.transport(t, TransportOptions{})
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Fatal(err)
	}
	tr.Close()
	<-closed
	if err := tr.Do(t.Context(), get(), newNotes(t)); err != nil {
		t.Errorf("after Close: %v", err)
	}
	<-closed
}
