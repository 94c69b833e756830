package continuation

// Profile is what an engine family can be asked for beside OpenAI's fields.
// Exact numbers of tokens are wanted where the rest of a text may be asked for:
// the client's usage is then put together of two answers'.
type Profile struct {
	// ask is added to a request, strip taken off every event that it was asked of.
	ask   change
	strip string
	// ids asks for the tokens of a completion, see ids.go; empty: the engine has no such option.
	ids string
}

// ProfileOf is that of an engine; false: it is none that we know.
func ProfileOf(engine string) (Profile, bool) {
	p, ok := profiles[engine]
	return p, ok
}

// profiles by engine. One that is in none of them is asked for nothing more: how
// many tokens there were is then counted by events.
var profiles = map[string]Profile{
	"":             {},
	"llama-server": llamaServer,
	"vllm":         vLLM,
	"sglang":       sgLang,
}
