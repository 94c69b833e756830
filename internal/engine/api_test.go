package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// start runs an engine inside the test.
func start(t *testing.T, o Options) (*Engine, string) {
	t.Helper()
	e := New(o)
	t.Cleanup(e.Close)
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	return e, server.URL
}

type reply struct {
	*http.Response
	body string
	err  error // of reading the body
}

func do(t *testing.T, method, url, body string, header ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return reply{resp, string(data), err}
}

// eventually waits for what another goroutine is about to do.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never %s", what)
}

const chat = `"messages":[{"role":"user","content":"What does a stoker do?"}],"seed":7`

// masked takes what differs from run to run out of an answer.
func masked(body string) string {
	body = regexp.MustCompile(`"id":"(chatcmpl|cmpl)-[0-9a-f]{24}"`).ReplaceAllString(body, `"id":"$1-X"`)
	return regexp.MustCompile(`"created":1[0-9]{9}`).ReplaceAllString(body, `"created":0`)
}

// TestAnswersByteByByte holds whole answers against what OpenAI's API sends.
func TestAnswersByteByByte(t *testing.T) {
	_, url := start(t, Options{})
	const (
		chatHead  = `{"id":"chatcmpl-X","object":"chat.completion.chunk","created":0,"model":"stoker-demo","choices":[`
		plainHead = `{"id":"cmpl-X","object":"text_completion","created":0,"model":"stoker-demo","choices":[`
	)
	events := func(data ...string) string {
		var b strings.Builder
		for _, d := range append(data, "[DONE]") {
			b.WriteString("data: " + d + "\n\n")
		}
		return b.String()
	}
	for name, c := range map[string]struct{ path, body, kind, want string }{
		"chat": {
			"/v1/chat/completions", `{"model":"stoker-demo","max_tokens":2,` + chat + `}`, "application/json",
			`{"id":"chatcmpl-X","object":"chat.completion","created":0,"model":"stoker-demo","choices":[` +
				`{"index":0,"message":{"role":"assistant","content":"W1 W2"},"logprobs":null,"finish_reason":"length"}],` +
				`"usage":{"prompt_tokens":8,"completion_tokens":2,"total_tokens":10}}`,
		},
		"chat stream": {
			"/v1/chat/completions", `{"stream":true,"max_completion_tokens":2,` + chat + `}`, "text/event-stream; charset=utf-8",
			events(
				chatHead+`{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`,
				chatHead+`{"index":0,"delta":{"content":"W1"},"logprobs":null,"finish_reason":null}]}`,
				chatHead+`{"index":0,"delta":{"content":" W2"},"logprobs":null,"finish_reason":null}]}`,
				chatHead+`{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}`),
		},
		"chat stream with usage": {
			"/v1/chat/completions", `{"stream":true,"stream_options":{"include_usage":true},"max_tokens":1,` + chat + `}`, "text/event-stream; charset=utf-8",
			events(
				chatHead+`{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}`,
				chatHead+`{"index":0,"delta":{"content":"W1"},"logprobs":null,"finish_reason":null}],"usage":null}`,
				chatHead+`{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}],"usage":null}`,
				chatHead+`],"usage":{"prompt_tokens":8,"completion_tokens":1,"total_tokens":9}}`),
		},
		"completion": {
			"/v1/completions", `{"prompt":["Once"],"max_tokens":2,"seed":7}`, "application/json",
			plainHead + `{"index":0,"text":"W1 W2","logprobs":null,"finish_reason":"length"}],` +
				`"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4}}`,
		},
		"completion stream": {
			"/v1/completions", `{"prompt":"Once","stream":true,"max_tokens":1,"seed":7}`, "text/event-stream; charset=utf-8",
			events(
				plainHead+`{"index":0,"text":"W1","logprobs":null,"finish_reason":null}]}`,
				plainHead+`{"index":0,"text":"","logprobs":null,"finish_reason":"length"}]}`),
		},
		"prompt of tokens": {
			"/v1/completions", `{"prompt":[1,2,3],"max_tokens":1,"seed":7}`, "application/json",
			plainHead + `{"index":0,"text":"W1","logprobs":null,"finish_reason":"length"}],` +
				`"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := do(t, http.MethodPost, url+c.path, c.body, "X-Request-Id", "r1")
			// The words are the story's own affair; TestStories looks at them.
			words := regexp.MustCompile(`"(content|text)":"( ?)[^" ]+( [^" ]+)?"`).ReplaceAllStringFunc(masked(got.body), func(s string) string {
				key, text, _ := strings.Cut(strings.Trim(s, `"`), `":"`)
				switch {
				case strings.HasPrefix(text, " "):
					text = " W2"
				case strings.Contains(text, " "):
					text = "W1 W2"
				default:
					text = "W1"
				}
				return fmt.Sprintf(`"%s":"%s"`, key, text)
			})
			if words != c.want {
				t.Errorf("got\n%s\nwant\n%s", words, c.want)
			}
			if kind := got.Header.Get("Content-Type"); got.StatusCode != http.StatusOK || kind != c.kind {
				t.Errorf("%s, %s", got.Status, kind)
			}
			if got.Header.Get("X-Engine") != fmt.Sprintf("engine/%d", os.Getpid()) || got.Header.Get("X-Request-Id") != "r1" {
				t.Errorf("head %v", got.Header)
			}
		})
	}
}

