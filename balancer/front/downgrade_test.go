package front_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What comes by HTTP/2 goes on by HTTP/1.1: a request that would be another one
// there, or another one to whoever goes by another of its two hosts or lengths, is
// refused as one of HTTP/1.1 is. The engine hears nothing of it, and the
// connection goes on: frames tell where the next request begins.
func TestHTTP2RequestsThatWouldBeOthers(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	many := slices.Repeat([]string{"a", "b"}, 101)
	for _, tc := range []struct {
		name   string
		fields []string // instead of, or behind, the usual ones
		data   string
		status int // 0: the stream is reset, by net/http
		heard  string
	}{
		{"plain", nil, "", 200, `GET / a ""`},
		{"a body without a length", []string{":method", "POST"}, "abc", 200, `POST / a "abc"`},
		{"a body with a length", []string{":method", "POST", "content-length", "3"}, "abc", 200, `POST / a "abc"`},
		{"a body like a request", []string{":method", "POST"}, "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", 200, `POST / a "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"`},
		{"Host that agrees", []string{"host", "A"}, "", 200, `GET / a ""`},
		{"Host instead", []string{":authority", "", "host", "b"}, "", 200, `GET / b ""`},
		{"white space around a value", []string{"x-a", " 1\t"}, "", 200, `GET / a "" X-A=["1"]`},
		{"a target that breaks the line", []string{":path", "/ HTTP/1.1\r\nX-A: b"}, "", 0, ""},
		{"a space in the target", []string{":path", "/a b"}, "", 400, ""},
		{"a fragment", []string{":path", "/a#b"}, "", 400, ""},
		{"a URL for a path", []string{":path", "http://b/x"}, "", 400, ""},
		{"* for GET", []string{":path", "*"}, "", 400, ""},
		{"a method with a space", []string{":method", "GET "}, "", 400, ""},
		{"a method with a tab", []string{":method", "GET\tx"}, "", 400, ""},
		{"a method that is a request", []string{":method", "GET /x HTTP/1.1\r\nX-A: b\r\n\r\n"}, "", 0, ""},
		{"no host", []string{":authority", ""}, "", 400, ""},
		{"another Host", []string{"host", "b"}, "", 400, ""},
		{"two Hosts", []string{"host", "a", "host", "b"}, "", 400, ""},
		{"two Hosts alone", []string{":authority", "", "host", "a", "host", "b"}, "", 400, ""},
		{"a port that is too large", []string{":authority", "a:65536"}, "", 400, ""},
		{"a port that is missing", []string{":authority", "a:"}, "", 400, ""},
		{"two hosts in one", []string{":authority", "a b"}, "", 400, ""},
		{"a length and no body", []string{":method", "POST", "content-length", "3"}, "", 400, ""},
		{"two lengths", []string{":method", "POST", "content-length", "3", "content-length", "4"}, "abc", 400, ""},
		{"two lengths that agree", []string{":method", "POST", "content-length", "3", "content-length", "3"}, "abc", 400, ""},
		{"a length that is none", []string{":method", "POST", "content-length", "x"}, "", 400, ""},
		{"a length that is none, and a body", []string{":method", "POST", "content-length", "x"}, "abc", 0, ""},
		{"a signed length", []string{":method", "POST", "content-length", "+3"}, "abc", 0, ""},
		{"too much for the length", []string{":method", "POST", "content-length", "2"}, "abc", 0, ""},
		{"CRLF in a value", []string{"x-a", "b\r\nX-B: c"}, "", 0, ""},
		{"a colon in a name", []string{"x-a: b\r\nx", "c"}, "", 0, ""},
		{"chunked", []string{":method", "POST", "transfer-encoding", "chunked"}, "0\r\n\r\n", 400, ""},
		{"Connection", []string{"connection", "x-a"}, "", 400, ""},
		{"101 fields", many, "", 431, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newStreams(t, m.addr)
			status := c.exchange(t, tc.fields, tc.data)
			if status != tc.status && (tc.status != 0 || status != http.StatusBadRequest) { // refused before its DATA made it worse
				t.Errorf("status %d, want %d", status, tc.status)
			}
			if status := c.exchange(t, []string{":path", "/next"}, ""); status != http.StatusOK {
				t.Errorf("the next: %d", status)
			}
			want := []string{`GET /next a ""`}
			if tc.heard != "" {
				want = append([]string{tc.heard}, want...)
			}
			if heard := engine.told(); !slices.Equal(heard, want) {
				t.Errorf("the engine was told %q, want %q", heard, want)
			}
		})
	}
	if !m.member.Ready() {
		t.Error("the member was blamed")
	}
}

// streams is a client of HTTP/2 that says what it likes.
type streams struct {
	*http2.Framer
	next uint32
}

func newStreams(t *testing.T, addr string) *streams {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	c := &streams{Framer: http2.NewFramer(nc, nc), next: 1}
	c.AllowIllegalWrites = true
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	_ = c.WriteSettings()
	return c
}

// exchange makes a request, and returns its answer's status, 0 for a reset.
func (c *streams) exchange(t *testing.T, fields []string, data string) (status int) {
	t.Helper()
	pseudo := [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "a"}, {":path", "/"}}
	var rest [][2]string
	for f := range slices.Chunk(fields, 2) {
		at := slices.IndexFunc(pseudo, func(p [2]string) bool { return p[0] == f[0] })
		if at < 0 {
			rest = append(rest, [2]string{f[0], f[1]})
			continue
		}
		pseudo[at][1] = f[1]
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range append(pseudo, rest...) {
		if f[0] == ":authority" && f[1] == "" {
			continue
		}
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	id := c.next
	c.next += 2
	_ = c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: data == ""})
	if data != "" {
		_ = c.WriteData(id, true, []byte(data))
	}
	for {
		frame, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("no answer: %v", err)
		}
		if frame.Header().StreamID != id {
			continue
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status, _ = strconv.Atoi(f.PseudoValue("status"))
		case *http2.RSTStreamFrame:
			return status
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			if status >= http.StatusBadRequest && strings.HasPrefix(frame.Header().Type.String(), "HEADERS") {
				t.Errorf("%d without a word", status)
			}
			return status
		}
	}
}
