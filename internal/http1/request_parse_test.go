package http1

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"stoker/internal/http1/rawcases"
)

// requestWhole parses raw as one piece; the head is shown as text, for comparing.
func requestWhole(raw string) (head string, n int, err error) {
	var h RequestHead
	n, err = ParseRequest([]byte(raw), 0, &h)
	return showRequest(&h, n, err), n, err
}

// requestCut parses raw as it would arrive in two pieces.
func requestCut(raw string, cut int) (head string, n int, err error) {
	var h RequestHead
	if n, err = ParseRequest([]byte(raw[:cut]), 0, &h); n == 0 && err == nil {
		n, err = ParseRequest([]byte(raw), cut, &h)
	}
	return showRequest(&h, n, err), n, err
}

// requestBytewise parses raw as it would arrive one byte at a time.
func requestBytewise(raw string) (head string, n int, err error) {
	var h RequestHead
	p := []byte(raw)
	for i := 0; i <= len(p) && n == 0 && err == nil; i++ {
		n, err = ParseRequest(p[:i], max(i-1, 0), &h)
	}
	return showRequest(&h, n, err), n, err
}

func showRequest(h *RequestHead, n int, err error) string {
	if n == 0 || err != nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %d %s %d", h.Method, h.Target, h.Authority, h.Proto, [...]string{"none", "sized", "chunks"}[h.Framing], h.Length)
	if h.Close {
		b.WriteString(" close")
	}
	if h.Continue {
		b.WriteString(" continue")
	}
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " %s=%q", f.Name, f.Value)
	}
	return b.String()
}

const (
	line = "GET / HTTP/1.1\r\n"
	host = "Host: a\r\n"
	post = "POST / HTTP/1.1\r\nHost: a\r\n"
	end  = "\r\n"
)