// TestSameRequestSameAnswer also holds the stream's text against the unary answer's.
func TestSameRequestSameAnswer(t *testing.T) {
	_, url := start(t, Options{})
	_, other := start(t, Options{Seed: 1})
	ask := func(url, more string) string {
		t.Helper()
		got := do(t, http.MethodPost, url+"/v1/completions", `{"prompt":"Once upon a time"`+more+`}`)
		if !strings.Contains(got.Header.Get("Content-Type"), "event-stream") {
			return textOf(t, got.body)
		}
		var text strings.Builder
		for event := range strings.SplitSeq(strings.TrimSuffix(got.body, "data: [DONE]\n\n"), "\n\n") {
			if event != "" {
				text.WriteString(textOf(t, strings.TrimPrefix(event, "data: ")))
			}
		}
		return text.String()
	}
	first := ask(url, `,"temperature":0`)
	for _, c := range []struct {
		name, got string
		same      bool
	}{
		{"again", ask(url, `,"temperature":0`), true},
		{"streamed", ask(url, `,"temperature":0,"stream":true`), true},
		{"with a seed", ask(url, `,"seed":3`), false},
		{"of another engine", ask(other, `,"temperature":0`), false},
		{"at random", ask(url, ``), false},
	} {
		if (c.got == first) != c.same {
			t.Errorf("%s: %q, at first %q", c.name, c.got, first)
		}
	}
}

func textOf(t *testing.T, data string) string {
	t.Helper()
	var a struct {
		Choices []struct{ Text string }
	}
	if err := json.Unmarshal([]byte(data), &a); err != nil || len(a.Choices) != 1 {
		t.Fatalf("%v: %s", err, data)
	}
	return a.Choices[0].Text
}

func TestRefusals(t *testing.T) {
	e, url := start(t, Options{})
	const chatPath = "/v1/chat/completions"
	refused := 0
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		says               string
	}{
		"bad JSON":           {"POST", chatPath, `{"model":`, 400, `"type":"invalid_request_error"`},
		"empty body":         {"POST", chatPath, ``, 400, `could not parse`},
		"wrong type":         {"POST", chatPath, `{"max_tokens":"many",` + chat + `}`, 400, `max_tokens`},
		"unknown model":      {"POST", chatPath, `{"model":"gpt-9",` + chat + `}`, 404, `"code":"model_not_found"`},
		"no messages":        {"POST", chatPath, `{"model":"stoker-demo"}`, 400, `"param":"messages"`},
		"bad message":        {"POST", chatPath, `{"messages":[{"role":"user","content":5}]}`, 400, `"param":"messages.[0]"`},
		"n of 2":             {"POST", chatPath, `{"n":2,` + chat + `}`, 400, `"param":"n"`},
		"no tokens":          {"POST", chatPath, `{"max_tokens":0,` + chat + `}`, 400, `"param":"max_tokens"`},
		"too many tokens":    {"POST", chatPath, `{"max_completion_tokens":1000000,` + chat + `}`, 400, `from 1 to 131072`},
		"temperature":        {"POST", chatPath, `{"temperature":3,` + chat + `}`, 400, `"param":"temperature"`},
		"usage of no stream": {"POST", chatPath, `{"stream_options":{"include_usage":true},` + chat + `}`, 400, `"param":"stream_options"`},
		"bad stop":           {"POST", chatPath, `{"stop":5,` + chat + `}`, 400, `"param":"stop"`},
		"no prompt":          {"POST", "/v1/completions", `{}`, 400, `"param":"prompt"`},
		"two prompts":        {"POST", "/v1/completions", `{"prompt":["a","b"]}`, 400, `one prompt`},
		"wrong method":       {"GET", chatPath, ``, 405, `use POST`},
		"post to models":     {"POST", "/v1/models", ``, 405, `use GET`},
		"unknown path":       {"GET", "/v2", ``, 404, `nothing at GET /v2`},
	} {
		got := do(t, c.method, url+c.path, c.body)
		var parsed struct {
			Error struct{ Message, Type string }
		}
		err := json.Unmarshal([]byte(got.body), &parsed)
		if got.StatusCode != c.status || !strings.Contains(got.body, c.says) || err != nil || parsed.Error.Message == "" || parsed.Error.Type == "" {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.body)
		}
		if (got.StatusCode == http.StatusMethodNotAllowed) != (got.Header.Get("Allow") != "") {
			t.Errorf("%s: Allow: %q", name, got.Header.Get("Allow"))
		}
		if c.method == "POST" && c.status != 405 {
			refused++
		}
	}
	if s := e.Stats(); s.Failed != refused || s.Seen != refused || s.InProgress != 0 {
		t.Errorf("counted %+v, want %d failed", s, refused)
	}
}

