package sse

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// read is the standard's own algorithm, over the whole stream at once.
func read(stream string) []string {
	stream = strings.TrimPrefix(stream, "\ufeff")
	stream = strings.ReplaceAll(strings.ReplaceAll(stream, "\r\n", "\n"), "\r", "\n")
	lines := strings.Split(stream, "\n")
	var events []string
	var kind string
	var data []string
	for _, line := range lines[:len(lines)-1] { // the last has no end
		if line == "" {
			if data != nil {
				events = append(events, fmt.Sprintf("%q %q", kind, strings.Join(data, "\n")))
			}
			kind, data = "", nil
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "data":
			data = append(data, value)
		case "event":
			kind = value
		}
	}
	return events
}

func scan(pieces ...string) []string {
	var s Scanner
	var events []string
	for _, p := range pieces {
		s.Feed([]byte(p), func(e Event) {
			if e.HasData {
				events = append(events, fmt.Sprintf("%q %q", e.Type, e.Data))
			}
		})
	}
	return events
}

var streams = []struct {
	name, stream string
	want         []string
}{
	{"LF", "data: a\n\ndata: b\n\n", []string{`"" "a"`, `"" "b"`}},
	{"CRLF", "data: a\r\n\r\ndata: b\r\n\r\n", []string{`"" "a"`, `"" "b"`}},
	{"CR", "data: a\r\rdata: b\r\r", []string{`"" "a"`, `"" "b"`}},
	{"mixed", "data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\n\r", []string{`"" "a"`, `"" "b"`, `"" "c"`, `"" "d"`}},
	{"byte order mark", "\ufeffdata: a\n\n", []string{`"" "a"`}},
	{"comments", ": ping\n\n:\n\ndata: a\n: in between\ndata: b\n\n", []string{`"" "a\nb"`}},
	{"several lines of data", "data: a\ndata:\ndata: c\n\n", []string{`"" "a\n\nc"`}},
	{"null", "data: null\n\n", []string{`"" "null"`}},
	{"no space", "data:a\n\ndata:  b\n\n", []string{`"" "a"`, `"" " b"`}},
	{"no colon", "data\n\n", []string{`"" ""`}},
	{"type", "event: error\ndata: {}\n\n", []string{`"error" "{}"`}},
	{"no data", "event: ping\nid: 1\nretry: 5\n\n", nil},
	{"unended", "data: a\n\ndata: b\n", []string{`"" "a"`}},
	{"empty lines", "\n\r\n\rdata: a\n\n\n\n", []string{`"" "a"`}},
	{"not ASCII", "data: Łódź — 火夫\n\n", []string{`"" "Łódź — 火夫"`}},
}

func TestStreams(t *testing.T) {
	for _, c := range streams {
		if got := scan(c.stream); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		if got := read(c.stream); !slices.Equal(got, c.want) {
			t.Errorf("%s: the test's own reader says %v, want %v", c.name, got, c.want)
		}
	}
}

// TestSplits: wherever a stream is cut, its events are the same.
func TestSplits(t *testing.T) {
	var b strings.Builder
	for _, c := range streams {
		b.WriteString(c.stream)
		b.WriteString("\n\n")
	}
	stream := b.String()
	want := read(stream)
	for round := range 5000 {
		random := rand.New(rand.NewPCG(1, uint64(round)))
		var pieces []string
		for rest := stream; rest != ""; {
			n := 1 + random.IntN(min(len(rest), 1+random.IntN(40)))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		if got := scan(pieces...); !slices.Equal(got, want) {
			t.Fatalf("round %d: %v, want %v", round, got, want)
		}
	}
}

func TestTooLarge(t *testing.T) {
	s := Scanner{Limit: 16}
	var got []string
	for _, p := range []string{"data: 1\n\ndata: ", strings.Repeat("x", 100), "\n\ndata: 2", "\n\n"} {
		s.Feed([]byte(p), func(e Event) { got = append(got, string(e.Data)) })
	}
	if !slices.Equal(got, []string{"1", "2"}) {
		t.Errorf("%q", got)
	}
}

func TestErrorField(t *testing.T) {
	e, _ := Parse([]byte("error: {\"code\":500}\n\n"), nil)
	if string(e.Error) != `{"code":500}` || e.HasData {
		t.Errorf("%+v", e)
	}
}

func FuzzScanner(f *testing.F) {
	for _, c := range streams {
		f.Add(c.stream, uint8(3))
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		want := read(stream)
		var pieces []string
		for rest := stream; rest != ""; {
			n := min(len(rest), 1+int(size))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		if got := scan(pieces...); !slices.Equal(got, want) {
			t.Fatalf("%v, want %v", got, want)
		}
	})
}

func BenchmarkScanner(b *testing.B) {
	event := []byte(`data: {"id":"chatcmpl-123","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}` + "\n\n")
	var s Scanner
	b.SetBytes(int64(len(event)))
	for b.Loop() {
		s.Feed(event, func(Event) {})
	}
}
