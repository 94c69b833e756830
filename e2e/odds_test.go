//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestOddsAndEnds sends raw bytes that real clients send, if seldom, and
// compares the raw answer.
func TestOddsAndEnds(t *testing.T) {
	m := start(t, fakePool(1)).ready()
	const end = "\r\n\r\n"
	for _, c := range []struct {
		name string
		send string
		want string // a pattern of all that comes back until the connection closes or is silent
		not  string
	}{
		{name: "HEAD has no body", send: "HEAD /work HTTP/1.1\r\nHost: x\r\nConnection: close" + end, want: `^HTTP/1\.1 200 OK\r\n(?s:.*)\r\n\r\n$`, not: "every byte"},
		{name: "HTTP/1.0", send: "GET /work HTTP/1.0\r\n" + end[2:], want: `^HTTP/1\.[01] 200 OK\r\n(?s:.*)every byte of this counts; $`, not: "(?i)chunked"},
		{name: "pipelined", send: strings.Repeat("GET /work HTTP/1.1\r\nHost: x"+end, 3) + "GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close" + end, want: `^(?s:HTTP/1\.1 200.*?every byte.*?){3}HTTP/1\.1 404`},
		{name: "expect 100-continue", send: "POST /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\nConnection: close" + end + "hi", want: `^HTTP/1\.1 100 Continue\r\n(?s:.*)HTTP/1\.1 200 OK\r\n(?s:.*)true`},
		{name: "chunked upload with extension and trailer", send: "POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nConnection: close" + end + "3;ext=1\r\nabc\r\n0\r\nX-Sum: 1" + end, want: `^HTTP/1\.1 200 OK\r\n(?s:.*)true`},
		{name: "absolute form", send: "GET http://example.com/head HTTP/1.1\r\nHost: example.com\r\nConnection: close" + end, want: `(?s:^HTTP/1\.1 200 OK.*"host":"example\.com".*"target":"/head")`},
		{name: "OPTIONS *", send: "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close" + end, want: `^HTTP/1\.1 [245]`},
		{name: "long query", send: "GET /head?q=" + strings.Repeat("a", 7000) + " HTTP/1.1\r\nHost: x\r\nConnection: close" + end, want: `(?s:^HTTP/1\.1 200 OK.*"target":"/head\?q=a{1000})`},
		{name: "two lengths", send: "POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4" + end + "abcd", want: `^HTTP/1\.1 400 `},
		{name: "no host", send: "GET /work HTTP/1.1" + end, want: `^HTTP/1\.1 400 `},
		{name: "bad chunk", send: "POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked" + end + "zz\r\nabc\r\n0" + end, want: `^HTTP/1\.1 400 `},
		{name: "CONNECT", send: "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\nConnection: close" + end, want: `^HTTP/1\.1 (400|405|501) `},
		{name: "not HTTP", send: "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", want: `^HTTP/1\.1 400 `},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", m.address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.WriteString(conn, c.send); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(conn)
			if err != nil {
				t.Errorf("the connection was not closed cleanly: %v", err)
			}
			if !regexp.MustCompile(c.want).Match(got) {
				t.Errorf("got %.600q, want %s", got, c.want)
			}
			if c.not != "" && regexp.MustCompile(c.not).Match(got) {
				t.Errorf("got %.600q, with %s in it", got, c.not)
			}
		})
	}
	if w := m.workers()[0]; w.State != "ready" || w.Restarts != 0 || fmt.Sprint(m.metric("stoker_worker_restarts_total")) != "0" {
		t.Errorf("the worker was blamed for what clients did: %+v", w)
	}
	m.stop()
}
