package tokens

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func event(content, more string) string {
	return fmt.Sprintf("data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"llama\",\"choices\":[{\"index\":0,\"delta\":{\"content\":%q},\"logprobs\":null,\"finish_reason\":null}]%s}\n\n", content, more)
}

const (
	vllmUsage  = `data: {"id":"chatcmpl-1","model":"llama","choices":[],"usage":{"prompt_tokens":100,"total_tokens":103,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":64}}}` + "\n\n"
	llamaLast  = `data: {"choices":[{"finish_reason":"stop","index":0,"delta":{}}],"model":"llama","timings":{"cache_n":90,"prompt_n":10,"prompt_ms":1.5,"predicted_n":5}}` + "\n\n"
	preamble   = `data: {"id":"chatcmpl-1","model":"llama","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}` + "\n\n"
	streamDone = "data: [DONE]\n\n"
)

func TestCounts(t *testing.T) {
	document := `{"id":"cmpl-1","object":"text_completion","model":"llama","choices":[{"text":"` + strings.Repeat("word ", 4000) + `"}],`
	for _, tc := range []struct {
		name   string
		stream bool
		text   string
		want   Count // without First and Gaps
		none   bool
	}{
		{"a stream", true, event("a", "") + event("b", "") + ": ping\n\n" + event("c", "") + streamDone, Count{Model: "llama", Stream: true, Completion: 3, Cached: -1}, false},
		{"a stream with usage at its end", true, event("a", `,"usage":null`) + event("b", "") + vllmUsage + streamDone, Count{Model: "llama", Stream: true, Prompt: 100, Completion: 3, Told: true, Cached: 64}, false},
		{"with usage in each event", true, event("a", `,"usage":{"prompt_tokens":7,"completion_tokens":1}`) + event("b", `,"usage": {"prompt_tokens":7,"completion_tokens":2}`) + streamDone, Count{Model: "llama", Stream: true, Prompt: 7, Completion: 2, Told: true, Cached: -1}, false},
		{"llama-server's timings", true, event("a", "") + llamaLast + streamDone, Count{Model: "llama", Stream: true, Prompt: 100, Completion: 5, Told: true, Cached: 90}, false},
		{"who speaks is no token", true, preamble + event("a", "") + event("b", "") + streamDone, Count{Model: "llama", Stream: true, Completion: 2, Cached: -1}, false},
		{"a call is", true, strings.Replace(preamble, `"content":""`, `"content":null,"tool_calls":[{"index":0}]`, 1) + streamDone, Count{Model: "llama", Stream: true, Completion: 1, Cached: -1}, false},
		{"a stream that breaks off", true, event("a", "") + "data: {\"choi", Count{Model: "llama", Stream: true, Completion: 1, Cached: -1}, false},
		{"text about usage", true, event(`the "usage":{"prompt_tokens":9} of it`, "") + streamDone, Count{Model: "llama", Stream: true, Completion: 1, Cached: -1}, false},
		{"no token", true, ": ping\n\n", Count{}, true},
		{"a document", false, document + `"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"prompt_tokens_details":null},"kv_transfer_params":null}`, Count{Model: "llama", Prompt: 12, Completion: 34, Told: true, Cached: -1}, false},
		{"llama-server's document", false, document + `"usage":{"completion_tokens":4,"prompt_tokens":10,"prompt_tokens_details":{"cached_tokens":8}},"timings":{"cache_n":8,"prompt_n":2}}`, Count{Model: "llama", Prompt: 10, Completion: 4, Told: true, Cached: 8}, false},
		{"embeddings", false, `{"object":"list","data":[],"model":"e","usage":{"prompt_tokens":5,"total_tokens":5}}`, Count{Model: "e", Prompt: 5, Told: true, Cached: -1}, false},
		{"another document", false, `{"status":"ok"}`, Count{}, true},
		{"nonsense", false, document + `"usage":{"prompt_tokens":"many"}}`, Count{}, true},
		{"an impossible one", false, document + `"usage":{"prompt_tokens":5,"completion_tokens":-3,"prompt_tokens_details":{"cached_tokens":9}}}`, Count{Model: "llama", Prompt: 5, Told: true, Cached: 5}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var m Meter
			r := rand.New(rand.NewPCG(1, 2))
			for round := range 50 {
				m.Begin(tc.stream)
				for rest := tc.text; rest != ""; {
					n := len(rest)
					if round > 0 {
						n = 1 + r.IntN(min(len(rest), 1+r.IntN(400)))
					}
					if round == 0 || tc.stream || len(rest) < len(tc.text) {
						m.Write([]byte(rest[:n]))
					} else {
						n = min(len(rest), 64) // what holds the name comes in one piece, as a rule
						m.Write([]byte(rest[:n]))
					}
					rest = rest[n:]
				}
				got, ok := m.End()
				got.First, got.Gaps = time.Time{}, Gaps{}
				if ok == tc.none || ok && got != tc.want {
					t.Fatalf("round %d: %+v, %t; want %+v", round, got, ok, tc.want)
				}
			}
		})
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m Meter
		start := time.Now()
		m.Begin(true)
		time.Sleep(300 * time.Millisecond)
		m.Write([]byte(event("a", "")))
		time.Sleep(20 * time.Millisecond)
		m.Write([]byte(event("b", "") + event("c", "")))
		time.Sleep(time.Second)
		half := event("d", "")
		m.Write([]byte(half[:20]))
		time.Sleep(time.Second)
		m.Write([]byte(half[20:] + streamDone))
		c, _ := m.End()
		if got := c.First.Sub(start); got != 300*time.Millisecond || c.Gaps.sum != 2020*time.Millisecond {
			t.Errorf("first after %s, gaps of %s together", got, c.Gaps.sum)
		}
		all := NewMetrics(nil)
		all.Configure([]string{"llama"})
		all.Observe("p", "", start, &c)
		all.Observe("p", "made up", start, &c)
		s := all.Summaries()
		if len(s) != 2 || s[0].Model != "llama" || s[1].Model != Other || s[0].CompletionTokens != 4 || s[0].CachedShare != nil ||
			s[0].FirstTokenP50 < 200 || s[0].FirstTokenP50 > 350 || s[0].BetweenTokensP50 > 20 || s[0].BetweenTokensP90 < 1000 {
			t.Errorf("%+v", s)
		}
	})
}

