package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"stoker/internal/http1/rawcases"
)

// parseWhole parses raw as one piece; the head is shown as text, for comparing.
func parseWhole(raw, method string) (head string, n int, err error) {
	var h ResponseHead
	n, err = ParseResponse([]byte(raw), 0, method, &h)
	return show(&h, n, err), n, err
}

// parseBytewise parses raw as it would arrive one byte at a time.
func parseBytewise(raw, method string) (head string, n int, err error) {
	var h ResponseHead
	p := []byte(raw)
	for i := range len(p) + 1 {
		n, err = ParseResponse(p[:i], max(i-1, 0), method, &h)
		if n > 0 || err != nil {
			break
		}
	}
	return show(&h, n, err), n, err
}

func show(h *ResponseHead, n int, err error) string {
	if n == 0 || err != nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d %d %q %s %d", h.Proto, h.Status, h.Reason, [...]string{"none", "sized", "chunks", "until close"}[h.Framing], h.Length)
	if h.Close {
		b.WriteString(" close")
	}
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " %s=%q", f.Name, f.Value)
	}
	return b.String()
}

// answers are heads that are taken, and as what.
var answers = []struct{ name, method, raw, want string }{
	{"sized", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", `11 200 "OK" sized 5`},
	{"fields in order, untouched", "GET", "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nx-A:\t 1 \t\r\nX-a: 2,3\r\nEmpty:\r\nContent-Length: 0\r\n\r\n", `11 200 "OK" sized 0 Server="uvicorn" x-A="1" X-a="2,3" Empty=""`},
	{"no reason", "GET", "HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", `11 200 "" sized 0`},
	{"no space before no reason", "GET", "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", `11 200 "" sized 0`},
	{"long reason", "GET", "HTTP/1.1 404 Not Found at \xe9\r\nContent-Length: 0\r\n\r\n", `11 404 "Not Found at \xe9" sized 0`},
	{"obs-text in a value", "GET", "HTTP/1.1 200 OK\r\nX: \xff\r\nContent-Length: 0\r\n\r\n", `11 200 "OK" sized 0 X="\xff"`},
	{"chunked", "GET", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", `11 200 "OK" chunks -1`},
	{"Chunked in capitals", "GET", "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING: ChunKed\r\n\r\n", `11 200 "OK" chunks -1`},
	{"until close", "GET", "HTTP/1.1 200 OK\r\n\r\n", `11 200 "OK" until close -1 close`},
	{"HTTP/1.0 until close", "GET", "HTTP/1.0 200 OK\r\n\r\n", `10 200 "OK" until close -1 close`},
	{"HTTP/1.0 is not kept", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\n", `10 200 "OK" sized 1 close`},
	{"Connection: close", "GET", "HTTP/1.1 200 OK\r\nConnection: foo, CLOSE\r\nContent-Length: 1\r\n\r\n", `11 200 "OK" sized 1 close`},
	{"close in the second Connection", "GET", "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", `11 200 "OK" sized 1 close`},
	{"agreeing lengths", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", `11 200 "OK" sized 5`},
	{"length with zeros", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 005\r\n\r\n", `11 200 "OK" sized 5`},
	{"greatest length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 999999999999999999\r\n\r\n", `11 200 "OK" sized 999999999999999999`},
	{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", `11 200 "OK" none 5 close`},
	{"HEAD of nothing", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", `11 200 "OK" none 0`},
	{"HEAD without length", "HEAD", "HTTP/1.1 200 OK\r\n\r\n", `11 200 "OK" none -1`},
	{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", `11 200 "OK" none -1 close`},
	{"304", "GET", "HTTP/1.1 304 Not Modified\r\n\r\n", `11 304 "Not Modified" none -1`},
	{"304 that may send a body", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", `11 304 "Not Modified" none 5 close`},
	{"204", "GET", "HTTP/1.1 204 No Content\r\n\r\n", `11 204 "No Content" none -1`},
	{"204 with a length of 0", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", `11 204 "No Content" none 0`},
	{"204 that may send a body", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", `11 204 "No Content" none 5 close`},
	{"204 that may send chunks", "GET", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", `11 204 "No Content" none -1 close`},
	{"100", "POST", "HTTP/1.1 100 Continue\r\n\r\n", `11 100 "Continue" none -1`},
	{"103", "GET", "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", `11 103 "Early Hints" none -1 Link="</x>"`},
	{"599", "GET", "HTTP/1.1 599 \r\nContent-Length: 0\r\n\r\n", `11 599 "" sized 0`},
	{"hop-by-hop fields", "GET", "HTTP/1.1 200 OK\r\nConnection: X-Mine\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\nTrailer: T\r\nContent-Length: 0\r\n\r\n", `11 200 "OK" sized 0 Trailer="T"`},
	{"128 fields", "GET", "HTTP/1.1 200 OK\r\n" + strings.Repeat("Connection: a\r\n", 127) + "Content-Length: 0\r\n\r\n", `11 200 "OK" sized 0`},
	{"64 KiB to the byte", "GET", filledHead(), `11 200 "OK" sized 0`},
}

func filledHead() string {
	const head, tail = "HTTP/1.1 200 OK\r\nConnection: x\r\nx: ", "\r\nContent-Length: 0\r\n\r\n"
	return head + strings.Repeat("y", MaxHead-len(head)-len(tail)) + tail
}

func TestParseResponseTakes(t *testing.T) {
	for _, test := range answers {
		t.Run(test.name, func(t *testing.T) {
			head := strings.Index(test.raw, "\r\n\r\n") + 4
			if got, n, err := parseWhole(test.raw, test.method); got != test.want || n != head || err != nil {
				t.Errorf("got  %s, %d bytes, %v\nwant %s, %d bytes", got, n, err, test.want, head)
			}
			if got, n, err := parseBytewise(test.raw, test.method); got != test.want || n != head || err != nil {
				t.Errorf("bytewise: got  %s, %d bytes, %v\nwant %s, %d bytes", got, n, err, test.want, head)
			}
		})
	}
}

func TestParseResponseRefuses(t *testing.T) {
	for _, test := range rawcases.NoAnswers {
		t.Run(test.Name, func(t *testing.T) {
			for _, method := range []string{"GET", "HEAD"} {
				if got, n, err := parseWhole(test.Raw, method); err != SyntaxError(test.Why) { //nolint:errorlint // the very error
					t.Errorf("got %s, %d bytes, %v; want %s", got, n, err, test.Why)
				}
				if got, n, err := parseBytewise(test.Raw, method); err != SyntaxError(test.Why) { //nolint:errorlint // the very error
					t.Errorf("bytewise: got %s, %d bytes, %v; want %s", got, n, err, test.Why)
				}
			}
		})
	}
}

func TestParseResponseAllocatesNothing(t *testing.T) {
	raw := []byte("HTTP/1.1 200 OK\r\nDate: today\r\nServer: uvicorn\r\nContent-Type: application/json\r\nConnection: keep-alive\r\nContent-Length: 5\r\n\r\nhello")
	var h ResponseHead
	parse := func() {
		if _, err := ParseResponse(raw, 0, "GET", &h); err != nil {
			t.Fatal(err)
		}
	}
	if n := testing.AllocsPerRun(100, parse); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// What we take, net/http must take for the same; it takes more than we do.
// However the bytes are cut, the outcome is one.
func FuzzParseResponse(f *testing.F) {
	const longest = 2 << 10 // the fuzzer would spend its time on shrinking what is longer
	for _, a := range answers {
		if len(a.raw) <= longest {
			f.Add([]byte(a.raw), a.method == "HEAD")
		}
	}
	for _, a := range rawcases.NoAnswers {
		if len(a.Raw) <= longest {
			f.Add([]byte(a.Raw), false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, isHead bool) {
		method := "GET"
		if isHead {
			method = "HEAD"
		}
		whole, n, err := parseWhole(string(raw), method)
		if len(raw) < 4<<10 { // bytewise is quadratic in the tests
			pieces, m, perr := parseBytewise(string(raw), method)
			if whole != pieces || n != m || (err == nil) != (perr == nil) {
				t.Fatalf("whole: %s, %d, %v\npieces: %s, %d, %v", whole, n, err, pieces, m, perr)
			}
		}
		if n == 0 || err != nil {
			return
		}
		var h ResponseHead
		if _, err := ParseResponse(raw, 0, method, &h); err != nil {
			t.Fatal(err)
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
		if err != nil {
			t.Fatalf("net/http refuses what we took as %s: %v", whole, err)
		}
		defer theirs.Body.Close()
		if theirs.StatusCode != h.Status {
			t.Errorf("status %d, net/http: %d", h.Status, theirs.StatusCode)
		}
		if chunked := slices.Contains(theirs.TransferEncoding, "chunked"); h.Framing == Chunks != chunked && h.Framing != NoBody {
			t.Errorf("%s, net/http: %v", whole, theirs.TransferEncoding)
		}
		if h.Framing == Sized && theirs.ContentLength != h.Length {
			t.Errorf("length %d, net/http: %d", h.Length, theirs.ContentLength)
		}
		for _, field := range h.Fields {
			if !slices.Contains(theirs.Header.Values(field.Name), field.Value) {
				t.Errorf("%s: %q, net/http: %q", field.Name, field.Value, theirs.Header.Values(field.Name))
			}
		}
		if h.Framing == NoBody {
			if body, _ := io.ReadAll(theirs.Body); len(body) > 0 && h.Status >= 200 {
				t.Errorf("no body, net/http: %q", body)
			}
		}
	})
}
