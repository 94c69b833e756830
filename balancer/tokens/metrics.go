package tokens

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stoker/internal/histogram"
)

// Other stands for models that nobody has configured or been told of: what
// clients make up must not fill the memory of whoever reads metrics.
const Other = "other"

// maxModels bounds those that are learnt from engines' lists.
const maxModels = 1000

// Metrics adds up what was counted, by pool and model.
type Metrics struct {
	mu sync.Mutex
	// sums and known are replaced whole: both are read for each answer.
	sums  atomic.Pointer[map[key]*sums]
	known atomic.Pointer[map[string]bool]
	// configured are those of known that a configuration names.
	learnt map[string]bool

	first, gaps, prompt, completion *prometheus.Desc
}

type key struct{ pool, model string }

// sums of one model in one pool.
type sums struct {
	answers                       atomic.Uint64
	cached, read, unsaid, written atomic.Uint64
	first, gaps                   histogram.Histogram

	moves, broken, replayed atomic.Uint64
}

// NewMetrics registers them with r, once per registry.
func NewMetrics(r prometheus.Registerer) *Metrics {
	labels := []string{"pool", "model"}
	m := &Metrics{
		learnt: map[string]bool{},
		first: prometheus.NewDesc("stoker_time_to_first_token_seconds",
			"Time from a request's head to the first token of its streamed answer.", labels, nil),
		gaps: prometheus.NewDesc("stoker_time_between_tokens_seconds",
			"Times between the tokens of streamed answers, as they came from the engine.", labels, nil),
		prompt: prometheus.NewDesc("stoker_prompt_tokens_total",
			"Tokens of prompts, as engines say, by whether these had them in a cache; unknown: they do not say.", append(labels, "cached"), nil),
		completion: prometheus.NewDesc("stoker_completion_tokens_total",
			"Tokens of answers, as engines say, or events of streams where they do not.", labels, nil),
	}
	m.sums.Store(&map[key]*sums{})
	m.known.Store(&map[string]bool{})
	if r != nil {
		r.MustRegister(m)
	}
	return m
}

// Configure says which models the configuration names. Those that engines have
// named stay.
func (m *Metrics) Configure(models []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := maps.Clone(m.learnt)
	for _, model := range models {
		known[model] = true
	}
	m.known.Store(&known)
}

// Learn is told of a model that an engine lists.
func (m *Metrics) Learn(model string) {
	if m == nil || (*m.known.Load())[model] {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.learnt) >= maxModels {
		return
	}
	m.learnt[model] = true
	known := maps.Clone(*m.known.Load())
	known[model] = true
	m.known.Store(&known)
}

// Observe adds one answer to a request that began at start. The model is the
// client's word for it, where that is known, else the engine's.
func (m *Metrics) Observe(pool, model string, start time.Time, c *Count) {
	if model == "" {
		model = c.Model
	}
	s := m.of(key{pool, m.name(model)})
	s.answers.Add(1)
	s.written.Add(uint64(c.Completion))
	if c.Cached < 0 {
		s.unsaid.Add(uint64(c.Prompt))
	} else {
		s.cached.Add(uint64(c.Cached))
		s.read.Add(uint64(c.Prompt - c.Cached))
	}
	if c.Stream {
		s.first.Add(c.First.Sub(start))
		s.gaps.Merge(c.Gaps.counts[:], c.Gaps.sum)
	}
}

// Moves are what has happened to one stream whose worker failed it.
type Moves struct {
	// Moved is how often another went on, Broken whether none could in the end.
	Moved  int
	Broken bool
	// Replayed are the tokens, counted as events, that were computed again.
	Replayed int
}

// ObserveMoves adds them, and returns what the model is called in metrics.
func (m *Metrics) ObserveMoves(pool, model string, moves Moves) string {
	if m == nil {
		return Other
	}
	model = m.name(model)
	s := m.of(key{pool, model})
	s.moves.Add(uint64(moves.Moved))
	s.replayed.Add(uint64(moves.Replayed))
	if moves.Broken {
		s.broken.Add(1)
	}
	return model
}

// name is a model's, or Other.
func (m *Metrics) name(model string) string {
	if (*m.known.Load())[model] {
		return model
	}
	return Other
}

func (m *Metrics) of(k key) *sums {
	if s := (*m.sums.Load())[k]; s != nil {
		return s
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := *m.sums.Load()
	if s := all[k]; s != nil {
		return s
	}
	s := &sums{first: histogram.New(firstBounds[:]), gaps: histogram.New(gapBounds[:])}
	all = maps.Clone(all)
	all[k] = s
	m.sums.Store(&all)
	return s
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.first
	ch <- m.gaps
	ch <- m.prompt
	ch <- m.completion
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	for k, s := range *m.sums.Load() {
		ch <- s.first.Metric(m.first, k.pool, k.model)
		ch <- s.gaps.Metric(m.gaps, k.pool, k.model)
		counter := func(d *prometheus.Desc, n *atomic.Uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), append([]string{k.pool, k.model}, labels...)...)
		}
		counter(m.prompt, &s.cached, "yes")
		counter(m.prompt, &s.read, "no")
		counter(m.prompt, &s.unsaid, "unknown")
		counter(m.completion, &s.written)
	}
}

// Summary is what a person wants to know of a model in a pool, since this master began.
type Summary struct {
	Pool  string `json:"pool"`
	Model string `json:"model"`
	// Answers that were counted.
	Answers uint64 `json:"answers"`
	// PromptTokens and CompletionTokens of them.
	PromptTokens     uint64 `json:"prompt_tokens"`
	CompletionTokens uint64 `json:"completion_tokens"`
	// CachedShare of the prompts' tokens, of 1, where engines say it; null: none does.
	CachedShare *float64 `json:"cached_share"`
	// FirstToken and BetweenTokens are times in milliseconds, about.
	FirstTokenP50    float64 `json:"first_token_p50_ms"`
	FirstTokenP90    float64 `json:"first_token_p90_ms"`
	BetweenTokensP50 float64 `json:"between_tokens_p50_ms"`
	BetweenTokensP90 float64 `json:"between_tokens_p90_ms"`
	// Migrated is how often a stream went on with another worker, and
	// MigrationsFailed how many could not; ReplayedTokens were computed again for it.
	Migrated         uint64 `json:"migrated"`
	MigrationsFailed uint64 `json:"migrations_failed"`
	ReplayedTokens   uint64 `json:"replayed_tokens"`
}

// Summaries are all there are, by pool and model.
func (m *Metrics) Summaries() []Summary {
	all := []Summary{}
	ms := func(d time.Duration) float64 {
		return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
	}
	for k, s := range *m.sums.Load() {
		cached, read := s.cached.Load(), s.read.Load()
		one := Summary{
			Pool: k.pool, Model: k.model, Answers: s.answers.Load(), PromptTokens: cached + read + s.unsaid.Load(), CompletionTokens: s.written.Load(),
			FirstTokenP50: ms(s.first.Quantile(.5)), FirstTokenP90: ms(s.first.Quantile(.9)),
			BetweenTokensP50: ms(s.gaps.Quantile(.5)), BetweenTokensP90: ms(s.gaps.Quantile(.9)),
			Migrated: s.moves.Load(), MigrationsFailed: s.broken.Load(), ReplayedTokens: s.replayed.Load(),
		}
		if cached+read > 0 {
			share := float64(cached) / float64(cached+read)
			one.CachedShare = &share
		}
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Summary) int { return cmp.Or(cmp.Compare(a.Pool, b.Pool), cmp.Compare(a.Model, b.Model)) })
	return all
}
