package continuation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"testing"

	"stoker/internal/sse"
)

// Streams in the forms that engines document, one event a line, each as some worker
// would send it: ID stands for what every run calls otherwise.
var recorded = map[string]struct {
	body   string
	target string
	events []string
}{
	"vLLM, chat with reasoning and logprobs": {`{"stream":true,"seed":1,"logprobs":true,"stream_options":{"include_usage":true}}`, "/v1/chat/completions", []string{
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[{"index":0,"delta":{"reasoning_content":"Let me"},"logprobs":{"content":[{"token":"Let","logprob":-0.5,"bytes":[76],"top_logprobs":[]},{"token":" me","logprob":-0.25,"bytes":[32],"top_logprobs":[]}]},"finish_reason":null}],"usage":null}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[{"index":0,"delta":{"reasoning_content":" \"think\""},"logprobs":{"content":[{"token":"t","logprob":-0.1,"bytes":[116],"top_logprobs":[]}]},"finish_reason":null}],"usage":null}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[{"index":0,"delta":{"content":"Łódź \u706b"},"logprobs":{"content":[{"token":"L","logprob":-0.2,"bytes":[76],"top_logprobs":[]}]},"finish_reason":null}],"usage":null}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[{"index":0,"delta":{"content":" \ud83d\ude82."},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":null}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"Qwen3","choices":[],"usage":{"prompt_tokens":9,"total_tokens":15,"completion_tokens":6}}`,
		`[DONE]`,
	}},
	"vLLM, two calls of tools": {`{"stream":true,"temperature":0,"tools":[{}]}`, "/v1/chat/completions", []string{
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"id":"chatcmpl-tool-ID","type":"function","index":0,"function":{"name":"heat"}}]},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"deg"}}]},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"rees\": 90}"}}]},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"id":"chatcmpl-tool-ID","type":"function","index":1,"function":{"name":"open","arguments":""}}]},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"function":{"arguments":"{}"}}]},"finish_reason":null}]}`,
		`{"id":"chatcmpl-ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"content":""},"finish_reason":"tool_calls"}]}`,
		`[DONE]`,
	}},
	"SGLang, two choices": {`{"stream":true,"temperature":0,"n":2}`, "/v1/chat/completions", []string{
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"role":null,"content":"one","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":1,"delta":{"role":"assistant","content":"","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":1,"delta":{"role":null,"content":"two","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"role":null,"content":" more","reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":null,"matched_stop":null}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":0,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":"stop","matched_stop":2}],"usage":null}`,
		`{"id":"ID","object":"chat.completion.chunk","created":ID,"model":"m","choices":[{"index":1,"delta":{"role":null,"content":null,"reasoning_content":null,"tool_calls":null},"logprobs":null,"finish_reason":"length","matched_stop":null}],"usage":null}`,
		`[DONE]`,
	}},
	"vLLM, completions with logprobs and token ids": {`{"stream":true,"temperature":0,"prompt":"x","logprobs":1}`, "/v1/completions", []string{
		`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" a","logprobs":{"text_offset":[0],"token_logprobs":[-1.5],"tokens":[" a"],"top_logprobs":[{" a":-1.5}]},"finish_reason":null,"stop_reason":null,"token_ids":[64]}]}`,
		`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" b","logprobs":{"text_offset":[2],"token_logprobs":[-2.5],"tokens":[" b"],"top_logprobs":[{" b":-2.5}]},"finish_reason":null,"stop_reason":null,"token_ids":[65,66]}]}`,
		`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":[]}]}`,
		`[DONE]`,
	}},
}

// view is what a client puts together of events: every string and list by its
// path, and what names the run.
type view map[string]string

func (v view) take(t *testing.T, data string) {
	t.Helper()
	if data == "[DONE]" {
		v["done"] += "!"
		return
	}
	var e map[string]any
	if err := json.Unmarshal([]byte(data), &e); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	for _, key := range []string{"id", "created", "object", "model"} {
		if got := fmt.Sprint(e[key]); v[key] == "" {
			v[key] = got
		} else if v[key] != got {
			v[key] += " and " + got
		}
	}
	if e["usage"] != nil {
		v["usage"] += fmt.Sprint(e["usage"])
	}
	for _, c := range e["choices"].([]any) {
		c := c.(map[string]any)
		index := fmt.Sprint(c["index"])
		delete(c, "index")
		if _, chat := c["delta"].(map[string]any); !chat && c["text"] == nil {
			t.Fatalf("%s: neither delta nor text", data)
		}
		v.add(index, c)
	}
}

func (v view) add(path string, value any) {
	switch value := value.(type) {
	case map[string]any:
		keys := make([]string, 0, len(value))
		for k := range value {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			v.add(path+"."+k, value[k])
		}
	case []any:
		for _, x := range value {
			if m, ok := x.(map[string]any); ok && m["index"] != nil {
				i := fmt.Sprint(m["index"])
				delete(m, "index")
				v.add(path+"."+i, m)
				continue
			}
			v[path] += fmt.Sprint(x) + ";"
		}
	case string:
		v[path] += value
	case nil:
	default:
		v[path] += fmt.Sprint(value)
	}
}

// run names a run in recorded events.
func run(events []string, id string) []string {
	named := make([]string, len(events))
	for i, e := range events {
		named[i] = strings.ReplaceAll(e, "ID", id)
	}
	return named
}

// feed gives a stream events, and what is left of them to a view.
func feed(t *testing.T, s *Stream, v view, events []string) error {
	t.Helper()
	for _, e := range events {
		raw := []byte("data: " + e + "\n\n")
		pass, err := s.Take(raw)
		if err != nil {
			return err
		}
		switch pass {
		case Changed:
			raw = s.Changed()
		case Nothing:
			continue
		case Whole:
		}
		got, _ := sse.Parse(raw, nil)
		v.take(t, string(got.Data))
	}
	return nil
}

// TestRecordedStreams breaks each after every event, and once more.
func TestRecordedStreams(t *testing.T) {
	for name, c := range recorded {
		t.Run(name, func(t *testing.T) {
			want := view{}
			for _, e := range run(c.events, "100") {
				want.take(t, e)
			}
			for first := range len(c.events) {
				for second := range len(c.events) {
					r := Parse(c.target, []byte(c.body))
					budget := NewBudget(1 << 20)
					s := NewStream(r, Profile{}, 1<<20, budget)
					got := view{}
					if err := feed(t, s, got, run(c.events[:first], "100")); err != nil {
						t.Fatal(err)
					}
					s.Repeat()
					if err := feed(t, s, got, run(c.events[:second], "200")); err != nil {
						t.Fatal(err)
					}
					s.Repeat()
					if err := feed(t, s, got, run(c.events, "300")); err != nil {
						t.Fatal(err)
					}
					want := want
					if first == 0 {
						id := "200"
						if second == 0 {
							id = "300"
						}
						want = view{}
						for _, e := range run(c.events, id) {
							want.take(t, e)
						}
					}
					a, b := fmt.Sprint(got), fmt.Sprint(want)
					if first > 0 && strings.Contains(name, "tools") { // the second call's id is whose who said it first
						for _, id := range []string{"200", "300"} {
							a = strings.ReplaceAll(a, "chatcmpl-tool-"+id, "chatcmpl-tool-100")
						}
					}
					if first > 0 && a != b || !s.Whole() {
						t.Errorf("broken after %d and %d events:\n%s, want\n%s", first, second, a, b)
					}
					s.Close()
					if budget.Left() != 1<<20 {
						t.Error("memory is not given back")
					}
				}
			}
		})
	}
}

// TestOtherPieces: what a worker sends in other pieces than the one before is the same.
func TestOtherPieces(t *testing.T) {
	text := strings.Repeat("Wasser, \"Feuer\", – Łódź\n火 🚂 \\ ", 8)
	pieces := func(random *rand.Rand, id string) []string {
		events := []string{`{"id":"` + id + `","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}`}
		for rest := []rune(text); len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(9))
			quoted, _ := json.Marshal(string(rest[:n]))
			events = append(events, `{"id":"`+id+`","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{"content":`+string(quoted)+`},"finish_reason":null}]}`)
			rest = rest[n:]
		}
		return append(events, `{"id":"`+id+`","object":"o","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`, "[DONE]")
	}
	for round := range 500 {
		random := rand.New(rand.NewPCG(2, uint64(round)))
		s := NewStream(Parse("/v1/chat/completions", []byte(`{"stream":true,"temperature":0}`)), Profile{}, 1<<20, nil)
		got := view{}
		for i := range 3 {
			events := pieces(random, fmt.Sprint("run", i))
			if i < 2 {
				events = events[:1+random.IntN(len(events)-2)]
			}
			if i > 0 {
				s.Repeat()
			}
			if err := feed(t, s, got, events); err != nil {
				t.Fatal(err)
			}
		}
		if got["0.delta.content"] != text || got["id"] != "run0" || got["0.delta.role"] != "assistant" || got["0.finish_reason"] != "stop" || got["done"] != "!" {
			t.Fatalf("round %d: %v", round, got)
		}
	}
}