func TestLoading(t *testing.T) {
	_, loading := start(t, Options{LoadTime: time.Hour})
	_, never := start(t, Options{NeverReady: true})
	_, ready := start(t, Options{})
	for _, url := range []string{loading, never} {
		if got := do(t, "GET", url+"/health", ""); got.StatusCode != http.StatusServiceUnavailable || got.body != `{"status":"loading model"}` {
			t.Errorf("health: %d %s", got.StatusCode, got.body)
		}
		if got := do(t, "POST", url+"/v1/chat/completions", `{`+chat+`}`); got.StatusCode != http.StatusServiceUnavailable || !strings.Contains(got.body, `"error"`) {
			t.Errorf("chat: %d %s", got.StatusCode, got.body)
		}
	}
	if got := do(t, "GET", ready+"/health", ""); got.StatusCode != http.StatusOK {
		t.Errorf("health: %d %s", got.StatusCode, got.body)
	}
	if got := do(t, "GET", ready+"/v1/models", ""); got.StatusCode != http.StatusOK || !strings.HasPrefix(got.body, `{"data":[{"created":`) || !strings.Contains(got.body, `"id":"stoker-demo"`) {
		t.Errorf("models: %d %s", got.StatusCode, got.body)
	}
}

// TestHangUp: whether the client leaves during the silent prefill of a unary
// request or in the middle of a stream, its place is free at once.
func TestHangUp(t *testing.T) {
	for name, body := range map[string]string{
		"unary, in prefill": `{"prompt":"` + strings.Repeat("long ", 4000) + `"}`,
		"stream, in decode": `{"prompt":"Once","stream":true,"ignore_eos":true}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, url := start(t, Options{PrefillRate: 10, DecodeRate: 100})
			ctx, hangUp := context.WithCancel(t.Context())
			defer hangUp()
			req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/completions", strings.NewReader(body))
			req.Header.Set("X-Request-Id", "gone")
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if resp, err := http.DefaultClient.Do(req); err == nil {
					io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			}()
			eventually(t, "running", func() bool { return e.Stats().Running == 1 })
			hangUp()
			<-ended
			eventually(t, "aborted", func() bool { return e.Stats().Aborted == 1 })
			s := e.Stats()
			if s.Running != 0 || s.InProgress != 0 || s.Requests["gone"].State != aborted {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestCounters(t *testing.T) {
	e, url := start(t, Options{Model: "m"})
	for range 2 {
		do(t, "POST", url+"/v1/completions", `{"prompt":"Once","max_tokens":3}`, "X-Request-Id", "twice")
	}
	s := e.Stats()
	if s.Seen != 2 || s.Completed != 2 || s.PromptTokens != 4 || s.GenerationTokens != 6 || s.Requests["twice"] != (Request{Seen: 2, State: full, Tokens: 6}) {
		t.Errorf("%+v", s)
	}
	var document Stats
	if err := json.Unmarshal([]byte(do(t, "GET", url+"/stats", "").body), &document); err != nil || document.Completed != 2 {
		t.Errorf("/stats: %v, %+v", err, document)
	}
	got := do(t, "GET", url+"/metrics", "").body
	for _, line := range []string{
		`vllm:num_requests_running{engine="0",model_name="m"} 0`,
		`vllm:num_requests_waiting{engine="0",model_name="m"} 0`,
		`vllm:generation_tokens_total{engine="0",model_name="m"} 6`,
		`vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 2`,
	} {
		if !strings.Contains(got, line+"\n") {
			t.Errorf("no line %s in\n%s", line, got)
		}
	}
}

func TestIDsAreForgotten(t *testing.T) {
	s := newStats()
	for i := range rememberedIDs + 5 {
		s.seen(fmt.Sprint(i))
	}
	if len(s.byID) != rememberedIDs || s.byID["4"] != nil || s.byID["5"] == nil {
		t.Errorf("%d remembered", len(s.byID))
	}
}
