package continuation

import (
	"strings"
	"testing"
)

// chunk is an event of a chat, of a choice.
func chunk(index, content, finish string) string {
	return `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":` + index + `,"delta":{"content":"` + content + `"},"finish_reason":` + finish + `}]}` + "\n\n"
}

const (
	ends      = `"stop"`
	goesOn    = "null"
	usageOnly = `data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":9,"total_tokens":15,"completion_tokens":6}}` + "\n\n"
	azure     = `data: {"id":"","choices":[],"prompt_filter_results":[{"prompt_index":0}],"usage":null}` + "\n\n"
	said      = "data: [DONE]\n\n"
)

func TestEnding(t *testing.T) {
	long := strings.Repeat("word ", 400)
	text := strings.Repeat(chunk("0", " word", goesOn), 30)
	for _, tc := range []struct {
		name, stream string
		whole        bool
	}{
		{"[DONE]", text + chunk("0", "", ends) + said, true},
		{"[DONE] and no finish_reason", text + said, true},
		{"[DONE] without its empty line", text + "data: [DONE]", true},
		{"[DONE] with CRLF", strings.ReplaceAll(text+said, "\n", "\r\n"), true},
		{"[DONE] without the space", text + "data:[DONE]\n\n", true},
		{"[DONE], and a comment", text + said + ": ping\n\n", true},
		{"[DONE] alone", said, true},
		{"[DONE] in another field", text + "xdata: [DONE]\n\n", false},
		{"[DONE] in a text", chunk("0", "data: [DONE]\\n\\n", goesOn), false},
		{"a finish_reason and no [DONE]", text + chunk("0", "", ends), true},
		{"a finish_reason, the usage, and no [DONE]", text + chunk("0", "", ends) + usageOnly, true},
		{"a finish_reason with the last words", chunk("0", long, ends), true},
		{"one event", chunk("0", "all", ends), true},
		{"one with a byte order mark", "\ufeff" + chunk("0", "all", ends), true},
		{"the finish_reason of one choice of two", text + chunk("0", " a", goesOn) + chunk("1", " b", goesOn) + chunk("0", "", ends), false},
		{"those of both", text + chunk("0", " a", goesOn) + chunk("1", " b", goesOn) + chunk("0", "", ends) + chunk("1", "", ends), true},
		{"one that ended long ago", chunk("0", "", ends) + strings.Repeat(chunk("1", " b", goesOn), 30) + chunk("1", "", ends), true},
		{"what is said of a filter after the end", text + chunk("0", "", ends) + chunk("0", "", goesOn), true},
		{"words", text, false},
		{"words, and pings for long", text + strings.Repeat(": ping\n\n", 1000), false},
		{"words about a finish_reason", text + chunk("0", `\"finish_reason\":\"stop\"`, goesOn), false},
		{"long words", chunk("0", long, goesOn), false},
		{"usage so far with the words", strings.ReplaceAll(text, `,"choices"`, `,"usage":{"prompt_tokens":9,"completion_tokens":1},"choices"`), false},
		{"who speaks", chunk("0", "", goesOn), false},
		{"a filter's word on the prompt", azure, false},
		{"that, and an answer", azure + text + chunk("0", "", ends), true},
		{"half an event", text + "data: {\"id\":", false},
		{"half of the last", text + strings.TrimSuffix(chunk("0", "", ends), "}\n\n"), false},
		{"the last without its empty line", text + strings.TrimSuffix(chunk("0", "", ends), "\n\n"), false},
		{"half of the usage", text + chunk("0", "", ends) + usageOnly[:50], false},
		{"half of a long event", "data: {\"choices\":[{\"delta\":{\"content\":\"" + long, false},
		{"half of a long event after others", text + "data: {\"choices\":[{\"delta\":{\"content\":\"" + long, false},
		{"nothing", "", false},
		{"a comment", ": ping\n\n", false},
		{"an error", text + `data: {"error":{"message":"out of memory","code":500}}` + "\n\n", true},
		{"an error in words", text + `data: {"error":"out of memory"}` + "\n\n", true},
		{"an error that no client sees", text + `error: {"message":"out of memory","code":500}` + "\n\n", false},
		{"not JSON", "data: one\n\ndata: two\n\n", true},
		{"llama-server's own form", strings.Repeat(`data: {"content":" word","stop":false}`+"\n\n", 60) + `data: {"content":"","stop":true,"prompt":"` + long + `"}` + "\n\n", true},
		{"llama-server's own form, cut", strings.Repeat(`data: {"content":" word","stop":false}`+"\n\n", 60) + `data: {"content":"" `, true},
		{"a gateway's word before", "data: {\"type\":\"start\"}\n\n" + text, false},
		{"a gateway's word behind", text + chunk("0", "", ends) + "data: {\"cost\":1}\n\n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var e Ending
			for _, size := range []int{1 << 20, 1, 7, 100, tailSize - 1, tailSize, tailSize + 1} {
				e.Begin()
				for rest := tc.stream; rest != ""; {
					n := min(size, len(rest))
					e.Write([]byte(rest[:n]))
					rest = rest[n:]
				}
				if got := e.Whole(); got != tc.whole {
					t.Errorf("in pieces of %d: %t", size, got)
				}
			}
		})
	}
}

// TestEndingsOfEngines: every recorded stream ends as such, without its [DONE] as
// well, and is broken wherever else an engine ends it.
func TestEndingsOfEngines(t *testing.T) {
	for name, r := range recorded {
		last := 0
		for i, event := range r.events {
			if strings.Contains(event, `"finish_reason":"`) {
				last = i
			}
		}
		for i := range r.events {
			var e Ending
			e.Begin()
			for _, event := range r.events[:i+1] {
				e.Write([]byte("data: " + event + "\n\n"))
			}
			if got := e.Whole(); got != (i >= last) {
				t.Errorf("%s, ended after event %d of %d: %t", name, i, len(r.events), got)
			}
		}
	}
}

// FuzzEnding: pieces make no difference.
func FuzzEnding(f *testing.F) {
	f.Add(chunk("0", "a", goesOn)+chunk("0", "", ends)+usageOnly, uint16(7))
	f.Add(": ping\r\n\r\ndata: [DONE]", uint16(3))
	f.Fuzz(func(t *testing.T, stream string, size uint16) {
		if len(stream) > maxFirst {
			return
		}
		var whole, pieces Ending
		whole.Begin()
		whole.Write([]byte(stream))
		pieces.Begin()
		for rest := stream; rest != ""; {
			n := min(int(size)+1, len(rest))
			pieces.Write([]byte(rest[:n]))
			rest = rest[n:]
		}
		if whole.Whole() != pieces.Whole() {
			t.Fatalf("whole %t, in pieces of %d %t", whole.Whole(), int(size)+1, pieces.Whole())
		}
	})
}

func BenchmarkEnding(b *testing.B) {
	event := []byte(chunk("0", " word", goesOn))
	var e Ending
	b.ReportAllocs()
	e.Begin()
	for b.Loop() {
		e.Write(event)
	}
}
