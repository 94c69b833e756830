// Package traffic is LLM traffic and the engines that serve it, in time of its
// own: what a policy needs to be judged by, and no more. It knows no policy; it
// asks one through Chooser.
//
// # The engine
//
// An engine works in steps, as vLLM and SGLang do (continuous batching, chunked
// prefill). In each step every request whose prompt has been read gets one token,
// and the rest of the step's budget reads prompts, first come first served:
//
//	budget  = StepTokens − requests that decode
//	step    = Slowness × (StepBase + PrefillToken × prompt tokens read + ContextToken × tokens of context of those that decode)
//
// A request's first token comes at the end of the step in which its prompt has
// been read; then come Answer−1 more, one a step. So prefill and decode times
// grow with load: with who decodes beside, and with what is read in between.
//
// A request is taken from the engine's own queue, first come first served, while
// fewer than MaxRunning run and its prompt and answer fit in what is left of
// KVTokens. What has been computed stays: the rest of KVTokens holds the contexts
// of the conversations that ended last (LRU), and of a prompt only that is read
// which is not the continuation of one of these, or of the system prompt of an
// application whose system prompt is held:
//
//	read = Prompt − max(held of the conversation, held of the application)
//
// # Where the numbers come from
//
// They are arithmetic for a model of 8·10⁹ parameters with 16-bit weights, 32
// layers and 8 key-value heads of 128, on a GPU of 3.35 TB/s, 989·10¹² operations
// per second and 80 GB; nobody has measured them here. StepBase: the weights are
// read once per step, 16 GB at 70 % of the bandwidth, 6.8 ms, and some 1.2 ms of
// scheduling: 8 ms. PrefillToken: 2·8·10⁹ operations at 40 %: 40 µs.
// ContextToken: 2·32·8·128 values of 2 bytes, 128 KiB, at 70 %: 56 ns.
// KVTokens: 40 GB of 128 KiB each: 300 000. StepTokens 2048 and MaxRunning 256 are
// vLLM's.
//
// # The traffic
//
// Conversations begin as a Poisson process. Each has a number of turns
// (geometric), each turn a new text and an answer of log-normal length, whose
// tail is heavy: with σ = 1.2 one in a hundred is 16 times the median. The next
// turn comes one pause (log-normal) after the answer would have ended at
// NominalToken each, whether it has or not: what is asked, and when, is the same
// for every policy.
//
// What is left out: preemption (a request reserves all of its answer), speculative
// decoding, the network, and clients that hang up or try again.
package traffic