// requests are heads that are taken, and as what.
var requests = []struct{ name, raw, want string }{
	{"plain", line + host + end, "GET / a 11 none 0"},
	{"an empty line before", "\r\n" + line + host + end, "GET / a 11 none 0"},
	{"path and query, byte for byte", "GET //a%2Fb/../%7e;x?q=%zz&&b=;?&'\"<>\\^`{|} HTTP/1.1\r\n" + host + end, "GET //a%2Fb/../%7e;x?q=%zz&&b=;?&'\"<>\\^`{|} a 11 none 0"},
	{"bytes beyond ASCII in the target", "GET /\xc3\xa4?\xff HTTP/1.1\r\n" + host + end, "GET /\xc3\xa4?\xff a 11 none 0"},
	{"a method of one's own", "M-SEARCH / HTTP/1.1\r\n" + host + end, "M-SEARCH / a 11 none 0"},
	{"a method in small letters is another", "get / HTTP/1.1\r\n" + host + end, "get / a 11 none 0"},
	{"fields in order, untouched", line + "x-A:\t 1 \t\r\nHost: a\r\nX-a: 2,3\r\nEmpty:\r\n_b: c\r\n" + end, `GET / a 11 none 0 x-A="1" X-a="2,3" Empty="" _b="c"`},
	{"obs-text in a value", line + host + "X: \xff\r\n" + end, `GET / a 11 none 0 X="\xff"`},
	{"a tab within a value", line + host + "X: a\tb\r\n" + end, `GET / a 11 none 0 X="a\tb"`},
	{"a colon in a value", line + host + "X: :a:\r\n" + end, `GET / a 11 none 0 X=":a:"`},
	{"host and port", line + "Host: example.com:8000\r\n" + end, "GET / example.com:8000 11 none 0"},
	{"Host in capitals", line + "HOST: A.Test\r\n" + end, "GET / A.Test 11 none 0"},
	{"IPv4", line + "Host: 127.0.0.1:0\r\n" + end, "GET / 127.0.0.1:0 11 none 0"},
	{"IPv6", line + "Host: [::1]\r\n" + end, "GET / [::1] 11 none 0"},
	{"IPv6 and port", line + "Host: [fe80::1]:65535\r\n" + end, "GET / [fe80::1]:65535 11 none 0"},
	{"a host with an underscore", line + "Host: a_b\r\n" + end, "GET / a_b 11 none 0"},
	{"absolute form", "GET http://b.test/x?y HTTP/1.1\r\nHost: b.test\r\n" + end, "GET /x?y b.test 11 none 0"},
	{"absolute form, other case", "GET HTTP://B.test/ HTTP/1.1\r\nHost: b.Test\r\n" + end, "GET / b.Test 11 none 0"},
	{"absolute form, no path", "GET http://b.test HTTP/1.1\r\nHost: b.test\r\n" + end, "GET / b.test 11 none 0"},
	{"absolute form, query alone", "GET https://b.test?x=1 HTTP/1.1\r\nHost: b.test\r\n" + end, "GET /?x=1 b.test 11 none 0"},
	{"absolute form in HTTP/1.0 without Host", "GET http://b.test:80/ HTTP/1.0\r\n" + end, "GET / b.test:80 10 none 0 close"},
	{"OPTIONS *", "OPTIONS * HTTP/1.1\r\n" + host + end, "OPTIONS * a 11 none 0"},
	{"OPTIONS of a server in absolute form", "OPTIONS http://b.test HTTP/1.1\r\nHost: b.test\r\n" + end, "OPTIONS * b.test 11 none 0"},
	{"CONNECT, for others to refuse", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n" + end, "CONNECT a:443 a:443 11 none 0 close"},
	{"TRACE, for others to refuse", "TRACE / HTTP/1.1\r\n" + host + end, "TRACE / a 11 none 0"},
	{"sized body", post + "Content-Length: 5\r\n" + end, "POST / a 11 sized 5"},
	{"empty body", post + "Content-Length: 0\r\n" + end, "POST / a 11 none 0"},
	{"length with zeros", post + "Content-Length: 005\r\n" + end, "POST / a 11 sized 5"},
	{"greatest length", post + "content-length: 999999999999999999\r\n" + end, "POST / a 11 sized 999999999999999999"},
	{"body of a GET", line + host + "Content-Length: 5\r\n" + end, "GET / a 11 sized 5"},
	{"chunked", post + "Transfer-Encoding: chunked\r\n" + end, "POST / a 11 chunks -1"},
	{"Chunked in capitals", post + "TRANSFER-ENCODING:ChunKed\r\n" + end, "POST / a 11 chunks -1"},
	{"trailers announced", post + "Transfer-Encoding: chunked\r\nTrailer: T\r\n" + end, `POST / a 11 chunks -1 Trailer="T"`},
	{"continue", post + "Expect: 100-Continue\r\nContent-Length: 1\r\n" + end, "POST / a 11 sized 1 continue"},
	{"continue without a body", post + "Expect: 100-continue\r\n" + end, "POST / a 11 none 0"},
	{"continue in HTTP/1.0", "POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n" + end, "POST /  10 sized 1 close"},
	{"close", line + host + "Connection: foo, CLOSE\r\n" + end, `GET / a 11 none 0 close Connection="foo, CLOSE"`},
	{"close in the second Connection", line + host + "Connection: keep-alive\r\nConnection: close\r\n" + end, `GET / a 11 none 0 close Connection="keep-alive" Connection="close"`},
	{"HTTP/1.0", "GET / HTTP/1.0\r\n" + end, "GET /  10 none 0 close"},
	{"HTTP/1.0 with an empty Host", "GET / HTTP/1.0\r\nHost:\r\n" + end, "GET /  10 none 0 close"},
	{"HTTP/1.0 kept", "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n" + end, `GET /  10 none 0 Connection="Keep-Alive"`},
	{"HTTP/1.0, both", "GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n" + end, `GET /  10 none 0 close Connection="keep-alive, close"`},
	{"100 fields", line + host + strings.Repeat("A:\r\n", 99) + end, "GET / a 11 none 0" + strings.Repeat(` A=""`, 99)},
	{"line of 16 KiB", "GET /" + strings.Repeat("x", MaxRequestLine-len("GET / HTTP/1.1\r\n")) + " HTTP/1.1\r\n" + host + end, "GET /" + strings.Repeat("x", MaxRequestLine-len("GET / HTTP/1.1\r\n")) + " a 11 none 0"},
	{"fields of 16 KiB", line + host + "X: " + strings.Repeat("x", MaxRequestSection-len(host+"X: \r\n")) + "\r\n" + end, `GET / a 11 none 0 X="` + strings.Repeat("x", MaxRequestSection-len(host+"X: \r\n")) + `"`},
}

func TestParseRequestTakes(t *testing.T) {
	for _, test := range requests {
		t.Run(test.name, func(t *testing.T) {
			raw := test.raw + "GET /next"
			for cut := range pieces(test.raw) {
				if got, n, err := requestCut(raw, cut); got != test.want || n != len(test.raw) || err != nil {
					t.Fatalf("cut at %d: got  %s, %d bytes, %v\nwant %s, %d bytes", cut, got, n, err, test.want, len(test.raw))
				}
			}
			if got, n, err := requestBytewise(raw); got != test.want || n != len(test.raw) || err != nil {
				t.Errorf("bytewise: got  %s, %d bytes, %v\nwant %s, %d bytes", got, n, err, test.want, len(test.raw))
			}
		})
	}
}

func TestParseRequestRefuses(t *testing.T) {
	for _, test := range rawcases.Refused {
		t.Run(test.Name, func(t *testing.T) {
			want := SyntaxError(test.Why)
			for cut := range pieces(test.Raw) {
				if _, n, err := requestCut(test.Raw, cut); !errors.Is(err, want) || n != 0 {
					t.Fatalf("cut at %d: got %d bytes, %v\nwant %v", cut, n, err, want)
				}
			}
			if _, n, err := requestBytewise(test.Raw); !errors.Is(err, want) || n != 0 {
				t.Errorf("bytewise: got %d bytes, %v\nwant %v", n, err, want)
			}
			if got := want.Status(); got != test.Status {
				t.Errorf("status %d, want %d", got, test.Status)
			}
		})
	}
}

// pieces are the places to cut raw at: all of them, but for the largest heads.
func pieces(raw string) map[int]bool {
	cuts := make(map[int]bool)
	for i := range len(raw) + 1 {
		if len(raw) < 2000 || i < 50 || len(raw)-i < 50 {
			cuts[i] = true
		}
	}
	return cuts
}

func TestParseRequestWantsMore(t *testing.T) {
	for _, test := range requests {
		for cut := range pieces(test.raw) {
			if cut == len(test.raw) {
				continue
			}
			if _, n, err := requestWhole(test.raw[:cut]); n != 0 || err != nil {
				t.Fatalf("%s: %d bytes of %q: %d, %v", test.name, cut, test.raw, n, err)
			}
		}
	}
}

func TestParseRequestReusesItsFields(t *testing.T) {
	var h RequestHead
	raw := []byte(line + host + "A: b\r\nC: d\r\n" + end)
	if _, err := ParseRequest(raw, 0, &h); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = ParseRequest(raw, 0, &h) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParseRequest(b *testing.B) {
	raw := []byte("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: OpenAI/Python 1.0\r\nAccept: application/json\r\n" +
		"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nContent-Type: application/json\r\nAuthorization: Bearer sk-0123456789\r\nContent-Length: 1024\r\n\r\n")
	var h RequestHead
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(raw, 0, &h); err != nil {
			b.Fatal(err)
		}
	}
}
