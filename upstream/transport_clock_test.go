package upstream

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// An answer in one piece has ended when it began, as far as anybody wants to know the
// time; of one that goes on the end is when that came.
func TestTimeOfAnAnswersEnd(t *testing.T) {
	cases := map[string]struct {
		first, rest string
	}{
		"sized, in one piece": {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", ""},
		"sized, in two":       {"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo", "dy"},
		"chunked, in one":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", ""},
		"chunked, in two":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n", "0\r\n\r\n"},
		"until close, in two": {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbo", "dy"},
		"no body":             {"HTTP/1.1 204 No Content\r\n\r\n", ""},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			goOn := make(chan struct{})
			s := serve(t, "tcp", func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, c.first)
				if c.rest != "" {
					<-goOn
					_, _ = io.WriteString(conn, c.rest)
				}
			})
			x, n := get(), newNotes(t)
			var waited time.Time
			n.onHead = func() { x.Record.FirstByte = time.Now() }
			n.onFlush = func() {
				if waited.IsZero() && c.rest != "" {
					waited = time.Now()
					close(goOn)
				}
			}
			tr := s.transport(t, TransportOptions{})
			if err := tr.Do(context.Background(), x, n); err != nil {
				t.Fatal(err)
			}
			switch end := x.Record.Now(); {
			case c.rest == "" && !end.Equal(x.Record.FirstByte):
				t.Errorf("in one piece, and it ended %v after it began", end.Sub(x.Record.FirstByte))
			case c.rest != "" && (waited.IsZero() || end.Before(waited)):
				t.Errorf("it ended %v before the rest came", waited.Sub(end))
			}
		})
	}
}
