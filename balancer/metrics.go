package balancer

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"stoker/exchange"
	"stoker/internal/histogram"
)

// Metrics counts each request once, when it has ended. Labels are names from
// the configuration, status codes and outcomes: nothing that a client makes up.
type Metrics struct {
	requests  *prometheus.CounterVec
	outcomes  *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	retries   *prometheus.CounterVec
	routes    *prometheus.CounterVec
	exhausted *prometheus.CounterVec
	refused   *prometheus.CounterVec
	keys      *prometheus.CounterVec
	limited   *prometheus.CounterVec
	packed    *prometheus.CounterVec
	packedIn  *prometheus.CounterVec
	packedOut *prometheus.CounterVec
	moved     *prometheus.CounterVec
	notMoved  *prometheus.CounterVec
	replayed  *prometheus.CounterVec
	queued    *times
	duration  *times
	firstByte *times

	// Found once: looking a label set up by its values hashes and allocates.
	byEnd     cache[endLabels, endMetrics]
	byRefusal cache[outcomeLabels, prometheus.Counter]
	byRoute   cache[routeLabels, prometheus.Counter]
	byPool    cache[string, *poolMetrics]
	byKey     cache[keyLabels, prometheus.Counter]
}

// endLabels are what is counted of every request, by all of which endMetrics are found
// at once.
type endLabels struct {
	pool, worker string
	status       int
	outcome      exchange.Outcome
	refused      bool // it was no request: its times are the client's alone
}

type endMetrics struct {
	requests, outcomes prometheus.Counter
	pool               *poolMetrics // nil: refused
}

type routeLabels struct {
	route  string
	status int
}

type keyLabels struct {
	key     string
	outcome exchange.Outcome
}

type outcomeLabels struct {
	pool    string
	outcome exchange.Outcome
}

// NewMetrics registers the metrics with r, once per registry.
func NewMetrics(r prometheus.Registerer) *Metrics {
	pool := []string{"pool"}
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_requests_total",
			Help: "Requests ended, by the status that the client was sent; 499: it went away before.",
		}, []string{"pool", "worker", "code"}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_request_outcomes_total",
			Help: "Requests ended, by why they ended.",
		}, []string{"pool", "outcome"}),
		routes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_route_requests_total",
			Help: "Requests ended that a route with a name led, by the status that the client was sent.",
		}, []string{"route", "code"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_request_retries_total",
			Help: "Attempts after a request's first, by how the attempt before had failed.",
		}, []string{"pool", "reason"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_requests_rejected_total",
			Help: "Requests refused before an upstream had them, by why.",
		}, []string{"pool", "reason"}),
		exhausted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_retry_budget_exhausted_total",
			Help: "Requests that were not tried again because too many others were.",
		}, pool),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_requests_refused_total",
			Help: "What came from clients and was no request, or came over one connection too many, by why.",
		}, []string{"reason"}),
		keys: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_key_requests_total",
			Help: "Requests ended that had a valid API key, by its name and by why they ended.",
		}, []string{"key", "outcome"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_rate_limited_total",
			Help: "Requests refused by a rate limit, by its name.",
		}, []string{"limit"}),
		packed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_compressed_answers_total",
			Help: "Answers that were compressed for their clients, by content coding.",
		}, []string{"encoding"}),
		packedIn: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_compression_in_bytes_total",
			Help: "Bytes of bodies that were compressed, before.",
		}, []string{"encoding"}),
		packedOut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_compression_out_bytes_total",
			Help: "Bytes of bodies that were compressed, as sent.",
		}, []string{"encoding"}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_streams_migrated_total",
			Help: "Streams that went on after their worker had failed them, by how (replay, continue, or tail where no other worker was needed) and why.",
		}, []string{"pool", "model", "mode", "reason"}),
		notMoved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_stream_migrations_failed_total",
			Help: "Streams that broke since nobody could go on with them, by why.",
		}, []string{"pool", "model", "reason"}),
		replayed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_replayed_tokens_total",
			Help: "Tokens, counted as events, that workers computed again and clients had had.",
		}, []string{"pool", "model"}),
	}
	m.queued = m.newTimes("stoker_queue_wait_seconds",
		"Time that requests waited for an upstream; next to 0 for those that did not.",
		func(p *poolMetrics) *histogram.Histogram { return &p.queued })
	m.duration = m.newTimes("stoker_request_duration_seconds",
		"Time from a request's head to the end of its answer.",
		func(p *poolMetrics) *histogram.Histogram { return &p.duration })
	m.firstByte = m.newTimes("stoker_time_to_first_byte_seconds",
		"Time from a request's head to its answer's head.",
		func(p *poolMetrics) *histogram.Histogram { return &p.firstByte })
	r.MustRegister(m.requests, m.outcomes, m.rejected, m.retries, m.routes, m.exhausted, m.refused, m.keys, m.limited, m.packed, m.packedIn, m.packedOut, m.moved, m.notMoved, m.replayed, m.queued, m.duration, m.firstByte)
	return m
}

