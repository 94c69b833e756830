package quarantine

import "github.com/prometheus/client_golang/prometheus"

// Metrics of a court. A nil one counts nothing.
type Metrics struct {
	suspects    *prometheus.CounterVec
	convictions *prometheus.CounterVec
	refused     *prometheus.CounterVec
	held        *prometheus.GaugeVec
}

type heldLabels struct {
	pool string
	kind Kind
}

// NewMetrics registers the metrics with r, once per registry.
func NewMetrics(r prometheus.Registerer) *Metrics {
	labels := []string{"pool", "kind"}
	m := &Metrics{
		suspects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_quarantine_suspects_total",
			Help: "Requests that were in flight on an engine when it died, and whose like was not answered well just before.",
		}, []string{"pool"}),
		convictions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_quarantine_convictions_total",
			Help: "Requests and schemas that were found to kill engines, or that an operator has named.",
		}, labels),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_quarantine_refused_total",
			Help: "Requests refused because they, or their schema, have killed engines.",
		}, labels),
		held: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "stoker_quarantined",
			Help: "Requests and schemas that are refused now.",
		}, labels),
	}
	r.MustRegister(m.suspects, m.convictions, m.refused, m.held)
	return m
}

func (m *Metrics) suspect(pool string, n int) {
	if m != nil {
		m.suspects.WithLabelValues(pool).Add(float64(n))
	}
}

func (m *Metrics) convict(v *Conviction) {
	if m != nil {
		m.convictions.WithLabelValues(v.Pool, string(v.Kind)).Inc()
	}
}

func (m *Metrics) refuse(v *Conviction) {
	if m != nil {
		m.refused.WithLabelValues(v.Pool, string(v.Kind)).Inc()
	}
}

func (m *Metrics) hold(held map[heldLabels]int) {
	if m == nil {
		return
	}
	m.held.Reset()
	for l, n := range held {
		m.held.WithLabelValues(l.pool, string(l.kind)).Set(float64(n))
	}
}
