package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"stoker/config"
)

// maxCanaryBody bounds the answer to a completion of one token.
const maxCanaryBody = 256 << 10

// usualCanaryPath is where a canary goes when only its kind is configured.
const usualCanaryPath = "/v1/completions"

// newCanary asks for a completion of one token. Good is 2xx with at least one
// choice or some text. A refusal that a sound engine may give (of the model, of
// the key, for its load) is errNoProof.
func newCanary(c config.Canary, address string, how manner) probe {
	path := c.Path
	if path == "" {
		path = usualCanaryPath
	}
	body, t := canaryBody(c, path), newPeer(address, how)
	client := newProbeClient(t)
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.host+path, strings.NewReader(body))
		if err != nil {
			return fmt.Errorf("canary %s: %w", path, err)
		}
		r.Header.Set("Content-Type", "application/json")
		if c.APIKey != "" {
			r.Header.Set("Authorization", "Bearer "+c.APIKey)
		}
		status, text, answer, err := fetch(client, r, maxCanaryBody)
		switch {
		case err != nil:
			return probeFailure("canary: POST "+path, err)
		case status/100 == 2 && hasToken(answer):
			return nil
		case status/100 == 2:
			return failed(failAnswered, "canary: POST %s answered %s without a token%s", path, text, quoted(answer))
		case status/100 == 4, status == http.StatusServiceUnavailable:
			return failed(failAnswered, "canary: POST %s answered %s, %w%s", path, text, errNoProof, quoted(answer))
		}
		return failed(failAnswered, "canary: POST %s answered %s%s", path, text, quoted(answer))
	}
}

// canaryBody is the smallest request that the path's API takes.
func canaryBody(c config.Canary, path string) string {
	if c.Body != "" {
		return c.Body
	}
	path, _, _ = strings.Cut(path, "?")
	request := map[string]any{}
	switch {
	case strings.HasSuffix(path, "/chat/completions"):
		request["messages"], request["max_tokens"] = []map[string]string{{"role": "user", "content": "1"}}, 1
	case strings.HasSuffix(path, "/generate"): // SGLang's and TGI's
		request["text"], request["inputs"] = "1", "1"
		request["sampling_params"], request["parameters"] = map[string]int{"max_new_tokens": 1}, map[string]int{"max_new_tokens": 1}
	case strings.HasSuffix(path, "/completion"): // llama-server's own
		request["prompt"], request["n_predict"] = "1", 1
	default:
		request["prompt"], request["max_tokens"] = "1", 1
	}
	if c.Model != "" {
		request["model"] = c.Model
	}
	text, _ := json.Marshal(request) // strings and numbers always encode
	return string(text)
}

// hasToken says whether an answer holds something that was generated.
func hasToken(body []byte) bool {
	var answer struct {
		Choices       []json.RawMessage `json:"choices"`
		Content       *string           `json:"content"`
		Text          *string           `json:"text"`
		GeneratedText *string           `json:"generated_text"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return false
	}
	return len(answer.Choices) > 0 || answer.Content != nil || answer.Text != nil || answer.GeneratedText != nil
}
