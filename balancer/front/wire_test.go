package front_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1/rawcases"
)

// listener is an engine that says what it has been asked.
type listener struct {
	mu    sync.Mutex
	heard []string // whole requests
	conns int
}

// serve answers each request with its body.
func (l *listener) serve(c net.Conn) {
	l.mu.Lock()
	l.conns++
	l.mu.Unlock()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		text := fmt.Sprintf("%s %s %s %q", r.Method, r.RequestURI, r.Host, body)
		for _, name := range []string{"Connection", "Te", "Expect", "Upgrade", "X-A"} {
			if v := r.Header.Values(name); len(v) > 0 {
				text += fmt.Sprintf(" %s=%q", name, v)
			}
		}
		for name, v := range r.Trailer {
			text += fmt.Sprintf(" trailer %s=%q", name, v)
		}
		l.mu.Lock()
		l.heard = append(l.heard, text)
		l.mu.Unlock()
		if r.Method == http.MethodHead {
			body = nil
		}
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
}

// told takes what was heard since it was last asked.
func (l *listener) told() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	heard := l.heard
	l.heard = nil
	return heard
}

// writer writes a client's bytes in some manner.
type writer func(c net.Conn, raw string)

var writers = map[string]writer{
	"whole": func(c net.Conn, raw string) { _, _ = io.WriteString(c, raw) },
	"bytewise": func(c net.Conn, raw string) {
		for i := range len(raw) {
			if _, err := io.WriteString(c, raw[i:i+1]); err != nil {
				return // refused before its end
			}
		}
	},
}

// send writes while the test reads: a refusal may come, and the connection
// end, before all is written.
func (w writer) send(t *testing.T, c net.Conn, raw string) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w(c, raw)
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-done
	})
}

// over fails unless the connection ends.
func over(t *testing.T, in *bufio.Reader) {
	t.Helper()
	if b, err := in.ReadByte(); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on: %q, %v", b, err)
	}
}

// reply is what came of an answer whose body has been read.
type reply struct{ *http.Response }

// What is no request is answered, as JSON; the connection ends; the engine never
// hears of it, whatever comes before or behind it, in one piece or in many.
func TestNoRequestReachesTheEngine(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	const good = "GET /good HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, tc := range rawcases.Refused {
		for _, before := range []int{0, 1} {
			for how, write := range writers {
				if how == "bytewise" && len(tc.Raw) > 2000 {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s, after %d", tc.Name, how, before), func(t *testing.T) {
					c, in := m.dial(t)
					write.send(t, c, strings.Repeat(good, before)+tc.Raw+good)
					for range before {
						status(t, in, http.StatusOK)
					}
					r, body := status(t, in, tc.Status)
					if !r.Close || r.Header.Get("Content-Type") != "application/json" || !strings.Contains(body, `"message":"`+tc.Why+`","type":"bad_request"`) {
						t.Errorf("close %v, %s %s, want %s", r.Close, r.Header.Get("Content-Type"), body, tc.Why)
					}
					over(t, in)
					if heard := engine.told(); len(heard) != before {
						t.Errorf("the engine was told %q", heard)
					}
				})
			}
		}
	}
	if !m.member.Ready() {
		t.Error("the member was blamed")
	}
}

// status reads a whole answer.
func status(t *testing.T, in *bufio.Reader, want int) (reply, string) {
	t.Helper()
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != want {
		t.Fatalf("status %d, %q, %v, want %d", r.StatusCode, body, err, want)
	}
	return reply{r}, string(body)
}

