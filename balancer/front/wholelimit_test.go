package front_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"stoker/balancer"
	"stoker/exchange"
)

// A body that is too large is refused before an engine is asked, if it says how
// large it is, and else when the limit has been passed; nobody is blamed.
func TestBodiesThatAreTooLarge(t *testing.T) {
	const most = 100 << 10
	whole, broken := make(chan int, 100), make(chan int, 100)
	m := start(t, func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, r.Body)
			if err != nil {
				broken <- int(n)
				return
			}
			whole <- int(n)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	})
	if err := m.balancer.Update(balancer.Options{Pools: []balancer.Pool{balancer.Over(m.pool)}, MaxBody: most}); err != nil {
		t.Fatal(err)
	}
	chunks := func(n int) string { return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", n, strings.Repeat("x", n)) }
	for _, tc := range []struct {
		name, fields, body string
		status             int
		reaches            bool // the engine
	}{
		{"as large as may be", fmt.Sprintf("Content-Length: %d\r\n", most), strings.Repeat("x", most), 200, true},
		{"a byte more", fmt.Sprintf("Content-Length: %d\r\n", most+1), strings.Repeat("x", most+1), 413, false},
		{"far more, body not sent yet", "Content-Length: 1000000000000\r\n", "", 413, false},
		{"far more, asked first", "Content-Length: 1000000000000\r\nExpect: 100-continue\r\n", "", 413, false},
		{"chunked, as large as may be", "Transfer-Encoding: chunked\r\n", chunks(most), 200, true},
		{"chunked, a byte more", "Transfer-Encoding: chunked\r\n", chunks(most + 1), 413, false},
		{"chunked, a size that nobody waits for", "Transfer-Encoding: chunked\r\n", "fffffffffffffff\r\nx", 413, false},
		{"chunked, a size that nobody waits for, later", "Transfer-Encoding: chunked\r\n", strings.Repeat("1\r\nx\r\n", 8000) + "fffffffffffffff\r\nx", 413, true},
		{"chunked, more and more", "Transfer-Encoding: chunked\r\n", strings.Repeat("400\r\n"+strings.Repeat("x", 1024)+"\r\n", 200), 413, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, in := m.dial(t)
			writers["whole"].send(t, c, "POST / HTTP/1.1\r\nHost: a\r\n"+tc.fields+"\r\n"+tc.body)
			r, body := status(t, in, tc.status)
			rec := m.record(t)
			if tc.status == http.StatusOK {
				if n := <-whole; n != most || rec.Outcome != exchange.OutcomeOK {
					t.Errorf("%d bytes at the engine, %s", n, rec.Outcome)
				}
				return
			}
			if !strings.Contains(body, `"code":"body_too_large"`) || rec.Outcome != exchange.OutcomeClientError {
				t.Errorf("%s, %s", body, rec.Outcome)
			}
			if !r.Close && tc.name != "a byte more" { // of which the rest is read, since it is little
				t.Error("the connection goes on")
			}
			if tc.reaches {
				if n := <-broken; n > most {
					t.Errorf("%d bytes at the engine", n)
				}
			}
			if len(whole)+len(broken) > 0 || rec.Attempts > 0 != tc.reaches {
				t.Errorf("the engine was asked; %d attempts", rec.Attempts)
			}
			if s := m.pool.Stats(); !s.Members[0].Ready || s.Members[0].Breaker != "closed" {
				t.Errorf("blamed: %+v", s.Members[0])
			}
		})
	}
	t.Run("chunked, a size that nobody waits for, later", func(t *testing.T) {
		c, in := m.dial(t)
		for _, piece := range []string{"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\nffffff", "fffffffff\r\n"} {
			_, _ = io.WriteString(c, piece) // how they are cut does not matter
		}
		if r, body := status(t, in, http.StatusRequestEntityTooLarge); !r.Close || !strings.Contains(body, `"code":"body_too_large"`) {
			t.Errorf("close %v, %s", r.Close, body)
		}
		if m.record(t); len(whole) > 0 {
			t.Error("the engine took it for a request")
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", most+1)), io.MultiReader(strings.NewReader(strings.Repeat("x", 2*most)))} {
			r, err := http2Client(t).Post("http://"+m.addr, "text/plain", body)
			if err != nil {
				t.Fatal(err)
			}
			if text, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), "body_too_large") {
				t.Errorf("%d %s", r.StatusCode, text)
			}
			_ = r.Body.Close()
		}
	})
}
