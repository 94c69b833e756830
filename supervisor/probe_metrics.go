package supervisor

import (
	"context"
	"iter"
	"net/http"
	"strconv"
	"strings"

	"stoker/config"
)

// maxPage bounds a metrics page: vLLM's with many models is some 200 KiB.
const maxPage = 4 << 20

// What the usual engines call the tokens and steps that they have made, and the
// requests that they have. llama-server has them with --metrics alone.
var (
	usualProgress = []string{
		"vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_count",
		"sglang:generation_tokens_total", "sglang:prompt_tokens_total",
		"llamacpp:tokens_predicted_total", "llamacpp:prompt_tokens_total", "llamacpp:n_decode_total",
		"tgi_batch_inference_count",
	}
	usualBusy = []string{
		"vllm:num_requests_running", "vllm:num_requests_waiting",
		"sglang:num_running_reqs", "sglang:num_queue_reqs",
		"llamacpp:requests_processing", "llamacpp:requests_deferred",
		"tgi_batch_current_size", "tgi_queue_size",
	}
)

// page is an engine's own metrics page. It is read by one goroutine at a time.
type page struct {
	client         *http.Client
	url            string
	progress, busy map[string]bool

	known bool
	made  float64 // the counters' sum when it was last read
}

func newPage(h config.Health, address string, how manner) *page {
	t := newPeer(address, how)
	return &page{
		client: newProbeClient(t), url: "http://" + t.host + h.MetricsPath,
		progress: nameSet(h.ProgressMetrics, usualProgress), busy: nameSet(h.BusyMetrics, usualBusy),
	}
}

func nameSet(names, usual []string) map[string]bool {
	if len(names) == 0 {
		names = usual
	}
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// read looks once, and notes what it finds. A page that does not come says
// nothing: probes do.
func (p *page) read(ctx context.Context, s *signs) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, http.NoBody)
	if err != nil {
		return
	}
	status, _, body, err := fetch(p.client, r, maxPage)
	if err != nil || status/100 != 2 {
		return
	}
	made, busy := p.sums(string(body))
	if p.known && made > p.made {
		s.count.Add(1)
	}
	p.known, p.made = true, made
	s.busy.Store(int64(busy))
}

// sums adds up the samples that count.
func (p *page) sums(text string) (made, busy float64) {
	for name, value := range samples(text) {
		switch {
		case p.progress[name]:
			made += value
		case p.busy[name]:
			busy += value
		}
	}
	return made, busy
}

// samples are all that a page has.
func samples(text string) iter.Seq2[string, float64] {
	return func(yield func(name string, value float64) bool) {
		for line := range strings.Lines(text) {
			if name, value, ok := sample(line); ok && !yield(name, value) {
				return
			}
		}
	}
}

// sample reads a line of Prometheus' text format: NAME[{LABELS}] VALUE [TIMESTAMP].
func sample(line string) (name string, value float64, ok bool) {
	end := strings.IndexAny(line, "{ \t")
	if end <= 0 || line[0] == '#' {
		return "", 0, false
	}
	name, rest := line[:end], line[end:]
	if rest[0] == '{' {
		if rest = afterLabels(rest); rest == "" {
			return "", 0, false
		}
	}
	words := strings.Fields(rest)
	if len(words) == 0 {
		return "", 0, false
	}
	value, err := strconv.ParseFloat(words[0], 64)
	return name, value, err == nil && value >= 0 // neither NaN
}

// afterLabels skips {…}, whose values may hold anything in quotes.
func afterLabels(text string) string {
	quoted := false
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == '}' && !quoted:
			return text[i+1:]
		}
	}
	return ""
}
