package supervisor

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are what the supervisor counts.
type metrics struct {
	state    *prometheus.GaugeVec
	restarts *prometheus.CounterVec
	drains   *prometheus.CounterVec
	load     *prometheus.GaugeVec
	hung     *prometheus.CounterVec
	probes   *prometheus.CounterVec
}

// newMetrics makes them known to r; nil for nobody.
func newMetrics(r prometheus.Registerer) (*metrics, error) {
	labels := []string{"pool", "worker"}
	m := &metrics{
		state: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stoker_worker_state",
			Help: "1 for the state that a worker is in, 0 for the others.",
		}, append(labels[:2:2], "state")),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_worker_restarts_total",
			Help: "Engines started again, by why the one before ended.",
		}, append(labels[:2:2], "cause")),
		drains: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_worker_drains_total",
			Help: "Times that a worker left the pool and its requests were let finish.",
		}, labels),
		load: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stoker_worker_load_seconds",
			Help: "Time that the worker's last engine took from its start to its first good probe.",
		}, labels),
		hung: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_workers_hung_total",
			Help: "Times that the worker's engine was found hanging, and was killed.",
		}, labels),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_probe_failures_total",
			Help: "Failed probes of ready workers, and of servers, by the kind of probe and why it failed.",
		}, append(labels[:2:2], "kind", "reason")),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.state, m.restarts, m.drains, m.load, m.hung, m.probes} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// workerMetrics are one worker's. All series exist from the start, so that a
// rate over them sees the first event.
type workerMetrics struct {
	state    map[State]prometheus.Gauge
	restarts map[reason]prometheus.Counter
	drains   prometheus.Counter
	load     prometheus.Gauge
	hung     prometheus.Counter
	// probeFailed counts a failed probe; its series exist from the first one on.
	probeFailed func(kind, reason string)
}

func (m *metrics) worker(pool, name string) *workerMetrics {
	w := &workerMetrics{
		state:    make(map[State]prometheus.Gauge, len(states)),
		restarts: make(map[reason]prometheus.Counter, len(restartReasons)),
		drains:   m.drains.WithLabelValues(pool, name),
		load:     m.load.WithLabelValues(pool, name),
		hung:     m.hung.WithLabelValues(pool, name),
	}
	w.probeFailed = m.probeFailed(pool, name)
	for _, s := range states {
		w.state[s] = m.state.WithLabelValues(pool, name, string(s))
	}
	for _, r := range restartReasons {
		w.restarts[r] = m.restarts.WithLabelValues(pool, name, string(r))
	}
	w.state[Starting].Set(1)
	return w
}

// probeFailed counts the failed probes of one upstream.
func (m *metrics) probeFailed(pool, name string) func(kind, reason string) {
	return func(kind, reason string) { m.probes.WithLabelValues(pool, name, kind, reason).Inc() }
}

// forget drops the series of a worker that is no more.
func (m *metrics) forget(pool, name string) {
	labels := prometheus.Labels{"pool": pool, "worker": name}
	for _, v := range []interface {
		DeletePartialMatch(labels prometheus.Labels) int
	}{m.state, m.restarts, m.drains, m.load, m.hung, m.probes} {
		v.DeletePartialMatch(labels)
	}
}

func (w *workerMetrics) entered(from, to State) {
	w.state[from].Set(0)
	w.state[to].Set(1)
}

func (w *workerMetrics) restarted(r reason) { w.restarts[r].Inc() }

func (w *workerMetrics) loaded(took time.Duration) { w.load.Set(took.Seconds()) }
