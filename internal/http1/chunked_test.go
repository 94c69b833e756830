package http1

import (
	"bytes"
	"fmt"
	"io"
	"net/http/httputil"
	"strings"
	"testing"
)

// decode feeds raw to a decoder in pieces of at most size bytes.
func decode(d *Chunked, raw string, size int) (body string, used int, err error) {
	var b strings.Builder
	for used < len(raw) && !d.Done() {
		piece := []byte(raw[used:min(used+size, len(raw))])
		p, n, err := d.Decode(piece)
		b.Write(p)
		used += n
		if err != nil {
			return b.String(), used, err
		}
	}
	return b.String(), used, nil
}

var chunkedBodies = []struct {
	name, raw, body, trailers string
	done                      bool
	err                       SyntaxError
}{
	{"empty", "0\r\n\r\n", "", "", true, ""},
	{"one chunk", "5\r\nhello\r\n0\r\n\r\n", "hello", "", true, ""},
	{"two chunks", "5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n", "hello, world", "", true, ""},
	{"hexadecimal in both cases", "a\r\n0123456789\r\nA\r\n0123456789\r\n1f\r\n0123456789012345678901234567890\r\n0\r\n\r\n", "012345678901234567890123456789012345678901234567890", "", true, ""},
	{"zeros first", "005\r\nhello\r\n000\r\n\r\n", "hello", "", true, ""},
	{"fifteen digits", "000000000000005\r\nhello\r\n0\r\n\r\n", "hello", "", true, ""},
	{"CRLF as data", "4\r\n\r\n\r\n\r\n0\r\n\r\n", "\r\n\r\n", "", true, ""},
	{"extensions", "5;a\r\nhello\r\n1;b=\"c;d\"; e = f\r\n!\r\n0;x\r\n\r\n", "hello!", "", true, ""},
	{"trailers", "0\r\nX-Sum: 1\r\nY: \t2 \r\n\r\n", "", "X-Sum=1 Y=2", true, ""},
	{"trailers that may be none", "0\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\nHost: h\r\nSet-Cookie: c\r\nok: 1\r\nConnection: gone\r\ngone: 1\r\n\r\n", "", "ok=1", true, ""},
	{"the next message behind it", "1\r\n!\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", "!", "", true, ""},
	{"ends before the size", "5\r\nhello\r\n", "hello", "", false, ""},
	{"ends within the data", "5\r\nhel", "hel", "", false, ""},
	{"ends before the last CRLF", "5\r\nhello\r\n0\r\n", "hello", "", false, ""},

	{"no size", "\r\nhello\r\n", "", "", false, errChunkSize},
	{"extension without a size", ";a\r\n", "", "", false, errChunkSize},
	{"signed size", "+5\r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"negative size", "-5\r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"0x", "0x5\r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"underscore", "1_0\r\n", "", "", false, errChunkSize},
	{"space before the size", " 5\r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"space after the size", "5 \r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"space before the extension", "5 ;a\r\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"sixteen digits", "0000000000000005\r\nhello\r\n", "", "", false, errChunkHuge},
	{"size modulo 2^64", "10000000000000005\r\nhello\r\n", "", "", false, errChunkHuge},
	{"bare LF after the size", "5\nhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"bare CR after the size", "5\rhello\r\n0\r\n\r\n", "", "", false, errChunkSize},
	{"CR CR LF after the size", "5\r\r\nhello\r\n", "", "", false, errChunkSize},
	{"bare LF after an extension", "5;a\nhello\r\n", "", "", false, errChunkExt},
	{"NUL in an extension", "5;\x00\r\nhello\r\n", "", "", false, errChunkExt},
	{"long extension", "5;" + strings.Repeat("a", maxChunkLine) + "\r\nhello\r\n", "", "", false, errChunkLine},
	{"data longer than said", "5\r\nhello!\r\n0\r\n\r\n", "hello", "", false, errChunkEnd},
	{"bare LF after the data", "5\r\nhello\n0\r\n\r\n", "hello", "", false, errChunkEnd},
	{"no line end after the data", "5\r\nhello0\r\n\r\n", "hello", "", false, errChunkEnd},
	{"CR without LF after the data", "5\r\nhello\r0\r\n\r\n", "hello", "", false, errChunkEnd},
	{"mostly extensions", strings.Repeat("1;"+strings.Repeat("a", 500)+"\r\n!\r\n", 100), strings.Repeat("!", 33), "", false, errChunkOverhead},
	{"bare LF for the last line", "0\r\n\n", "", "", false, errBareLF},
	{"bare LF in a trailer", "0\r\nA: b\n\r\n", "", "", false, errBareLF},
	{"folded trailer", "0\r\nA: b\r\n c\r\n\r\n", "", "", false, errFold},
	{"trailer without a colon", "0\r\nA\r\n\r\n", "", "", false, errNoColon},
	{"129 trailers", "0\r\n" + strings.Repeat("a:\r\n", 129) + "\r\n", "", "", false, ErrTooManyFields},
	{"endless trailers", "0\r\n" + strings.Repeat("a: b\r\n", maxTrailers), "", "", false, errTrailerSize},
}

func TestChunkedCutAnywhere(t *testing.T) {
	for _, test := range chunkedBodies {
		t.Run(test.name, func(t *testing.T) {
			var d Chunked
			// Sizes from one byte up, then the whole; the decoder is used again.
			for _, size := range []int{1, 2, 3, 4, 5, 7, 11, 64, 1000, len(test.raw) + 1} {
				d.Reset()
				body, used, err := decode(&d, test.raw, size)
				var want error
				if test.err != "" {
					want = test.err
				}
				if err != want { //nolint:errorlint // the very error
					t.Fatalf("by %d: error %v, want %v", size, err, want)
				}
				if body != test.body || d.Done() != test.done {
					t.Errorf("by %d: body %q, done %v", size, body, d.Done())
				}
				if end := strings.Index(test.raw, "HTTP/1.1"); end > 0 && used != end {
					t.Errorf("by %d: used %d of %d bytes", size, used, end)
				}
				if got := showFields(d.Trailers); got != test.trailers {
					t.Errorf("by %d: trailers %q, want %q", size, got, test.trailers)
				}
			}
		})
	}
}

func TestChunkedCutInTwoAtEveryByte(t *testing.T) {
	for _, test := range chunkedBodies {
		if len(test.raw) > 4<<10 {
			continue
		}
		for cut := range len(test.raw) {
			var d Chunked
			first, _, err := decode(&d, test.raw[:cut], len(test.raw))
			var second string
			if err == nil && !d.Done() {
				second, _, err = decode(&d, test.raw[cut:], len(test.raw))
			}
			if (err != nil) != (test.err != "") || first+second != test.body || d.Done() != test.done {
				t.Errorf("%s cut at %d: %q %q, done %v, %v", test.name, cut, first, second, d.Done(), err)
			}
		}
	}
}

func showFields(f Fields) string {
	var parts []string
	for _, f := range f {
		parts = append(parts, f.Name+"="+f.Value)
	}
	return strings.Join(parts, " ")
}

func TestFrameChunkIsReadBack(t *testing.T) {
	for _, size := range []int{1, 9, 15, 16, 255, 256, 4096, 65535, 65536, 1 << 20} {
		buf := make([]byte, ChunkHead+size+ChunkTail)
		for i := range size {
			buf[ChunkHead+i] = byte(i)
		}
		want := bytes.Clone(buf[ChunkHead : ChunkHead+size])
		stream := AppendLastChunk(bytes.Clone(FrameChunk(buf, size)), Fields{{"A", "b"}})
		if head := fmt.Sprintf("%x\r\n", size); !bytes.HasPrefix(stream, []byte(head)) {
			t.Errorf("%d: starts with %q", size, stream[:10])
		}
		var d Chunked
		body, used, err := d.Decode(stream)
		if err != nil || !bytes.Equal(body, want) || used != len(stream) || !d.Done() || showFields(d.Trailers) != "A=b" {
			t.Errorf("%d: %d bytes of body, %d used, done %v, %v", size, len(body), used, d.Done(), err)
		}
	}
}

func BenchmarkChunkedEvents(b *testing.B) {
	event := []byte("2e\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}\r\n")
	stream := bytes.Repeat(event, 20)
	buf := make([]byte, len(stream))
	var d Chunked
	b.SetBytes(int64(len(stream)))
	for b.Loop() {
		copy(buf, stream)
		d.Reset()
		if _, _, err := d.Decode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

// However a body is cut, the outcome is one, and net/http reads from a body
// that we took what we read.
func FuzzChunked(f *testing.F) {
	for _, body := range chunkedBodies {
		if len(body.raw) < 1<<12 {
			f.Add([]byte(body.raw), byte(3))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, size byte) {
		var whole, pieces Chunked
		body, used, err := decode(&whole, string(raw), len(raw)+1)
		body2, used2, err2 := decode(&pieces, string(raw), int(size)+1)
		if body != body2 || used != used2 || err != err2 || whole.Done() != pieces.Done() || //nolint:errorlint // the very error
			showFields(whole.Trailers) != showFields(pieces.Trailers) {
			t.Fatalf("whole: %q, %d, %v\npieces: %q, %d, %v", body, used, err, body2, used2, err2)
		}
		before := bytes.Clone(raw)
		pieces.Reset()
		if done, promised, err2 := pieces.Check(raw); err2 != err || promised != whole.Promised() || done != whole.Done() || !bytes.Equal(raw, before) || pieces.state != chunkSize || pieces.size != 0 { //nolint:errorlint // the very error
			t.Fatalf("checked: %v, read: %v; %q became %q", err2, err, before, raw)
		}
		if err != nil || !whole.Done() {
			return
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err != nil || string(theirs) != body {
			t.Errorf("we read %q, net/http %q, %v", body, theirs, err)
		}
	})
}
