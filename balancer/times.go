package balancer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stoker/internal/histogram"
)

// latencies are the buckets of how long answers take: from a cached small one to a
// long generation.
var latencies = [...]time.Duration{
	time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second, 30 * time.Second,
	time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute,
}

// poolMetrics are one pool's.
type poolMetrics struct {
	duration, firstByte, queued histogram.Histogram
	exhausted                   prometheus.Counter
}

// times tells Prometheus of one of the pools' histograms.
type times struct {
	desc  *prometheus.Desc
	pools *cache[string, *poolMetrics]
	of    func(*poolMetrics) *histogram.Histogram
}

func (m *Metrics) newTimes(name, help string, of func(*poolMetrics) *histogram.Histogram) *times {
	return &times{prometheus.NewDesc(name, help, []string{"pool"}, nil), &m.byPool, of}
}

// Describe implements prometheus.Collector.
func (t *times) Describe(ch chan<- *prometheus.Desc) { ch <- t.desc }

// Collect implements prometheus.Collector.
func (t *times) Collect(ch chan<- prometheus.Metric) {
	pools := t.pools.entries.Load()
	if pools == nil {
		return
	}
	for name, p := range *pools {
		ch <- t.of(p).Metric(t.desc, name)
	}
}
