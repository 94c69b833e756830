package main

import (
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stoker/supervisor"
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

// crashMetrics count how engines die. They are counted also where no report is written.
type crashMetrics struct {
	crashes  *prometheus.CounterVec
	suspects *prometheus.CounterVec
	lost     prometheus.Counter
}

func newCrashMetrics(r prometheus.Registerer) *crashMetrics {
	m := &crashMetrics{
		crashes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_crashes_total",
			Help: "Ends of engines that nobody wished, by why and by exit code or signal.",
		}, []string{"pool", "reason", "exit"}),
		suspects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_crash_suspects_total",
			Help: "Requests that an engine had when it died.",
		}, []string{"pool"}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stoker_crash_reports_failed_total",
			Help: "Crash reports that could not be written.",
		}),
	}
	r.MustRegister(m.crashes, m.suspects, m.lost)
	return m
}

// died counts. The kernel's codes and signals are few, so that these may be labels.
func (m *crashMetrics) died(d *supervisor.Death) {
	exit := d.Exit.Signal
	switch {
	case exit != "":
	case d.Exit.Code < 0:
		exit = "unknown"
	default:
		exit = strconv.Itoa(d.Exit.Code)
	}
	m.crashes.WithLabelValues(d.Pool, d.Reason, exit).Inc()
}