// Observe counts x.
func (m *Metrics) Observe(x *exchange.Exchange) {
	r := &x.Record
	end := m.byEnd.get(endLabels{r.Pool, r.Worker, r.Status, r.Outcome, r.Refused != ""}, m.end)
	end.requests.Inc()
	end.outcomes.Inc()
	if r.Refused != "" {
		m.refused.WithLabelValues(r.Refused).Inc()
		return
	}
	if r.Route != "" {
		m.byRoute.get(routeLabels{r.Route, r.Status}, m.route).Inc()
	}
	if r.Attempts == 0 && rejects(r.Outcome) {
		m.byRefusal.get(outcomeLabels{r.Pool, r.Outcome}, m.refusal).Inc()
	}
	if r.Key != "" {
		m.byKey.get(keyLabels{r.Key, r.Outcome}, m.key).Inc()
	}
	if r.Limit != "" {
		m.limited.WithLabelValues(r.Limit).Inc()
	}
	if r.Encoding != "" {
		m.packed.WithLabelValues(r.Encoding).Inc()
		m.packedIn.WithLabelValues(r.Encoding).Add(float64(r.BytesPlain))
		m.packedOut.WithLabelValues(r.Encoding).Add(float64(r.BytesOut))
	}
	p := end.pool
	if r.Status != http.StatusSwitchingProtocols { // a tunnel lasts as long as its client likes
		p.duration.Add(r.End.Sub(r.Start))
	}
	if !r.FirstByte.IsZero() {
		p.firstByte.Add(r.FirstByte.Sub(r.Start))
	}
	if r.Pool != "" {
		p.queued.Add(r.Queued)
	}
	for _, reason := range r.Retries {
		m.retries.WithLabelValues(r.Pool, reason).Inc()
	}
	for _, move := range r.Moves {
		m.moved.WithLabelValues(r.Pool, r.Model, move.Mode, move.Reason).Inc()
	}
	if r.NotMoved != "" {
		m.notMoved.WithLabelValues(r.Pool, r.Model, r.NotMoved).Inc()
	}
	if r.ReplayedEvents > 0 {
		m.replayed.WithLabelValues(r.Pool, r.Model).Add(float64(r.ReplayedEvents))
	}
	if r.BudgetExhausted {
		p.exhausted.Inc()
	}
}

// rejects says whether a request that no upstream had was turned away by us,
// rather than being none that we could pass on.
func rejects(o exchange.Outcome) bool {
	return o == exchange.OutcomeQueueFull || o == exchange.OutcomeQueueTimeout || o == exchange.OutcomeUnavailable ||
		o == exchange.OutcomePoison || o == exchange.OutcomeDeadline || o == exchange.OutcomeShutdown ||
		o == exchange.OutcomeUnauthorized || o == exchange.OutcomeForbidden || o == exchange.OutcomeRateLimited
}

func (m *Metrics) end(l endLabels) endMetrics {
	e := endMetrics{
		requests: m.requests.WithLabelValues(l.pool, l.worker, strconv.Itoa(l.status)),
		outcomes: m.outcomes.WithLabelValues(l.pool, string(l.outcome)),
	}
	if !l.refused {
		e.pool = m.byPool.get(l.pool, m.pool)
	}
	return e
}

func (m *Metrics) route(l routeLabels) prometheus.Counter {
	return m.routes.WithLabelValues(l.route, strconv.Itoa(l.status))
}

func (m *Metrics) refusal(l outcomeLabels) prometheus.Counter {
	return m.rejected.WithLabelValues(l.pool, string(l.outcome))
}

func (m *Metrics) key(l keyLabels) prometheus.Counter {
	return m.keys.WithLabelValues(l.key, string(l.outcome))
}

func (m *Metrics) pool(name string) *poolMetrics {
	return &poolMetrics{
		exhausted: m.exhausted.WithLabelValues(name),
		duration:  histogram.New(latencies[:]), firstByte: histogram.New(latencies[:]), queued: histogram.New(latencies[:]),
	}
}

// cache is a map that is read without a lock and copied to grow: it soon has
// all the keys that it will ever have.
type cache[K comparable, V any] struct {
	mu      sync.Mutex
	entries atomic.Pointer[map[K]V]
}

// get returns the value of k, made at the first time.
func (t *cache[K, V]) get(k K, find func(K) V) V {
	if m := t.entries.Load(); m != nil {
		if v, ok := (*m)[k]; ok {
			return v
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	grown := map[K]V{}
	if m := t.entries.Load(); m != nil {
		maps.Copy(grown, *m)
	}
	v, ok := grown[k]
	if !ok {
		v = find(k)
		grown[k] = v
		t.entries.Store(&grown)
	}
	return v
}