// Bodies that are none: the engine never gets to see a whole request, and where
// the mistake comes together with the head, nothing at all.
func TestNoBodyReachesTheEngineWhole(t *testing.T) {
	var engine listener
	m := startRecorded(t, engine.serve)
	const head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, body := range map[string]string{
		"no number":                  "xyz\r\nabc\r\n0\r\n\r\n",
		"empty size":                 "\r\n0\r\n\r\n",
		"a sign":                     "+3\r\nabc\r\n0\r\n\r\n",
		"a minus":                    "-3\r\nabc\r\n0\r\n\r\n",
		"0x":                         "0x3\r\nabc\r\n0\r\n\r\n",
		"a space before the size":    " 3\r\nabc\r\n0\r\n\r\n",
		"a space after the size":     "3 \r\nabc\r\n0\r\n\r\n",
		"a space before a semicolon": "3 ;a=b\r\nabc\r\n0\r\n\r\n",
		"an underscore":              "1_0\r\nabc\r\n0\r\n\r\n",
		"overflow of 64 bits":        "10000000000000003\r\nabc\r\n0\r\n\r\n",
		"sixteen digits":             "0000000000000003\r\nabc\r\n0\r\n\r\n",
		"bare LF after the size":     "3\nabc\r\n0\r\n\r\n",
		"bare CR after the size":     "3\rabc\r\n0\r\n\r\n",
		"bare LF after the data":     "3\r\nabc\n0\r\n\r\n",
		"too much data":              "3\r\nabcd\r\n0\r\n\r\n",
		"too little data":            "3\r\nab\r\n0\r\n\r\n",
		"no line end after data":     "3\r\nabc0\r\n\r\n",
		"bare LF in an extension":    "3;a\nb\r\nabc\r\n0\r\n\r\n",
		"NUL in an extension":        "3;\x00\r\nabc\r\n0\r\n\r\n",
		"a long extension":           "3;" + strings.Repeat("a", 2000) + "\r\nabc\r\n0\r\n\r\n",
		"bare LF at the end":         "3\r\nabc\r\n0\r\n\n",
		"a trailer without colon":    "3\r\nabc\r\n0\r\nx\r\n\r\n",
		"a folded trailer":           "3\r\nabc\r\n0\r\nx: a\r\n b\r\n\r\n",
		"a trailer with NUL":         "3\r\nabc\r\n0\r\nx: \x00\r\n\r\n",
		"129 trailers":               "3\r\nabc\r\n0\r\n" + strings.Repeat("x:\r\n", 129) + "\r\n",
	} {
		for how, write := range writers {
			t.Run(name+", "+how, func(t *testing.T) {
				c, in := m.dial(t)
				write.send(t, c, head+body+"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
				if r, text := status(t, in, http.StatusBadRequest); !r.Close || !strings.Contains(text, `"code":"bad_body"`) {
					t.Errorf("close %v, %s", r.Close, text)
				}
				over(t, in)
				if heard := engine.told(); len(heard) != 0 {
					t.Errorf("the engine was told %q", heard)
				}
				if rec := m.record(t); how == "whole" && rec.Attempts != 0 || rec.Outcome != exchange.OutcomeClientError {
					t.Errorf("record %+v", rec)
				}
			})
		}
	}
	if !m.member.Ready() {
		t.Error("the member was blamed")
	}
}

// What is a request reaches the engine as what we understood; alone, thrice in
// one piece, and byte by byte.
func TestRequestsReachTheEngine(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	const post = "POST /p?q=%zz HTTP/1.1\r\nHost: a\r\n"
	large := strings.Repeat("0123456789abcdef", 8192)
	for _, tc := range []struct {
		name, raw, heard, body string
		ends                   bool
	}{
		{"plain", "GET //a%2F../? HTTP/1.1\r\nHost: A.test:1\r\n\r\n", `GET //a%2F../? A.test:1 ""`, "", false},
		{"an empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", `GET / a ""`, "", false},
		{"absolute form", "GET http://a/x?y HTTP/1.1\r\nHost: a\r\n\r\n", `GET /x?y a ""`, "", false},
		{"sized", post + "Content-Length: 3\r\n\r\nabc", `POST /p?q=%zz a "abc"`, "abc", false},
		{"sized, as a request", post + "Content-Length: 27\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n", `POST /p?q=%zz a "GET / HTTP/1.1\r\nHost: b\r\n\r\n"`, "GET / HTTP/1.1\r\nHost: b\r\n\r\n", false},
		{"chunked", post + "Transfer-Encoding: chunked\r\n\r\n1;x=y\r\na\r\n00002\r\nbc\r\n0\r\n\r\n", `POST /p?q=%zz a "abc"`, "abc", false},
		{"chunked, capital digits", post + "Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", `POST /p?q=%zz a "0123456789"`, "0123456789", false},
		{"trailers", post + "Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n1\r\na\r\n0\r\nX-T: 1\r\nContent-Length: 5\r\n\r\n", `POST /p?q=%zz a "a" trailer X-T=["1"]`, "a", false},
		{"trailers that say whose the request is", post + "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nx-real-ip: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nX-Request-Id: x\r\nTraceparent: x\r\nProxy: x\r\nX-T: 1\r\n\r\n", `POST /p?q=%zz a "a" trailer X-T=["1"]`, "a", false},
		{"connection's own fields", "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-A, te\r\nTE: trailers\r\nX-A: 1\r\nUpgrade: h2c\r\n\r\n", `GET / a ""`, "", false},
		{"HEAD", "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", `HEAD / a ""`, "", false},
		{"close", "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", `GET / a ""`, "", true},
		{"HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\n\r\n", `GET / a ""`, "", true},
		{"HTTP/1.0, kept", "GET / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", `GET / a ""`, "", false},
		{"large, sized", post + "Content-Length: 131072\r\n\r\n" + large, fmt.Sprintf("POST /p?q=%%zz a %q", large), large, false},
		{"large, chunked", post + "Transfer-Encoding: chunked\r\n\r\n20000\r\n" + large + "\r\n0\r\n\r\n", fmt.Sprintf("POST /p?q=%%zz a %q", large), large, false},
	} {
		for how, write := range writers {
			for _, times := range []int{1, 3} {
				if how == "bytewise" && len(tc.raw) > 2000 || times > 1 && tc.ends {
					continue
				}
				t.Run(fmt.Sprintf("%s, %s, %d times", tc.name, how, times), func(t *testing.T) {
					c, in := m.dial(t)
					write.send(t, c, strings.Repeat(tc.raw, times))
					for range times {
						r, err := http.ReadResponse(in, &http.Request{Method: strings.Fields(tc.raw)[0]})
						if err != nil {
							t.Fatal(err)
						}
						body, err := io.ReadAll(r.Body)
						_ = r.Body.Close()
						if err != nil || r.StatusCode != http.StatusOK || string(body) != tc.body {
							t.Fatalf("%d, %d bytes, %v", r.StatusCode, len(body), err)
						}
					}
					if tc.ends {
						over(t, in)
					}
					if heard, want := engine.told(), slices.Repeat([]string{tc.heard}, times); !slices.Equal(heard, want) {
						t.Errorf("the engine was told %.300q\nwant %.300q", heard, want)
					}
				})
			}
		}
	}
}

// Who reads only after having written everything gets to know why it was refused:
// a reset in the middle of its upload would be all that it sees.
func TestWhoWritesAllFirstReadsItsRefusal(t *testing.T) {
	m := start(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
		}
	})
	const length = 40 << 20 // far more than sockets hold
	for _, tc := range []struct {
		name, head string
		status     int
	}{
		{"by the engine", fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", length), http.StatusUnauthorized},
		{"by us", fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n", length), http.StatusBadRequest},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, in := m.dial(t)
			_, _ = io.WriteString(c, tc.head)
			piece := make([]byte, 1<<20)
			for sent := 0; sent < length; sent += len(piece) {
				if _, err := c.Write(piece); err != nil {
					t.Fatalf("after %d bytes: %v", sent, err)
				}
			}
			status(t, in, tc.status)
			over(t, in)
		})
	}
}

