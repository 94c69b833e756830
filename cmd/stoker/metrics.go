package main

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// masterMetrics are the few figures that belong to no single piece.
type masterMetrics struct {
	dropped prometheus.Counter
	// began is when the shutdown did; nil before.
	began atomic.Pointer[time.Time]
}

func newMasterMetrics(r prometheus.Registerer) *masterMetrics {
	m := &masterMetrics{
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stoker_shutdown_requests_dropped_total",
			Help: "Requests that the shutdown cut because they did not finish in time.",
		}),
	}
	// A gauge that grows while the shutdown lasts: the last scrape before the
	// end tells how long it took; a value set at the end nobody would see.
	duration := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "stoker_shutdown_duration_seconds",
		Help: "How long the shutdown has been going on; 0 before it.",
	}, m.shutdownDuration)
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "stoker_build_info",
		Help:        "1, labelled with the version that runs.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	r.MustRegister(m.dropped, duration, info)
	return m
}

func (m *masterMetrics) shutdownBegan(at time.Time) { m.began.Store(&at) }

func (m *masterMetrics) shutdownDuration() float64 {
	began := m.began.Load()
	if began == nil {
		return 0
	}
	return time.Since(*began).Seconds()
}
