package traffic

import (
	"container/list"
	"time"
)

// Spec is how fast an engine is and how much it holds; see the package's comment.
type Spec struct {
	Slowness     float64
	StepBase     time.Duration
	PrefillToken time.Duration
	ContextToken time.Duration
	StepTokens   int
	MaxRunning   int
	KVTokens     int
}

// Standard is the engine of the package's comment.
func Standard() Spec {
	return Spec{
		Slowness: 1, StepBase: 8 * time.Millisecond, PrefillToken: 40 * time.Microsecond, ContextToken: 56 * time.Nanosecond,
		StepTokens: 2048, MaxRunning: 256, KVTokens: 300_000,
	}
}

// job is a request on an engine.
type job struct {
	request *Request
	unread  int // of the prompt
	chunk   int // read in the present step
	left    int // of the answer
	context int // tokens so far
}

// engine is one worker.
type engine struct {
	spec     Spec
	waiting  []*job
	running  []*job
	reserved int // tokens of those that run
	held     held
	stepping bool
	until    time.Duration // end of the present step

	given        int           // requests
	read, cached int64         // prompt tokens
	busy         time.Duration // in steps
}

func (e *engine) add(r *Request) {
	e.given++
	e.waiting = append(e.waiting, &job{request: r, left: r.Answer})
}

// admit takes from the queue what fits.
func (e *engine) admit() {
	for len(e.waiting) > 0 && len(e.running) < e.spec.MaxRunning {
		j := e.waiting[0]
		r := j.request
		if need := r.Prompt + r.Answer; len(e.running) > 0 && e.reserved+need > e.spec.KVTokens {
			return
		}
		e.waiting = e.waiting[1:]
		known := max(min(e.held.take(conversationKey(r)), r.History), min(e.held.use(applicationKey(r)), r.System))
		j.unread, j.context = r.Prompt-known, r.Prompt
		e.read += int64(j.unread)
		e.cached += int64(known)
		e.reserved += r.Prompt + r.Answer
		e.held.shrink(e.spec.KVTokens - e.reserved)
		e.running = append(e.running, j)
	}
}

// begin starts a step at now, if there is anything to do.
func (e *engine) begin(now time.Duration) {
	e.admit()
	if e.stepping = len(e.running) > 0; !e.stepping {
		return
	}
	budget, context, read := e.spec.StepTokens, 0, 0
	for _, j := range e.running {
		if j.unread == 0 {
			budget--
			context += j.context
		}
	}
	for _, j := range e.running {
		j.chunk = min(j.unread, max(budget, 0))
		budget -= j.chunk
		read += j.chunk
	}
	step := e.spec.StepBase + time.Duration(read)*e.spec.PrefillToken + time.Duration(context)*e.spec.ContextToken
	step = time.Duration(float64(step) * e.spec.Slowness)
	e.until = now + step
	e.busy += step
}

// end is a step's end: first is told of each request that has its first token,
// done of each that has its last.
func (e *engine) end(first, done func(*Request)) {
	kept := e.running[:0]
	for _, j := range e.running {
		if j.unread > 0 {
			j.unread -= j.chunk
			if j.unread > 0 {
				kept = append(kept, j)
				continue
			}
		}
		if j.left == j.request.Answer {
			first(j.request)
		}
		j.left--
		j.context++
		if j.left > 0 {
			kept = append(kept, j)
			continue
		}
		e.reserved -= j.request.Prompt + j.request.Answer
		e.held.put(applicationKey(j.request), j.request.System)
		e.held.put(conversationKey(j.request), j.request.Prompt+j.request.Answer)
		e.held.shrink(e.spec.KVTokens - e.reserved)
		done(j.request)
	}
	clear(e.running[len(kept):])
	e.running = kept
}

func conversationKey(r *Request) int { return r.Conversation + 1 }
func applicationKey(r *Request) int  { return -r.Application - 1 }

// held is what an engine has of former requests, the oldest going first.
type held struct {
	entries map[int]*list.Element // of entry
	order   list.List             // the latest in front
	tokens  int
}

type entry struct{ key, tokens int }

// put adds an entry or makes one larger.
func (h *held) put(key, tokens int) {
	if before := h.take(key); before > tokens {
		tokens = before
	}
	if tokens == 0 {
		return
	}
	if h.entries == nil {
		h.entries = map[int]*list.Element{}
	}
	h.entries[key] = h.order.PushFront(entry{key, tokens})
	h.tokens += tokens
}

// use is how many tokens there are, which then are the latest.
func (h *held) use(key int) int {
	at := h.entries[key]
	if at == nil {
		return 0
	}
	h.order.MoveToFront(at)
	return at.Value.(entry).tokens
}

// take is use, and takes them out.
func (h *held) take(key int) int {
	at := h.entries[key]
	if at == nil {
		return 0
	}
	tokens := h.order.Remove(at).(entry).tokens
	delete(h.entries, key)
	h.tokens -= tokens
	return tokens
}

// shrink drops the oldest until there are no more tokens than that.
func (h *held) shrink(tokens int) {
	for h.tokens > tokens && h.order.Len() > 0 {
		h.take(h.order.Back().Value.(entry).key)
	}
}