// TestGoOn asks for the rest of a text.
func TestGoOn(t *testing.T) {
	for _, tc := range []struct {
		name, target, body, engine string
		events                     []string
		want                       string
		tail                       string
	}{
		{
			name: "chat", target: "/v1/chat/completions",
			body:   `{"model":"m","stream":true,"max_tokens":10,"messages":[{"role":"user","content":"x"}]}`,
			events: []string{`{"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}`, `{"id":"1","choices":[{"index":0,"delta":{"content":"Ein \"Wort"}}]}`},
			want:   `{"model":"m","stream":true,"max_tokens":9,"messages":[{"role":"user","content":"x"},{"role":"assistant","content":"Ein \"Wort"}],"continue_final_message":true,"add_generation_prompt":false}`,
		},
		{
			name: "completions", target: "/v1/completions", body: `{"stream":true,"prompt":"Es \u00e4","max_completion_tokens":5}`,
			events: []string{`{"id":"1","choices":[{"index":0,"text":" war"}]}`},
			want:   `{"stream":true,"prompt":"Es ä war","max_completion_tokens":4}`,
		},
		{
			name: "vLLM is asked for usage", target: "/v1/chat/completions", engine: "vllm", body: `{"stream":true,"messages":[{"role":"user"}],"max_tokens":8,"stream_options":{"include_usage":true}}`,
			events: []string{`{"id":"1","choices":[{"index":0,"delta":{"content":" war"}}],"usage":{"prompt_tokens":4,"completion_tokens":3}}`},
			want:   `{"stream":true,"messages":[{"role":"user"},{"role":"assistant","content":" war"}],"max_tokens":5,"stream_options":{"include_usage":true,"continuous_usage_stats":true},"continue_final_message":true,"add_generation_prompt":false}`,
		},
		{
			name: "all spent", target: "/v1/completions", body: `{"stream":true,"prompt":"x","max_tokens":1}`,
			events: []string{`{"id":"1","choices":[{"index":0,"text":" war"}]}`},
			tail:   "data: {\"id\":\"1\",\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, _ := ProfileOf(tc.engine)
			s := NewStream(Parse(tc.target, []byte(tc.body)), p, 1<<20, nil)
			got := view{}
			if err := feed(t, s, got, tc.events); err != nil {
				t.Fatal(err)
			}
			if got["usage"] != "" {
				t.Errorf("the client is sent the usage %s, for which it has not asked", got["usage"])
			}
			f := s.Facts()
			f.Mode, f.Limit = Continue, 3
			plan, _ := Decide(f)
			if tc.tail != "" {
				if plan != Finishing || string(s.Tail()) != tc.tail {
					t.Errorf("plan %d, %s", plan, s.out)
				}
				return
			}
			if plan != GoingOn {
				t.Fatalf("plan %d", plan)
			}
			if body := string(s.GoOn()); body != tc.want {
				t.Errorf("%s, want\n%s", body, tc.want)
			}
			if err := feed(t, s, got, []string{
				`{"id":"2","choices":[{"index":0,"delta":{"role":"assistant","content":" mehr"},"text":" mehr","finish_reason":"stop"}]}`,
				`{"id":"2","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":2,"total_tokens":14}}`, "[DONE]",
			}); err != nil {
				t.Fatal(err)
			}
			if got["id"] != "1" || !strings.HasSuffix(got["0.delta.content"]+got["0.text"], " mehr") || got["done"] != "!" {
				t.Errorf("%v", got)
			}
			if tc.engine == "vllm" && got["usage"] != "map[completion_tokens:5 prompt_tokens:4 total_tokens:9]" {
				t.Errorf("usage %s", got["usage"])
			}
		})
	}
}