func TestModelsAreBounded(t *testing.T) {
	m := NewMetrics(nil)
	for i := range 3 * maxModels {
		m.Learn(fmt.Sprint("m", i))
	}
	m.Configure([]string{"own"})
	for i := range 3 * maxModels {
		m.Observe("p", fmt.Sprint("m", i), time.Now(), &Count{Cached: 1, Prompt: 2})
	}
	m.Observe("p", "own", time.Now(), &Count{Cached: 1, Prompt: 4})
	s := m.Summaries()
	if len(s) != maxModels+2 {
		t.Errorf("%d models", len(s))
	}
	if last := s[len(s)-1]; last.Model != "own" && *s[len(s)-2].CachedShare != .5 {
		t.Errorf("%+v", last)
	}
	var none *Metrics
	none.Learn("m")
}

func BenchmarkMeter(b *testing.B) {
	one := []byte(event(" token", ""))
	logprobs := []byte(event(" token", `,"logprobs":{"content":[`+strings.Repeat(`{"token":"x","logprob":-0.25,"bytes":[120],"top_logprobs":[]},`, 20)+`{}]}`))
	for _, tc := range []struct {
		name  string
		begin bool
		p     []byte
	}{{"not counted", false, one}, {"a token", true, one}, {"a token with logprobs", true, logprobs}, {"half a token", true, one[:100]}} {
		b.Run(tc.name, func(b *testing.B) {
			var m Meter
			if tc.begin {
				m.Begin(true)
			}
			b.SetBytes(int64(len(tc.p)))
			b.ReportAllocs()
			for b.Loop() {
				m.Write(tc.p)
			}
		})
	}
}

// BenchmarkDocument is a small answer that tells its usage.
func BenchmarkDocument(b *testing.B) {
	p := []byte(`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"llama","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,"prompt_tokens_details":{"cached_tokens":8}}}`)
	var m Meter
	b.ReportAllocs()
	for b.Loop() {
		m.Begin(false)
		m.Write(p)
		if c, ok := m.End(); !ok || c.Completion != 34 {
			b.Fatal(c)
		}
	}
}

// FuzzMeter: whatever an engine sends, in whatever pieces, is counted the same,
// and no count is absurd.
func FuzzMeter(f *testing.F) {
	for _, text := range []string{event("a", "") + vllmUsage + streamDone, event("a", "") + llamaLast, `{"model":"m","usage":{"prompt_tokens":1}}`, "data:\r\rdata: {\n\n"} {
		f.Add([]byte(text), uint16(7), true)
		f.Add([]byte(text), uint16(100), false)
	}
	f.Fuzz(func(t *testing.T, text []byte, size uint16, stream bool) {
		if len(text) > maxEvent/2 {
			return // an event that is too large to be held is counted if it comes whole
		}
		var whole, pieces Meter
		whole.Begin(stream)
		whole.Write(text)
		want, wantOK := whole.End()
		pieces.Begin(stream)
		for rest := text; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			pieces.Write(rest[:n])
			rest = rest[n:]
		}
		got, ok := pieces.End()
		got.First, got.Gaps, want.First, want.Gaps = time.Time{}, Gaps{}, time.Time{}, Gaps{}
		if !stream { // a name that is not in the first piece is not found
			got.Model, want.Model = "", ""
		}
		if got != want || ok != wantOK {
			t.Fatalf("whole %+v, %t; in pieces of %d %+v, %t", want, wantOK, int(size)+1, got, ok)
		}
		if got.Prompt < 0 || got.Completion < 0 || got.Cached > got.Prompt || cap(pieces.tail) > 2*tailSize {
			t.Fatalf("%+v, and %d bytes are kept", got, cap(pieces.tail))
		}
	})
}

// TestKeysAreFound compares with what package strings finds, in texts made of what
// looks like the keys.
func TestKeysAreFound(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	parts := []string{`"usage":`, `"timings":`, `"model":`, `usage":`, `"usa`, `ge":`, `"timing`, "g", "m", `"`, "{", "x"}
	for range 20_000 {
		var text string
		for range r.IntN(6) {
			text += parts[r.IntN(len(parts))]
		}
		usage, timings := lastOf([]byte(text))
		if wantUsage, wantTimings := strings.LastIndex(text, `"usage":`), strings.LastIndex(text, `"timings":`); usage != wantUsage || timings != wantTimings {
			t.Fatalf("%q: %d and %d, want %d and %d", text, usage, timings, wantUsage, wantTimings)
		}
		if got, want := find([]byte(text), modelKey, 'm'), strings.Index(text, `"model":`); got != want {
			t.Fatalf("%q: %d, want %d", text, got, want)
		}
	}
}
