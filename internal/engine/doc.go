// Package engine is a small inference engine without a model: it speaks
// OpenAI's HTTP API as vLLM does, takes time as an engine does, and makes up
// the text. "stoker demo" runs it, and so do tests that need an engine which
// dies, hangs or lies on demand. It knows nothing of workers, pools or keepers.
//
// # Endpoints
//
//	POST /v1/chat/completions, /v1/completions   unary, or SSE with "stream": true
//	GET  /v1/models
//	GET  /health     503 while the model loads, then 200
//	GET  /metrics    in vLLM's names
//	GET  /stats      what was asked of this process, by request id (X-Request-Id), for tests
//
// Each answer has the header X-Engine: NAME/PID. The same prompt with a "seed",
// or at temperature 0, has the same answer from every engine with the same --seed.
// Beyond OpenAI's fields "ignore_eos": true (vLLM's) goes on up to max_tokens.
//
// # Time
//
// Work goes on in steps over one batch of at most --slots requests; others wait
// in the order of arrival. In each step every request whose prompt is done gets
// one token, and up to 512 tokens of prompts are taken in, oldest request first. A step with d
// decoding requests and p prompt tokens takes
//
//	(1 + (d-1)/slots) / decode-rate  +  p / prefill-rate
//
// (the first term only if d > 0), so that a full batch decodes each request at
// about half speed, and long prompts hold up everybody: both grow with load. A
// client that hangs up leaves the batch at once.
//
// # Faults
//
// With --faults a request may ask for trouble, in the header X-Fault or the JSON
// field "fault", as a comma-separated list. Counts of chunks are counts of SSE
// events, or of bytes of a unary body.
//
//	exit=CODE      the process exits
//	kill           the process kills itself with SIGKILL
//	abort          the process aborts with SIGABRT
//	after=N        … the above only after N tokens were generated
//	hang           no byte for ever
//	hang-all       the same for all requests, running ones too; /health, /metrics and /stats go on
//	block          nothing is answered ever again, /health included, and SIGTERM is not heard:
//	               as an event loop that is stuck
//	cut=N          the connection breaks after N chunks
//	clean-cut=N    the answer ends after N chunks as if it were whole, without [DONE]
//	error=N        an error event after N chunks, and no more
//	stall=N        silence after N chunks
//	once=PATH      first in the list: the rest happens only to who can make that file,
//	               so once over all engines, however often the request is sent again
//	slow=DURATION  waits before each chunk (plain "slow": 1s)
//	status=NNN     an error answer with that status
//	garbage        bytes that are not HTTP
//	headers=BYTES  a response header of that size (plain "headers": 1 MiB)
//	bulk=BYTES     events that say nothing, as fast as they are taken, of that size together at least
//
// And as some versions of vLLM did, it exits with code 0 when a request's
// "structured_outputs" has none of the keys that it may have.
//
// Flags of their own: --ignore-term, --exit-after, --spawn-daemon, --never-ready,
// --exit-at-start; --health-queued (/health waits for a place in the batch as
// completions do), --idle-timeout (of connections; default: none).
package engine
