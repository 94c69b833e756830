package engine

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
)

const (
	// maxBody bounds a request's body in bytes.
	maxBody = 64 << 20
	// maxTokens bounds an answer.
	maxTokens = 131072
	// usualTokens bounds an answer whose request does not.
	usualTokens = 4096
)

// body is what we read of a request's JSON; what else OpenAI allows is ignored.
type body struct {
	Model         string          `json:"model"`
	Messages      []message       `json:"messages"`
	Prompt        json.RawMessage `json:"prompt"`
	Stream        bool            `json:"stream"`
	StreamOptions *struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	MaxTokens           *int            `json:"max_tokens"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Temperature         *float64        `json:"temperature"`
	Seed                *int64          `json:"seed"`
	N                   *int            `json:"n"`
	Stop                json.RawMessage `json:"stop"`
	IgnoreEOS           bool            `json:"ignore_eos"`
	Fault               string          `json:"fault"`
	// StructuredOutputs is vLLM's; see faultOf.
	StructuredOutputs map[string]json.RawMessage `json:"structured_outputs"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"` // a string, or parts
}

// job is a request that we are going to answer.
type job struct {
	form         form
	model        string
	stream       bool
	includeUsage bool
	promptTokens int
	story        story
	fault        fault
}

// refusal is an error in OpenAI's form.
type refusal struct {
	status  int
	message string
	kind    string // "type"
	param   string // field at fault
	code    string
}

func (r *refusal) Error() string { return r.message }

func invalid(param, format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...), kind: "invalid_request_error", param: param}
}

func (r *refusal) send(w http.ResponseWriter) {
	orNull := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	sendJSON(w, r.status, map[string]any{"error": map[string]any{
		"message": r.message, "type": r.kind, "param": orNull(r.param), "code": orNull(r.code),
	}})
}

// read makes a job of a request, or says in OpenAI's words why not.
func (e *Engine) read(w http.ResponseWriter, r *http.Request, f form) (*job, error) {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		refused := invalid("", "the body is larger than %d bytes", maxBody)
		refused.status = http.StatusRequestEntityTooLarge
		return nil, refused
	}
	if err != nil {
		return nil, invalid("", "could not read the body: %v", err)
	}
	var b body
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, invalid("", "could not parse the JSON body of your request: %v", err)
	}
	if err := e.check(&b); err != nil {
		return nil, err
	}
	prompt, tokens, err := f.prompt(&b)
	if err != nil {
		return nil, err
	}
	limit, err := b.limit()
	if err != nil {
		return nil, err
	}
	stops, err := textOrTexts("stop", b.Stop)
	if err != nil {
		return nil, err
	}
	if len(stops) > 4 {
		return nil, invalid("stop", "at most 4 stop sequences, got %d", len(stops))
	}
	j := &job{form: f, model: e.Model, stream: b.Stream, promptTokens: tokens}
	j.includeUsage = b.StreamOptions != nil && b.StreamOptions.IncludeUsage
	if j.fault, err = e.faultOf(r, &b); err != nil {
		return nil, err
	}
	j.story = compose(e.chance(&b, prompt), limit, b.IgnoreEOS, stops)
	return j, nil
}

func (e *Engine) check(b *body) error {
	switch {
	case b.Model != "" && b.Model != e.Model:
		return &refusal{
			status: http.StatusNotFound, kind: "invalid_request_error", param: "model", code: "model_not_found",
			message: fmt.Sprintf("the model %q does not exist", b.Model),
		}
	case b.N != nil && *b.N != 1:
		return invalid("n", "this engine gives one answer: n must be 1, got %d", *b.N)
	case b.Temperature != nil && (*b.Temperature < 0 || *b.Temperature > 2):
		return invalid("temperature", "temperature must be from 0 to 2, got %g", *b.Temperature)
	case b.StreamOptions != nil && !b.Stream:
		return invalid("stream_options", "stream_options is only allowed when stream is true")
	}
	return nil
}

// limit is the greatest number of tokens that the request allows.
func (b *body) limit() (int, error) {
	limit, param := b.MaxCompletionTokens, "max_completion_tokens"
	if limit == nil {
		limit, param = b.MaxTokens, "max_tokens"
	}
	if limit == nil {
		return usualTokens, nil
	}
	if *limit < 1 || *limit > maxTokens {
		return 0, invalid(param, "%s must be from 1 to %d, got %d", param, maxTokens, *limit)
	}
	return *limit, nil
}

// chance is the same for the same prompt where the request asks for that.
func (e *Engine) chance(b *body, prompt string) *rand.Rand {
	seed := e.Seed
	switch {
	case b.Seed != nil:
		seed ^= uint64(*b.Seed)
	case b.Temperature == nil || *b.Temperature > 0:
		seed = rand.Uint64()
	}
	return chanceFor(seed, prompt)
}

// chatPrompt is the text of a chat's messages, with its number of tokens.
func chatPrompt(b *body) (string, int, error) {
	if len(b.Messages) == 0 {
		return "", 0, invalid("messages", "messages must hold at least one message")
	}
	var prompt strings.Builder
	for i, m := range b.Messages {
		text, err := contentText(m.Content)
		if err != nil || m.Role == "" {
			return "", 0, invalid(fmt.Sprintf("messages.[%d]", i), "message %d wants a role, and content that is a string or a list of text parts", i)
		}
		fmt.Fprintf(&prompt, "<%s>%s\n", m.Role, text)
	}
	return prompt.String(), tokensIn(prompt.String()), nil
}

func contentText(raw json.RawMessage) (string, error) {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		return text, nil // absent or null beside tool calls
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return "", err
	}
	for _, p := range parts {
		text += p.Text
	}
	return text, nil
}

// plainPrompt is a completion's: a text, a list of one text, or tokens.
func plainPrompt(b *body) (string, int, error) {
	if len(b.Prompt) == 0 || bytes.Equal(b.Prompt, []byte("null")) {
		return "", 0, invalid("prompt", "prompt is missing")
	}
	var tokens []int
	if json.Unmarshal(b.Prompt, &tokens) == nil && len(tokens) > 0 {
		return string(b.Prompt), len(tokens), nil
	}
	texts, err := textOrTexts("prompt", b.Prompt)
	if err != nil {
		return "", 0, err
	}
	if len(texts) != 1 {
		return "", 0, invalid("prompt", "this engine takes one prompt per request, got %d", len(texts))
	}
	return texts[0], tokensIn(texts[0]), nil
}

func textOrTexts(param string, raw json.RawMessage) ([]string, error) {
	var one *string
	if len(raw) == 0 {
		return nil, nil
	}
	if json.Unmarshal(raw, &one) == nil {
		if one == nil {
			return nil, nil
		}
		return []string{*one}, nil
	}
	var texts []string
	if json.Unmarshal(raw, &texts) != nil {
		return nil, invalid(param, "%s must be a string or a list of strings", param)
	}
	return texts, nil
}

// tokensIn counts tokens as a rule of thumb does, four bytes each.
func tokensIn(text string) int { return 1 + len(text)/4 }
