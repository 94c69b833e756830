package engine

import (
	"fmt"
	"sync"
)

// outcome is how a request ended; those of whole answers are OpenAI's finish reasons.
type outcome string

const (
	running  outcome = "running"
	finished outcome = "stop"
	full     outcome = "length"
	aborted  outcome = "abort"  // the client hung up
	failed   outcome = "failed" // refused, or a fault
)

// rememberedIDs bounds what is kept by request id; the oldest are forgotten.
const rememberedIDs = 10_000

// stats counts what was asked of the engine.
type stats struct {
	mu       sync.Mutex
	total    int
	ended    map[outcome]int
	prompt   int
	generate int
	byID     map[string]*Request
	order    []string
}

// Request is what /stats tells of one request id.
type Request struct {
	// Seen is how many requests had the id.
	Seen int `json:"seen"`
	// State is running, stop, length, abort or failed: of the latest of them to change.
	State outcome `json:"state"`
	// Tokens generated for all of them.
	Tokens int `json:"tokens"`
}

func newStats() *stats {
	return &stats{ended: make(map[outcome]int), byID: make(map[string]*Request)}
}

// seen counts a new request; without an id the entry is kept by nobody else.
func (s *stats) seen(id string) *Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total++
	e := s.byID[id]
	if e == nil {
		e = &Request{}
	}
	e.Seen++
	e.State = running
	if id != "" && e.Seen == 1 {
		s.remember(id, e)
	}
	return e
}

func (s *stats) remember(id string, e *Request) {
	if len(s.order) == rememberedIDs {
		delete(s.byID, s.order[0])
		s.order = s.order[1:]
	}
	s.byID[id] = e
	s.order = append(s.order, id)
}

func (s *stats) end(e *Request, how outcome, tokens int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.State = how
	e.Tokens += tokens
	s.ended[how]++
}

func (s *stats) add(prompt, generated int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prompt += prompt
	s.generate += generated
}

// Stats is the document at /stats.
type Stats struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// DaemonPID is the process that --spawn-daemon left.
	DaemonPID int  `json:"daemon_pid,omitempty"`
	Loaded    bool `json:"loaded"`
	// Seen counts completion requests; each is in progress or has ended as
	// completed, aborted (the client hung up) or failed (refused, or a fault).
	Seen       int `json:"seen"`
	InProgress int `json:"in_progress"`
	Completed  int `json:"completed"`
	Aborted    int `json:"aborted"`
	Failed     int `json:"failed"`
	// Running and Waiting are the batch's; MostRunning is the highest Running so far.
	Running          int `json:"running"`
	Waiting          int `json:"waiting"`
	MostRunning      int `json:"most_running"`
	PromptTokens     int `json:"prompt_tokens"`
	GenerationTokens int `json:"generation_tokens"`
	// Requests by X-Request-Id, the latest ten thousand.
	Requests map[string]Request `json:"requests"`
}

// Stats returns a snapshot of the counters.
func (e *Engine) Stats() Stats {
	now := Stats{Name: e.Name, PID: e.pid, DaemonPID: e.daemon, Loaded: e.isLoaded()}
	now.Running, now.Waiting, now.MostRunning = e.batch.load()
	s := e.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	now.Seen = s.total
	now.Completed = s.ended[finished] + s.ended[full]
	now.Aborted, now.Failed = s.ended[aborted], s.ended[failed]
	now.InProgress = now.Seen - now.Completed - now.Aborted - now.Failed
	now.PromptTokens, now.GenerationTokens = s.prompt, s.generate
	now.Requests = make(map[string]Request, len(s.byID))
	for id, r := range s.byID {
		now.Requests[id] = *r
	}
	return now
}

// metrics is what a scraper of vLLM looks for, in Prometheus' text format.
func (e *Engine) metrics() []byte {
	running, waiting, _ := e.batch.load()
	s := e.stats
	s.mu.Lock()
	defer s.mu.Unlock()
	var text []byte
	add := func(name, kind string, value float64) {
		text = fmt.Appendf(text, "# TYPE %s %s\n%s{engine=\"0\",model_name=%q} %g\n", name, kind, name, e.Model, value)
	}
	add("vllm:num_requests_running", "gauge", float64(running))
	add("vllm:num_requests_waiting", "gauge", float64(waiting))
	add("vllm:kv_cache_usage_perc", "gauge", float64(running)/float64(e.Slots))
	add("vllm:prompt_tokens_total", "counter", float64(s.prompt))
	add("vllm:generation_tokens_total", "counter", float64(e.batch.generated())) // those of requests that still run too
	text = append(text, "# TYPE vllm:request_success_total counter\n"...)
	for _, reason := range []outcome{finished, full, aborted} {
		text = fmt.Appendf(text, "vllm:request_success_total{engine=\"0\",finished_reason=%q,model_name=%q} %d\n",
			reason, e.Model, s.ended[reason])
	}
	return text
}
