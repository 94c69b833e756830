package http1

import (
	"fmt"
	"strings"
	"testing"
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
	{"a host with an underscore and an escape", line + "Host: a_b%2d\r\n" + end, "GET / a_b%2d 11 none 0"},
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

// nonRequests are heads that are refused, and why.
var nonRequests = []struct {
	name, raw string
	want      SyntaxError
	status    int
}{
	{"TLS", "\x16\x03\x01\x02\x00", errMethodToken, 400},
	{"two empty lines before", "\r\n\r\n" + line + host + end, errMethodToken, 400},
	{"a bare LF before", "\n" + line + host + end, errMethodToken, 400},
	{"a bare CR before", "\rGET / HTTP/1.1\r\n" + host + end, errMethodToken, 400},
	{"a space before", " " + line + host + end, errMethodToken, 400},
	{"an answer", "HTTP/1.1 200 OK\r\n" + end, errMethodToken, 400},
	{"a method that is no token", "G(T / HTTP/1.1\r\n" + host + end, errMethodToken, 400},
	{"a method with a control", "GE\x01T / HTTP/1.1\r\n" + host + end, errMethodToken, 400},
	{"a method beyond ASCII", "GE\xc3\x84 / HTTP/1.1\r\n" + host + end, errMethodToken, 400},
	{"a tab for a space", "GET\t/ HTTP/1.1\r\n" + host + end, errMethodToken, 400},
	{"a colon in the method", "Host: a\r\nGET / HTTP/1.1\r\n" + end, errMethodToken, 400},
	{"one word", "hello\r\n" + end, errLine, 400},
	{"HTTP/0.9", "GET /\r\n" + end, errLine, 400},
	{"no target", "GET HTTP/1.1\r\n" + host + end, errLine, 400},
	{"two spaces", "GET  / HTTP/1.1\r\n" + host + end, errLine, 400},
	{"two spaces before the version", "GET /  HTTP/1.1\r\n" + host + end, errLine, 400},
	{"a space after the version", "GET / HTTP/1.1 \r\n" + host + end, errLine, 400},
	{"a space in the target", "GET /a b HTTP/1.1\r\n" + host + end, errLine, 400},
	{"no version", "GET / \r\n" + host + end, errLine, 400},
	{"version in small letters", "GET / http/1.1\r\n" + host + end, errLine, 400},
	{"HTTP/1.10", "GET / HTTP/1.10\r\n" + host + end, errLine, 400},
	{"HTTP/11", "GET / HTTP/11\r\n" + host + end, errLine, 400},
	{"HTTP/+1.1", "GET / HTTP/+1.1\r\n" + host + end, errLine, 400},
	{"another protocol", "OPTIONS sip:a RTSP/1.0\r\n" + host + end, errLine, 400},
	{"HTTP/1.2", "GET / HTTP/1.2\r\n" + host + end, errVersion, 505},
	{"HTTP/0.9 in words", "GET / HTTP/0.9\r\n" + host + end, errVersion, 505},
	{"HTTP/2.0", "GET / HTTP/2.0\r\n" + host + end, errVersion, 505},
	{"a control in the target", "GET /\x01 HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"NUL in the target", "GET /\x00 HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"DEL in the target", "GET /\x7f HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"a tab in the target", "GET /a\tb HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"a bare CR in the target", "GET /a\rb HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"a fragment", "GET /a#b HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"a fragment in a URL", "GET http://a/#b HTTP/1.1\r\n" + host + end, errTargetChar, 400},
	{"a relative path", "GET a HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"a query alone", "GET ?a HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"* with GET", "GET * HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"authority form with GET", "GET a:80 HTTP/1.1\r\nHost: a:80\r\n" + end, errTargetForm, 400},
	{"another scheme", "GET ftp://a/ HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"a URL without a host", "GET http:///x HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"a URL of one slash", "GET http:/a HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"user information", "GET http://u:p@a/ HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"user information hiding a host", "GET http://a@b/ HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"a backslash in a URL's host", "GET http://a\\@b/ HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"a URL's port that is none", "GET http://a:x/ HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"CONNECT of a path", "CONNECT / HTTP/1.1\r\n" + host + end, errTargetForm, 400},
	{"CONNECT elsewhere", "CONNECT b:1 HTTP/1.1\r\nHost: a:1\r\n" + end, errHostDiffers, 400},
	{"another host in the target", "GET http://b/ HTTP/1.1\r\n" + host + end, errHostDiffers, 400},
	{"another port in the target", "GET http://a:80/ HTTP/1.1\r\n" + host + end, errHostDiffers, 400},
	{"no Host", line + end, errHostMissing, 400},
	{"an empty Host", line + "Host:\r\n" + end, errHostMissing, 400},
	{"two Hosts", line + host + "Host: b\r\n" + end, errHosts, 400},
	{"two Hosts that agree", line + host + host + end, errHosts, 400},
	{"two Hosts, the first empty", line + "Host:\r\n" + host + end, errHosts, 400},
	{"two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\n" + host + host + end, errHosts, 400},
	{"two hosts in one", line + "Host: a b\r\n" + end, errHost, 400},
	{"a list of ports", line + "Host: a:1:2\r\n" + end, errHost, 400},
	{"user information in Host", line + "Host: u@a\r\n" + end, errHost, 400},
	{"a path in Host", line + "Host: a/b\r\n" + end, errHost, 400},
	{"a URL in Host", line + "Host: http://a\r\n" + end, errHost, 400},
	{"a port that is too large", line + "Host: a:65536\r\n" + end, errHost, 400},
	{"a port that is far too large", line + "Host: a:4294967376\r\n" + end, errHost, 400},
	{"a signed port", line + "Host: a:+80\r\n" + end, errHost, 400},
	{"a port that is missing", line + "Host: a:\r\n" + end, errHost, 400},
	{"a port alone", line + "Host: :80\r\n" + end, errHost, 400},
	{"IPv6 without brackets", line + "Host: ::1\r\n" + end, errHost, 400},
	{"IPv6 half open", line + "Host: [::1\r\n" + end, errHost, 400},
	{"IPv6 with a zone", line + "Host: [fe80::1%25eth0]\r\n" + end, errHost, 400},
	{"IPv4 in brackets", line + "Host: [127.0.0.1]\r\n" + end, errHost, 400},
	{"text behind the bracket", line + "Host: [::1]x\r\n" + end, errHost, 400},
	{"half an escape in Host", line + "Host: a%2\r\n" + end, errHost, 400},
	{"a host beyond ASCII", line + "Host: \xc3\xa4\r\n" + end, errHost, 400},
	{"a quote in Host", line + "Host: \"a\"\r\n" + end, errHost, 400},
	{"bare LF after the request line", "GET / HTTP/1.1\n" + host + end, errBareLF, 400},
	{"bare LF after a field", line + "Host: a\nX: y\r\n" + end, errBareLF, 400},
	{"bare LF for the empty line", line + host + "\n", errBareLF, 400},
	{"bare LFs throughout", "GET / HTTP/1.1\nHost: a\n\n", errBareLF, 400},
	{"CR CR LF", line + "Host: a\r\r\n" + end, errFieldValue, 400},
	{"bare CR in the version", "GET / HTTP/1.1\r\r\n" + host + end, errLine, 400},
	{"bare CR in a value", line + host + "X: a\rY: b\r\n" + end, errFieldValue, 400},
	{"bare CR in a name", line + host + "X\r: a\r\n" + end, errFieldName, 400},
	{"NUL in a value", line + host + "X: \x00\r\n" + end, errFieldValue, 400},
	{"a control in a value", line + host + "X: \x1b[1m\r\n" + end, errFieldValue, 400},
	{"DEL in a value", line + host + "X: \x7f\r\n" + end, errFieldValue, 400},
	{"NUL in a name", line + host + "X\x00: a\r\n" + end, errFieldName, 400},
	{"a folded field", line + host + "X: a\r\n b\r\n" + end, errFold, 400},
	{"folded by a tab", line + host + "X: a\r\n\tb\r\n" + end, errFold, 400},
	{"a folded Transfer-Encoding", post + "Transfer-Encoding:\r\n chunked\r\n" + end, errFold, 400},
	{"white space before the first field", line + " Host: a\r\n" + end, errFold, 400},
	{"a line of white space", line + host + " \r\n" + end, errFold, 400},
	{"space before the colon", line + "Host : a\r\n" + end, errFieldName, 400},
	{"tab before the colon", post + "Content-Length\t: 5\r\n" + end, errFieldName, 400},
	{"a name in quotes", line + host + "\"X\": a\r\n" + end, errFieldName, 400},
	{"a name beyond ASCII", line + host + "\xc3\xa4: a\r\n" + end, errFieldName, 400},
	{"no name", line + host + ": a\r\n" + end, errFieldName, 400},
	{"no colon", line + host + "X\r\n" + end, errNoColon, 400},
	{"a second request line", line + host + "GET / HTTP/1.1\r\n" + end, errNoColon, 400},
	{"length and chunks", post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n" + end, errLengthCoding, 400},
	{"chunks and length", post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n" + end, errLengthCoding, 400},
	{"chunks and a length of 0", post + "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n" + end, errLengthCoding, 400},
	{"lengths that differ", post + "Content-Length: 5\r\nContent-Length: 6\r\n" + end, errLengths, 400},
	{"lengths that agree", post + "Content-Length: 5\r\nContent-Length: 5\r\n" + end, errLengthTwice, 400},
	{"a list of lengths", post + "Content-Length: 5, 5\r\n" + end, errLength, 400},
	{"an empty length", post + "Content-Length:\r\n" + end, errLength, 400},
	{"a negative length", post + "Content-Length: -1\r\n" + end, errLength, 400},
	{"a signed length", post + "Content-Length: +5\r\n" + end, errLength, 400},
	{"a hexadecimal length", post + "Content-Length: 0x5\r\n" + end, errLength, 400},
	{"a length with a fraction", post + "Content-Length: 5.0\r\n" + end, errLength, 400},
	{"a length with an underscore", post + "Content-Length: 1_0\r\n" + end, errLength, 400},
	{"a length with a space", post + "Content-Length: 1 0\r\n" + end, errLength, 400},
	{"a length in other digits", post + "Content-Length: \xd9\xa5\r\n" + end, errLength, 400},
	{"a length that overflows", post + "Content-Length: 18446744073709551621\r\n" + end, errLength, 400},
	{"a coding alone", post + "Transfer-Encoding: gzip\r\n" + end, errCoding, 400},
	{"identity", post + "Transfer-Encoding: identity\r\n" + end, errCoding, 400},
	{"an empty coding", post + "Transfer-Encoding:\r\n" + end, errCoding, 400},
	{"chunked twice", post + "Transfer-Encoding: chunked, chunked\r\n" + end, errCoding, 400},
	{"chunked in two fields", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" + end, errCoding, 400},
	{"chunked, then identity", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n" + end, errCoding, 400},
	{"chunked not final", post + "Transfer-Encoding: chunked, gzip\r\n" + end, errCoding, 400},
	{"chunked with a parameter", post + "Transfer-Encoding: chunked;a=b\r\n" + end, errCoding, 400},
	{"chunked in quotes", post + "Transfer-Encoding: \"chunked\"\r\n" + end, errCoding, 400},
	{"xchunked", post + "Transfer-Encoding: xchunked\r\n" + end, errCoding, 400},
	{"chunked with a vertical tab", post + "Transfer-Encoding: \x0bchunked\r\n" + end, errFieldValue, 400},
	{"the Kelvin sign for a k", post + "Transfer-Encoding: chun\xe2\x84\xaaed\r\n" + end, errCoding, 400},
	{"a coding before chunked", post + "Transfer-Encoding: gzip, chunked\r\n" + end, errCodingUnknown, 501},
	{"chunked in HTTP/1.0", "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n" + end, errCodingOld, 400},
	{"another expectation", post + "Expect: 200-ok\r\nContent-Length: 1\r\n" + end, errExpectation, 417},
	{"a line of 16 KiB and a byte", "GET /" + strings.Repeat("x", MaxRequestLine-len("GET / HTTP/1.1\r\n")+1) + " HTTP/1.1\r\n" + host + end, errLineSize, 414},
	{"a line without an end", "GET /" + strings.Repeat("x", MaxRequestLine), errLineSize, 414},
	{"fields of 16 KiB and a byte", line + host + "X: " + strings.Repeat("x", MaxRequestSection-len(host+"X: \r\n")+1) + "\r\n" + end, errSectionSize, 431},
	{"fields without an end", line + host + "X: " + strings.Repeat("x", MaxRequestSection), errSectionSize, 431},
	{"101 fields", line + host + strings.Repeat("A:\r\n", 100) + end, ErrTooManyFields, 431},
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
	for _, test := range nonRequests {
		t.Run(test.name, func(t *testing.T) {
			for cut := range pieces(test.raw) {
				if _, n, err := requestCut(test.raw, cut); err != error(test.want) || n != 0 {
					t.Fatalf("cut at %d: got %d bytes, %v\nwant %v", cut, n, err, test.want)
				}
			}
			if _, n, err := requestBytewise(test.raw); err != error(test.want) || n != 0 {
				t.Errorf("bytewise: got %d bytes, %v\nwant %v", n, err, test.want)
			}
			if got := test.want.Status(); got != test.status {
				t.Errorf("status %d, want %d", got, test.status)
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
