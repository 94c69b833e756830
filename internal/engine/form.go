package engine

// form is one of the two shapes that a request and its answer have.
type form struct {
	idPrefix    string
	object      string // of a unary answer
	chunkObject string // of an SSE event
	prompt      func(*body) (text string, tokens int, err error)
	// opens: the stream begins with an event that names the role.
	opens bool
	// choice is the one choice of an answer; of an event of a stream, when it is
	// not the opening one. finish is "" until the end.
	choice func(text, finish string, stream bool) any
}

var (
	chatForm = form{
		idPrefix: "chatcmpl-", object: "chat.completion", chunkObject: "chat.completion.chunk",
		prompt: chatPrompt, opens: true, choice: chatChoice,
	}
	plainForm = form{
		idPrefix: "cmpl-", object: "text_completion", chunkObject: "text_completion",
		prompt: plainPrompt, choice: plainChoice,
	}
)

// answer is a unary answer or one event of a stream.
type answer struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	Model   string `json:"model"`
	Choices []any  `json:"choices"`
	// Usage is left out of a stream whose client did not ask for it; of the
	// others all events but the last have null.
	Usage any `json:"usage,omitempty"`
}

type usage struct {
	PromptTokens     int `json:"prompt_tokens"`
	CompletionTokens int `json:"completion_tokens"`
	TotalTokens      int `json:"total_tokens"`
}

func (j *job) usage() *usage {
	return &usage{j.promptTokens, j.story.tokens, j.promptTokens + j.story.tokens}
}

type delta struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type chatChunk struct {
	Index        int     `json:"index"`
	Delta        delta   `json:"delta"`
	Logprobs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatWhole struct {
	Index        int         `json:"index"`
	Message      chatMessage `json:"message"`
	Logprobs     any         `json:"logprobs"`
	FinishReason *string     `json:"finish_reason"`
}

type plainPiece struct {
	Index        int     `json:"index"`
	Text         string  `json:"text"`
	Logprobs     any     `json:"logprobs"`
	FinishReason *string `json:"finish_reason"`
}

func chatChoice(text, finish string, stream bool) any {
	if !stream {
		return chatWhole{Message: chatMessage{Role: "assistant", Content: text}, FinishReason: orNil(finish)}
	}
	if finish != "" {
		return chatChunk{FinishReason: orNil(finish)}
	}
	return chatChunk{Delta: delta{Content: &text}}
}

func openingChoice() any {
	empty := ""
	return chatChunk{Delta: delta{Role: "assistant", Content: &empty}}
}

func plainChoice(text, finish string, _ bool) any {
	return plainPiece{Text: text, FinishReason: orNil(finish)}
}

func orNil(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
