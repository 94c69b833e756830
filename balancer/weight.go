package balancer

import "stoker/exchange"

// A prompt weighs what its engine has to read of it: see upstream.PoolOptions'
// PromptTokens. How long it is says the body's length, near enough: a token of
// text is some four bytes, whatever the tokenizer.
const bytesPerToken = 4

// mostTokens is more than engines read: what is longer is an image, most likely,
// and no such work.
const mostTokens = 128 << 10

// promptTokens estimates how many tokens the prompt of x has, 0 where its body is
// no text for a model, or does not say how long it is.
func promptTokens(x *exchange.Exchange) int {
	if x.Length <= 0 || x.WebSocket || !isPlainJSON(x.Request.Fields) {
		return 0
	}
	return int(min(x.Length/bytesPerToken, mostTokens))
}

// relieve takes the prompt off the member that has read it, or will not.
func (j *journey) relieve() {
	if j.charged == 0 {
		return
	}
	if m, ok := j.lease.(interface{ Relieve(tokens int) }); ok {
		m.Relieve(j.charged)
	}
	j.charged = 0
}
