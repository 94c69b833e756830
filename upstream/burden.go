package upstream

import "slices"

// A prompt of a hundred thousand tokens keeps an engine busy for seconds, one of
// ten for none: by their number alone the two weigh the same. With PromptTokens
// set each request weighs, wherever loads are compared, that many tokens and those
// of its prompt that its engine has still to read: not what that holds already, as
// far as is known, and nothing once the answer has begun. All loads are then in
// tokens; without it in requests, and prompts cost nothing.

// ChunkTokens is about how many tokens an entry of a Prefix stands for.
const ChunkTokens = 64

// maxTokens bounds what a prompt may weigh: no engine reads more, and sums stay
// far from overflow.
const maxTokens = 1 << 24

// unitOf is what a request weighs without its prompt.
func unitOf(o *PoolOptions) uint64 { return uint64(max(o.PromptTokens, 1)) }

// weighed is m's load, in units of that. The pool's lock is held.
func (m *Member) weighed(unit uint64) uint64 { return uint64(m.load())*unit + m.burden }

// charge adds a prompt to what m, which has just been chosen for it, has to read,
// and returns how much that is. The lock is held.
func (p *Pool) charge(m *Member, w *wish) int {
	if p.options.PromptTokens <= 0 || w.tokens <= 0 {
		return 0
	}
	tokens := w.tokens
	if slices.Contains(w.holding.members[:w.holding.n], m) {
		tokens = max(tokens-w.holding.chunks*ChunkTokens, 0)
	}
	m.burden += uint64(tokens)
	return tokens
}

// Relieve takes off what a prompt weighs that m has read, or will not read; see
// Want.Charged. To be called before Release.
func (m *Member) Relieve(tokens int) {
	p := m.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	m.burden -= min(uint64(max(tokens, 0)), m.burden)
	p.ranking.fix(m)
	p.tally(m, m.counted.serves)
}