// CONNECT and TRACE are understood, and not served.
func TestMethodsThatAreNotServed(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	for _, tc := range []struct {
		raw   string
		close bool
	}{
		{"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", false},
		{"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", true},
	} {
		c, in := m.dial(t)
		_, _ = io.WriteString(c, tc.raw)
		if r, body := status(t, in, http.StatusNotImplemented); r.Close != tc.close || !strings.Contains(body, "method_not_supported") {
			t.Errorf("close %v, %s", r.Close, body)
		}
		if tc.close {
			over(t, in)
		}
	}
	if heard := engine.told(); len(heard) != 0 || engine.conns != 0 {
		t.Errorf("the engine was told %q", heard)
	}
}

// A body that is asked for comes at once; one that nobody wants is not asked for.
func TestExpectContinueThroughTheMachine(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	for _, framing := range []struct{ field, body string }{
		{"Content-Length: 3", "abc"},
		{"Content-Length: 100000", strings.Repeat("x", 100000)},
		{"Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n"},
	} {
		c, in := m.dial(t)
		for range 2 {
			began := time.Now()
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n%s\r\n\r\n", framing.field)
			status(t, in, http.StatusContinue)
			_, _ = io.WriteString(c, framing.body)
			status(t, in, http.StatusOK)
			if took := time.Since(began); took > patience/2 {
				t.Errorf("%s: took %v", framing.field, took)
			}
		}
		for _, heard := range engine.told() {
			if strings.Contains(heard, "Expect") {
				t.Errorf("the engine was told %q", heard)
			}
		}
	}
	m.pool.Close()
	c, in := m.dial(t)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
	if r, _ := status(t, in, http.StatusServiceUnavailable); !r.Close {
		t.Error("the connection is said to go on, and nobody knows whether the body comes")
	}
}

// An engine that answers before a large body has come ends the client's
// connection, since the rest may be sent or not; and the client is told so.
func TestEarlyAnswersEndConnectionsOpenly(t *testing.T) {
	m := start(t, func(c net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
			_, _ = io.WriteString(c, "HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
			_, _ = io.Copy(io.Discard, c)
		}
	})
	for framing, begun := range map[string]string{
		"Content-Length: 2000000":    strings.Repeat("x", 100000),
		"Transfer-Encoding: chunked": "1\r\nx\r\n",
	} {
		t.Run(framing, func(t *testing.T) {
			c, in := m.dial(t)
			fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n%s", framing, begun)
			if r, _ := status(t, in, http.StatusUnauthorized); !r.Close {
				t.Error("the client is not told that its connection ends")
			}
			over(t, in)
		})
	}
}
