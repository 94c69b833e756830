package continuation

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// completion is an event of vLLM's, or SGLang's, whose request had
// return_token_ids and continuous_usage_stats; tokens are so many so far.
func completion(text, promptIDs, ids string, tokens int) string {
	return fmt.Sprintf(`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":%q,"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":%s,"token_ids":%s}],"usage":{"prompt_tokens":3,"total_tokens":%d,"completion_tokens":%d}}`,
		text, promptIDs, ids, 3+tokens, tokens)
}

const (
	lastCompletion = `{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":".","logprobs":null,"finish_reason":"stop","stop_reason":null,"prompt_token_ids":null,"token_ids":[9,2]}]}`
	allUsage       = `{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[],"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d}}`
)

var idsMembers = regexp.MustCompile(`,"prompt_token_ids":[^:]*,"token_ids":(null|\[[^]]*\])`)

// TestGoOnByTokens breaks completions in the forms that vLLM and SGLang document.
func TestGoOnByTokens(t *testing.T) {
	const usual = `{"stream":true,"prompt":"Es","max_tokens":20,"stream_options":{"include_usage":true}}`
	for _, tc := range []struct {
		name, body string
		limit      int64
		events     []string
		prompt     string // of the request for the rest; empty: nobody can be asked
		left       int    // of max_tokens
	}{
		{"whole", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1), completion(" ein", "null", "[65, 66]", 3)}, "[1,20,3,64,65, 66]", 17},
		{"the first alone", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1)}, "[1,20,3,64]", 19},
		{"half a character last", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1), completion("", "null", "[70]", 2), completion("", "null", "[71]", 3)}, "[1,20,3,64]", 19},
		{"half a character before", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1), completion("", "null", "[70]", 2), completion("火", "null", "[71]", 3)}, "[1,20,3,64,70,71]", 17},
		{"a hole", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1), completion(" ein", "null", "null", 2), completion("!", "null", "[65]", 3)}, `"Es war ein!"`, 17},
		{"a hole by an empty list", usual, 1 << 20, []string{completion(" war", "[1,20,3]", "[]", 1)}, `"Es war"`, 19},
		{"no numbers", usual, 1 << 20, []string{completion(" war", "[1,20,3]", `["a"]`, 1)}, `"Es war"`, 19},
		{"those of the prompt are missing", usual, 1 << 20, []string{completion(" war", "null", "[64]", 1)}, `"Es war"`, 19},
		{"an engine that knows nothing of it", usual, 1 << 20, []string{`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" war","logprobs":null,"finish_reason":null}]}`}, `"Es war"`, 19},
		{"the end is no end", strings.Replace(usual, `"stream":true`, `"stream":true,"ignore_eos":true`, 1), 1 << 20, []string{`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" war","finish_reason":null}]}`}, `"Es war"`, 19},
		{"the client has asked for them", strings.Replace(usual, `"stream":true`, `"stream":true,"return_token_ids":true`, 1), 1 << 20, []string{completion(" war", "[1,20,3]", "[64]", 1)}, "", 0},
		{"no room for a long prompt", usual, 8*int64(len(usual)) - 1, []string{`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" war","finish_reason":null}]}`}, `"Es war"`, 19},
		{"a prompt of tokens", strings.Replace(usual, `"Es"`, `[1, 20, 3]`, 1), 1 << 20, []string{completion(" war", "null", "[64]", 1)}, "[1, 20, 3,64]", 19},
		{"a prompt of tokens, and a hole", strings.Replace(usual, `"Es"`, `[1, 20, 3]`, 1), 1 << 20, []string{completion(" war", "null", "null", 1)}, "", 0},
		{"a list of texts", strings.Replace(usual, `"Es"`, `["Es"]`, 1), 1 << 20, []string{`{"id":"cmpl-ID","object":"text_completion","created":ID,"model":"m","choices":[{"index":0,"text":" war","finish_reason":null}]}`}, "", 0},
	} {
		for _, engine := range []string{"vllm", "sglang"} {
			t.Run(tc.name+", "+engine, func(t *testing.T) {
				p, _ := ProfileOf(engine)
				budget := NewBudget(1 << 20)
				s := NewStream(Parse("/v1/completions", []byte(tc.body)), p, tc.limit, budget)
				got := view{}
				if err := feed(t, s, got, run(tc.events, "100")); err != nil {
					t.Fatal(err)
				}
				f := s.Facts()
				f.Mode, f.Limit = Continue, 3
				if plan, why := Decide(f); (plan == GoingOn) != (tc.prompt != "") {
					t.Fatalf("plan %d, %q", plan, why)
				}
				if tc.prompt == "" {
					return
				}
				body := string(s.GoOn())
				if !strings.Contains(body, `"prompt":`+tc.prompt+`,"max_tokens":`+fmt.Sprint(tc.left)+",") {
					t.Errorf("%s", body)
				}
				// Another goes on, breaks off as well, and a third has the end.
				had := 20 - tc.left
				says := func(events ...string) {
					for i := range events {
						if !strings.Contains(body, "return_token_ids") {
							events[i] = idsMembers.ReplaceAllString(events[i], "")
						}
					}
					if err := feed(t, s, got, events); err != nil {
						t.Fatal(err)
					}
				}
				says(run([]string{strings.Replace(completion(" alt", "[7,7,7]", "[80]", 1), `{"prompt_tokens":3,`, fmt.Sprintf(`{"prompt_tokens":%d,`, 3+had), 1)}, "200")...)
				body = string(s.GoOn())
				if list, isList := strings.CutSuffix(tc.prompt, "]"); isList && !strings.Contains(body, `"prompt":`+list+`,80],"max_tokens":`+fmt.Sprint(tc.left-1)+",") {
					t.Errorf("%s", body)
				} else if !isList && !strings.Contains(body, strings.TrimSuffix(tc.prompt, `"`)+` alt","max_tokens":`+fmt.Sprint(tc.left-1)+",") {
					t.Errorf("%s", body)
				}
				prompt := 3 + had + 1 // as the third counts
				says(run([]string{lastCompletion, fmt.Sprintf(allUsage, prompt, prompt+2, 2), "[DONE]"}, "300")...)
				if !strings.HasSuffix(got["0.text"], " alt.") || got["id"] != "cmpl-100" || got["done"] != "!" || got["0.token_ids"]+got["0.prompt_token_ids"] != "" {
					t.Errorf("%v", got)
				}
				if want := fmt.Sprintf("map[completion_tokens:%d prompt_tokens:3 total_tokens:%d]", had+3, had+6); got["usage"] != want {
					t.Errorf("usage %s, want %s", got["usage"], want)
				}
				s.Close()
				if budget.Left() != 1<<20 {
					t.Error("memory is not given back")
				}
			})
		}
	}
}

// BenchmarkStreamByIDs is what an event costs whose tokens, and usage so far, are
// taken off.
func BenchmarkStreamByIDs(b *testing.B) {
	raw := []byte("data: " + strings.ReplaceAll(completion(" word", "null", "[1234]", 7), "ID", "1700000000") + "\n\n")
	r := Parse("/v1/completions", []byte(`{"stream":true,"prompt":"x","stream_options":{"include_usage":true}}`))
	s := NewStream(r, vLLM, 1<<20, nil)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			s = NewStream(r, vLLM, 1<<20, nil)
		}
		if pass, err := s.Take(raw); err != nil || pass != Changed {
			b.Fatal(pass, err)
		}
	}
}
