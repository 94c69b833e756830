package compression

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

func compressor() *Compressor {
	return New(Options{Encodings: []string{Zstd, Gzip}, Types: []string{"application/json", "text/*"}, MinSize: 100, Level: 1})
}

func TestChoice(t *testing.T) {
	for accept, want := range map[string]string{
		"":                           "",
		"gzip":                       "gzip",
		"gzip, zstd":                 "zstd", // ours comes first
		"gzip;q=1.0, zstd;q=0.9":     "gzip",
		"GZIP":                       "gzip",
		"x-gzip":                     "gzip",
		"br":                         "",
		"*":                          "zstd",
		"*;q=0.5, zstd;q=0":          "gzip",
		"gzip;q=0":                   "",
		"gzip;q=0.000":               "",
		"gzip;q=0.001":               "gzip",
		"gzip;q=1.001":               "",
		"gzip;q=2":                   "",
		"gzip;q=":                    "",
		"gzip;q=0.1234":              "",
		"gzip;q=-1":                  "",
		"gzip;q=.5":                  "",
		"gzip ; Q=0.5":               "gzip",
		"identity, gzip;q=0.5":       "",
		"identity;q=0.5, gzip;q=0.5": "gzip",
		"identity;q=0, gzip;q=0.1":   "gzip",
		"identity":                   "",
		", ,gzip,":                   "gzip",
		"deflate, gzip;q=1.0, *;q=0": "gzip",
	} {
		fields := http1.Fields{{Name: "accept-encoding", Value: accept}}
		got := ""
		if c := compressor().choose(fields); c != nil {
			got = c.name
		}
		if got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	several := http1.Fields{{Name: "Accept-Encoding", Value: "gzip;q=0.2"}, {Name: "Accept-Encoding", Value: "zstd;q=0.1"}}
	if c := compressor().choose(several); c == nil || c.name != Gzip {
		t.Errorf("two fields: %+v", c)
	}
}

// sink takes an answer.
type sink struct {
	body    bytes.Buffer
	flushes []int // length of body at each
	ended   http1.Fields
	broken  error
	err     error
}

func (s *sink) Interim(int, http1.Fields) error   { return nil }
func (s *sink) Head(*http1.Response, int64) error { return nil }
func (s *sink) Flush() error                      { s.flushes = append(s.flushes, s.body.Len()); return s.err }
func (s *sink) End(trailers http1.Fields) error   { s.ended = trailers; return s.err }
func (s *sink) Break(cause error)                 { s.broken = cause }
func (s *sink) Write(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	return s.body.Write(p)
}

func (s *sink) Splice(*rawconn.Conn, int64) (int64, error) { panic("a compressed body is not spliced") }

// What an answer is like, and what becomes of its head.
func TestHead(t *testing.T) {
	const vary, plain = "vary", "plain"
	base := func(more ...string) http1.Fields {
		f := http1.Fields{{Name: "content-type", Value: "application/json; charset=utf-8"}, {Name: "ETag", Value: `"v1"`}, {Name: "Accept-Ranges", Value: "bytes"}}
		for i := 0; i < len(more); i += 2 {
			f = append(f.Without(more[i]), http1.Field{Name: more[i], Value: more[i+1]})
		}
		return f
	}
	for name, tc := range map[string]struct {
		request http1.Request
		status  int
		fields  http1.Fields
		length  int64
		want    string // a coding, "vary" (as it is, for this client), or "plain"
	}{
		"sized":             {http1.Request{}, 200, base(), 1000, Gzip},
		"unknown length":    {http1.Request{}, 200, base(), -1, Gzip},
		"an error":          {http1.Request{}, 500, base(), 1000, Gzip},
		"head":              {http1.Request{Method: "HEAD"}, 200, base(), 1000, Gzip},
		"small":             {http1.Request{}, 200, base(), 99, plain},
		"empty":             {http1.Request{}, 200, base(), 0, plain},
		"http/1.0":          {http1.Request{Proto: 10}, 200, base(), 1000, vary},
		"refused":           {http1.Request{Fields: http1.Fields{{Name: "Accept-Encoding", Value: "gzip;q=0"}}}, 200, base(), 1000, vary},
		"family":            {http1.Request{}, 200, base("Content-Type", "TEXT/Csv"), 1000, Gzip},
		"events":            {http1.Request{}, 200, base("Content-Type", "text/event-stream"), -1, plain},
		"events, charset":   {http1.Request{}, 200, base("Content-Type", "Text/Event-Stream; charset=utf-8"), -1, plain},
		"other type":        {http1.Request{}, 200, base("Content-Type", "application/jsonl"), 1000, plain},
		"no type":           {http1.Request{}, 200, base().Without("Content-Type"), 1000, plain},
		"encoded":           {http1.Request{}, 200, base("Content-Encoding", "br"), 1000, plain},
		"identity":          {http1.Request{}, 200, base("Content-Encoding", "identity"), 1000, Gzip},
		"no-transform":      {http1.Request{}, 200, base("Cache-Control", "public, No-Transform"), 1000, plain},
		"client's wish":     {http1.Request{Fields: http1.Fields{{Name: "Accept-Encoding", Value: "gzip"}, {Name: "Cache-Control", Value: "no-transform"}}}, 200, base(), 1000, plain},
		"part":              {http1.Request{}, 206, base("Content-Range", "bytes 0-999/2000"), 1000, plain},
		"range, odd status": {http1.Request{}, 200, base("Content-Range", "bytes 0-999/2000"), 1000, plain},
		"no content":        {http1.Request{}, 204, base(), 0, plain},
		"digest":            {http1.Request{}, 200, base("Content-Digest", "sha-256=:x:"), 1000, plain},
		"vary there":        {http1.Request{}, 200, base("Vary", "Origin, accept-encoding"), 1000, Gzip},
		"vary star":         {http1.Request{}, 200, base("Vary", "*"), 1000, Gzip},
		"weak":              {http1.Request{}, 200, base("ETag", `W/"v1"`), 1000, Gzip},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.request.Fields == nil {
				tc.request.Fields = http1.Fields{{Name: "Accept-Encoding", Value: "gzip"}}
			}
			if tc.request.Proto == 0 {
				tc.request.Proto = 11
			}
			before := tc.fields.Clone()
			r := &http1.Response{Status: tc.status, Fields: tc.fields}
			s, length := compressor().Wish(&tc.request).Over(new(sink), &tc.request, r, tc.length)
			f := r.Fields
			if packed := tc.want == Gzip; (s != nil) != (packed && tc.request.Method != http.MethodHead) || (length == -1) != (packed || tc.length == -1) {
				t.Fatalf("sink %v, length %d", s != nil, length)
			}
			switch tc.want {
			case plain:
				if !slices.Equal(f, before) {
					t.Errorf("%v", f)
				}
			case vary:
				if f.Get("Vary") != "Accept-Encoding" || f.Get("ETag") != `"v1"` || f.Has("Content-Encoding") || !f.Has("Accept-Ranges") {
					t.Errorf("%v", f)
				}
			default:
				varies := 0
				for range f.Tokens("Vary") {
					varies++
				}
				if f.Get("Content-Encoding") != Gzip || f.Get("ETag") != `W/"v1"` || f.Has("Accept-Ranges") || varies != strings.Count(before.Get("Vary"), ",")+1 {
					t.Errorf("%v", f)
				}
			}
			if s != nil {
				s.Free()
			}
		})
	}
}

