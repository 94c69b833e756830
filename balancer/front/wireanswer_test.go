package front_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1/rawcases"
)

// liar answers one request of each connection with what it is given, and other
// requests well. It notes what comes over a connection that should be closed.
type liar struct {
	mu     sync.Mutex
	raw    string
	how    writer
	ends   bool // the connection ends behind raw
	misled []string
}

func (l *liar) say(raw string, how writer, ends bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.raw, l.how, l.ends = raw, how, ends
}

func (l *liar) serve(c net.Conn) {
	in, lied := bufio.NewReader(c), false
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		l.mu.Lock()
		raw, how, ends := l.raw, l.how, l.ends
		if lied {
			l.misled = append(l.misled, r.URL.Path)
		}
		l.mu.Unlock()
		if r.URL.Path != "/lie" {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntruth")
			continue
		}
		lied = true
		how(c, raw)
		if ends {
			return
		}
	}
}

// A malformed answer becomes a 502, of which the client's connection knows
// nothing; it is the worker's fault; and nobody uses the worker's connection again.
func TestNoAnswerReachesTheClient(t *testing.T) {
	var engine liar
	m := start(t, engine.serve)
	for _, tc := range rawcases.NoAnswers {
		for how, write := range writers {
			if how == "bytewise" && len(tc.Raw) > 2000 {
				continue
			}
			t.Run(tc.Name+", "+how, func(t *testing.T) {
				engine.say(tc.Raw, write, false)
				c, in := m.dial(t)
				for range 2 {
					fmt.Fprintf(c, "POST /lie HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
					if r, body := status(t, in, http.StatusBadGateway); !strings.Contains(body, `"code":"malformed_answer"`) || r.Close {
						t.Errorf("close %v, %s", r.Close, body)
					}
					if rec := m.record(t); rec.Outcome != exchange.OutcomeUpstreamError || !strings.Contains(rec.Err.Error(), tc.Why) || rec.Attempts != 1 {
						t.Errorf("record %+v, want %s", rec, tc.Why)
					}
					engine.check(t, m, c, in)
				}
			})
		}
	}
}

// check asks for the truth, over the same connection of the client's.
func (l *liar) check(t *testing.T, m *machine, c net.Conn, in *bufio.Reader) {
	t.Helper()
	_, _ = io.WriteString(c, "GET /truth HTTP/1.1\r\nHost: a\r\n\r\n")
	if _, body := status(t, in, http.StatusOK); body != "truth" {
		t.Errorf("got %q", body)
	}
	m.record(t)
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.misled) > 0 {
		t.Errorf("over a connection that had gone wrong came %q", l.misled)
	}
}

// An answer that goes wrong once it has begun breaks off at the client, however it goes wrong.
func TestHalfAnAnswerReachesTheClientBroken(t *testing.T) {
	var engine liar
	m := start(t, engine.serve)
	for _, tc := range rawcases.HalfAnswers {
		for how, write := range writers {
			for _, version := range []string{"1.0", "1.1", "2"} {
				t.Run(tc.Name+", "+how+", HTTP/"+version, func(t *testing.T) {
					engine.say(tc.Raw, write, tc.Why == "")
					m.readBroken(t, version)
					if rec := m.record(t); rec.Status != 200 && rec.Status != 502 || tc.Why != "" && !strings.Contains(rec.Err.Error(), tc.Why) {
						t.Errorf("record %+v", rec)
					}
					c, in := m.dial(t)
					engine.check(t, m, c, in)
				})
			}
		}
	}
}

// readBroken fails if the lie looks like a whole answer.
func (m *machine) readBroken(t *testing.T, version string) {
	t.Helper()
	if version == "2" {
		r, err := http2Client(t).Get("http://" + m.addr + "/lie")
		if err != nil {
			return
		}
		defer r.Body.Close()
		if body, err := io.ReadAll(r.Body); err == nil && r.StatusCode == http.StatusOK {
			t.Errorf("%q, and a clean end", body)
		}
		return
	}
	c, in := m.dial(t)
	fmt.Fprintf(c, "GET /lie HTTP/%s\r\nHost: a\r\n\r\n", version)
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return // broken before its head, if all came at once
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); err == nil && r.StatusCode == http.StatusOK {
		t.Errorf("%q, and a clean end", body)
	}
	over(t, in)
}

// Bytes that come with a whole answer, behind it, are no other request's answer.
// Those that come later, when the next request may have been written, nobody
// can tell from one.
func TestAnswersThatNobodyAskedFor(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
	var engine liar
	m := start(t, engine.serve)
	for name, raw := range map[string]string{
		"a second answer":         answer + "one" + answer + "two",
		"a byte more":             answer + "onex",
		"after 204":               "HTTP/1.1 204 No Content\r\n\r\n" + answer + "two",
		"a body that 204 has not": "HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nHTT",
		"after chunks":            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n0\r\n\r\n" + answer + "two",
		"after an early hint":     "HTTP/1.1 103 Early Hints\r\n\r\n" + answer + "one" + "HTTP/1.1 103 Early Hints\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			engine.say(raw, writers["whole"], false)
			c, in := m.dial(t)
			for range 20 {
				_, _ = io.WriteString(c, "GET /lie HTTP/1.1\r\nHost: a\r\n\r\n")
				r, err := http.ReadResponse(in, nil)
				if err == nil && r.StatusCode == http.StatusEarlyHints {
					r, err = http.ReadResponse(in, nil)
				}
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if err != nil || r.StatusCode >= 300 || len(body) > 0 && string(body) != "one" {
					t.Fatalf("%d %q, %v", r.StatusCode, body, err)
				}
				m.record(t)
			}
			_, _ = io.WriteString(c, "GET /truth HTTP/1.1\r\nHost: a\r\n\r\n")
			if _, body := status(t, in, http.StatusOK); body != "truth" {
				t.Errorf("got %q", body)
			}
			m.record(t)
		})
	}
}