func TestDecide(t *testing.T) {
	said := Facts{Mode: Replay, Limit: 3, Said: true}
	change := func(f func(*Facts)) Facts {
		c := said
		f(&c)
		return c
	}
	for _, tc := range []struct {
		facts Facts
		plan  Plan
		why   string
	}{
		{said, GiveUp, GivenUpRandom},
		{change(func(f *Facts) { f.Said = false }), Repeating, ""},
		{change(func(f *Facts) { f.Deterministic = true }), Repeating, ""},
		{change(func(f *Facts) { f.Deterministic, f.Moves = true, 3 }), GiveUp, GivenUpLimit},
		{change(func(f *Facts) { f.Deterministic, f.Lost = true, true }), GiveUp, GivenUpTooLarge},
		{change(func(f *Facts) { f.Deterministic, f.Diverged = true, true }), GiveUp, GivenUpDiverged},
		{change(func(f *Facts) { f.Deterministic, f.Diverged, f.Mode, f.Continues = true, true, Continue, true }), GoingOn, ""},
		{change(func(f *Facts) { f.Continues = true }), GiveUp, GivenUpRandom},
		{change(func(f *Facts) { f.Mode = Continue }), GiveUp, GivenUpRandom},
		{change(func(f *Facts) { f.Mode, f.Continues, f.Spent = Continue, true, true }), GiveUp, GivenUpUnfinished},
		{change(func(f *Facts) { f.Mode, f.Continues, f.Spent, f.Complete = Continue, true, true, true }), Finishing, ""},
		{change(func(f *Facts) { f.Finished, f.Complete, f.Moves = true, true, 3 }), Finishing, ""},
		{change(func(f *Facts) { f.Finished = true }), GiveUp, GivenUpUnfinished},
		{change(func(f *Facts) { f.Finished, f.Deterministic = true, true }), Repeating, ""},
	} {
		if plan, why := Decide(tc.facts); plan != tc.plan || why != tc.why {
			t.Errorf("%+v: %d, %q, want %d, %q", tc.facts, plan, why, tc.plan, tc.why)
		}
	}
}

func BenchmarkStream(b *testing.B) {
	raw := []byte(`data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":" word"}}],"created":1795946969,"id":"chatcmpl-EbyuHQyBApk2RdoJFPYl4snk1Eex2Bkl","model":"/opt/tiny/tiny.gguf","system_fingerprint":"b11669-Debian","object":"chat.completion.chunk"}` + "\n\n")
	r := Parse("/v1/chat/completions", []byte(`{"stream":true,"temperature":0}`))
	s := NewStream(r, Profile{}, 1<<20, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			s = NewStream(r, Profile{}, 1<<20, nil)
		}
		if _, err := s.Take(raw); err != nil {
			b.Fatal(err)
		}
	}
}