// A client asks with the validator that it was given; the engine knows the strong one.
func TestRevalidation(t *testing.T) {
	for have, want := range map[string]string{`W/"v1"`: `W/"v1"`, `"v1"`: `"v1"`, `W/"v0", W/"v1"`: `W/"v1"`, "*": `"v1"`} {
		q := &http1.Request{Proto: 11, Fields: http1.Fields{{Name: "Accept-Encoding", Value: "gzip"}, {Name: "If-None-Match", Value: have}}}
		r := &http1.Response{Status: 304, Fields: http1.Fields{{Name: "ETag", Value: `"v1"`}}}
		if s, _ := compressor().Wish(q).Over(new(sink), q, r, -1); s != nil || r.Fields.Get("ETag") != want {
			t.Errorf("%s: %v", have, r.Fields)
		}
	}
}

func unpack(t *testing.T, coding string, p []byte) string {
	t.Helper()
	var in io.Reader
	var err error
	if coding == Gzip {
		in, err = gzip.NewReader(bytes.NewReader(p))
	} else {
		in, err = zstd.NewReader(bytes.NewReader(p), zstd.WithDecoderMaxWindow(8<<20)) // as browsers
	}
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(in)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	return string(text)
}

func take(t *testing.T, c *Compressor, coding string, below exchange.Sink, length int64) *Sink {
	t.Helper()
	q := &http1.Request{Proto: 20, Fields: http1.Fields{{Name: "Accept-Encoding", Value: coding}}}
	r := &http1.Response{Status: 200, Fields: http1.Fields{{Name: "Content-Type", Value: "text/plain"}}}
	s, _ := c.Wish(q).Over(below, q, r, length)
	return s
}

