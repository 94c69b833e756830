package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

func TestAppendRequest(t *testing.T) {
	tests := []struct {
		name   string
		r      Request
		length int64
		want   string
	}{
		{
			"GET",
			Request{Method: "GET", Target: "/v1/models?a=%20b", Authority: "example.com:8000"},
			0,
			"GET /v1/models?a=%20b HTTP/1.1\r\nHost: example.com:8000\r\n\r\n",
		},
		{
			"POST, sized",
			Request{Method: "POST", Target: "/", Authority: "h", Fields: Fields{{"b", "2"}, {"A", "1"}}},
			12,
			"POST / HTTP/1.1\r\nHost: h\r\nb: 2\r\nA: 1\r\nContent-Length: 12\r\n\r\n",
		},
		{"POST, empty", Request{Method: "POST", Target: "/", Authority: "h"}, 0, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"},
		{"PUT, chunked", Request{Method: "PUT", Target: "/", Authority: "h"}, -1, "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"OPTIONS *, no host", Request{Method: "OPTIONS", Target: "*"}, 0, "OPTIONS * HTTP/1.1\r\nHost: \r\n\r\n"},
		{
			"fields that are made anew",
			Request{Method: "GET", Target: "/", Authority: "h", Fields: Fields{
				{"host", "evil"}, {"CONTENT-LENGTH", "5"}, {"Transfer-encoding", "chunked"}, {"Expect", "100-continue"}, {"X", "y"},
			}},
			0,
			"GET / HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := AppendRequest([]byte("before"), &test.r, test.length)
			if err != nil || string(got) != "before"+test.want {
				t.Errorf("got %q, %v\nwant %q", got, err, test.want)
			}
		})
	}
}

func TestAppendRequestRefusesWhatWouldSplitIt(t *testing.T) {
	const evil = "x\r\nEvil: 1"
	tests := map[string]Request{
		"method":            {Method: "GET / HTTP/1.1\r\nX:", Target: "/", Authority: "h"},
		"method with space": {Method: "GET /", Target: "/", Authority: "h"},
		"no method":         {Target: "/", Authority: "h"},
		"no target":         {Method: "GET", Authority: "h"},
		"target":            {Method: "GET", Target: "/\r\nEvil: 1", Authority: "h"},
		"target with space": {Method: "GET", Target: "/ HTTP/1.1", Authority: "h"},
		"target, bare LF":   {Method: "GET", Target: "/\n", Authority: "h"},
		"authority":         {Method: "GET", Target: "/", Authority: evil},
		"name":              {Method: "GET", Target: "/", Authority: "h", Fields: Fields{{evil, "v"}}},
		"value":             {Method: "GET", Target: "/", Authority: "h", Fields: Fields{{"n", evil}}},
		"value, bare CR":    {Method: "GET", Target: "/", Authority: "h", Fields: Fields{{"n", "a\rb"}}},
		"value, NUL":        {Method: "GET", Target: "/", Authority: "h", Fields: Fields{{"n", "\x00"}}},
	}
	for name, r := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := AppendRequest(nil, &r, 0); err == nil || len(got) != 0 {
				t.Errorf("got %q, %v", got, err)
			}
		})
	}
}

// What we write is one request to net/http, however odd its parts.
func FuzzAppendRequest(f *testing.F) {
	f.Add("GET", "/", "h", "X-A", "b", int64(0))
	f.Add("POST", "/v1?x", "h:1", "Content-Length", "7", int64(3))
	f.Add("GET", "/ HTTP/1.1\r\nX: y\r\n\r\nGET /", "h", "n", "v", int64(0))
	f.Add("PUT", "/", "h\r\n", "n:", "v\nw", int64(-1))
	f.Fuzz(func(t *testing.T, method, target, authority, name, value string, length int64) {
		r := Request{Method: method, Target: target, Authority: authority, Fields: Fields{{name, value}}}
		length = max(length%100, -1)
		head, err := AppendRequest(nil, &r, length)
		if err != nil {
			return
		}
		if !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			t.Fatalf("%q has no end", head)
		}
		in := bufio.NewReader(bytes.NewReader(head))
		theirs, err := http.ReadRequest(in)
		if err != nil {
			return // e.g. a target that is no URL: refused whole
		}
		if theirs.Method != method || theirs.RequestURI != target {
			t.Errorf("net/http reads %s %q from %q", theirs.Method, theirs.RequestURI, head)
		}
		if rest, _ := io.ReadAll(in); len(rest) > 0 && length == 0 {
			t.Errorf("net/http leaves %q of %q", rest, head)
		}
	})
}