func TestBody(t *testing.T) {
	c := compressor()
	for _, coding := range []string{Gzip, Zstd} {
		for round := range 3 { // used again
			below := new(sink)
			s := take(t, c, coding, below, -1)
			text := strings.Repeat("many words ", 30<<round)
			_ = s.Flush() // a head alone: nothing is made of nothing
			for i := 0; i < len(text); i += 100 {
				if n, err := s.Write([]byte(text[i:min(i+100, len(text))])); n != min(100, len(text)-i) || err != nil {
					t.Fatal(n, err)
				}
				_ = s.Flush()
				if got := unpack(t, coding, below.body.Bytes()); got != text[:min(i+100, len(text))] {
					t.Fatalf("%s: %d bytes after a flush, want %d", coding, len(got), i+100)
				}
			}
			if err := s.End(http1.Fields{{Name: "X", Value: "y"}}); err != nil || len(below.ended) != 1 {
				t.Fatal(err, below.ended)
			}
			if got := unpack(t, coding, below.body.Bytes()); got != text || below.flushes[0] != 0 {
				t.Errorf("%s: %d bytes, want %d", coding, len(got), len(text))
			}
			if s.In() != int64(len(text)) || s.Out() != int64(below.body.Len()) || s.Name() != coding {
				t.Error(s.In(), s.Out(), s.Name())
			}
			if s.Free() != exchange.Sink(below) {
				t.Error("another sink below")
			}
		}
	}
	if n := c.atWork.Load(); n != 0 {
		t.Errorf("%d are still at work", n)
	}
}

// A sized body is not cut into pieces where its sender pauses.
func TestSizedBodyIsNotFlushed(t *testing.T) {
	below := new(sink)
	s := take(t, compressor(), Zstd, below, 2000)
	for range 20 {
		_, _ = s.Write(bytes.Repeat([]byte("x"), 100))
		_ = s.Flush()
	}
	if below.body.Len() != 0 || len(below.flushes) != 20 {
		t.Errorf("%d bytes, %d flushes", below.body.Len(), len(below.flushes))
	}
	if err := s.End(nil); err != nil || unpack(t, Zstd, below.body.Bytes()) != strings.Repeat("x", 2000) {
		t.Error(err)
	}
}

func TestClientsError(t *testing.T) {
	gone := errors.New("gone")
	for _, coding := range []string{Gzip, Zstd} {
		c := compressor()
		below := &sink{err: gone}
		s := take(t, c, coding, below, -1)
		_, err := s.Write([]byte("x"))
		if err = errors.Join(err, s.Flush()); !errors.Is(err, gone) {
			t.Error(err)
		}
		s.Break(gone)
		if !errors.Is(below.broken, gone) || below.body.Len() != 0 {
			t.Error("not broken, or something written")
		}
		s.Free()
		next := new(sink)
		s = take(t, c, coding, next, -1)
		_, _ = s.Write([]byte("well"))
		if err := s.End(nil); err != nil || unpack(t, coding, next.body.Bytes()) != "well" {
			t.Errorf("%s: not used again after an error: %v", coding, err)
		}
	}
}

// Beyond so many at a time answers pass as they are, still with Vary.
func TestAtWork(t *testing.T) {
	c := compressor()
	c.most = 2
	one, two := take(t, c, Gzip, new(sink), -1), take(t, c, Zstd, new(sink), -1)
	if three := take(t, c, Gzip, new(sink), -1); one == nil || two == nil || three != nil {
		t.Error("two, and no third")
	}
	one.Free()
	if take(t, c, Gzip, new(sink), -1) == nil {
		t.Error("none after one was given back")
	}
}

func TestOff(t *testing.T) {
	c := New(Options{Types: []string{"text/*"}, Level: 1})
	if take(t, c, Gzip, new(sink), -1) != nil {
		t.Error("compressed")
	}
}
