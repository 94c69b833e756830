package main

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// TestCountersGoOn through three generations: counters and histograms add up
// however often they are sent, gauges are the last one's own, and series that
// only an earlier generation had stay.
func TestCountersGoOn(t *testing.T) {
	generation := func(label string) (*carried, prometheus.Histogram) {
		r := prometheus.NewRegistry()
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total", Help: "c"}, []string{"l"})
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{1, 2}})
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g", Help: "g"})
		r.MustRegister(c, h, g)
		c.WithLabelValues("same").Add(2)
		c.WithLabelValues(label).Inc()
		h.Observe(1.5)
		g.Set(7)
		return &carried{own: r}, h
	}
	var last *carried
	for _, label := range []string{"first", "second", "third"} {
		next, h := generation(label)
		if last != nil {
			for range 2 {
				sent, err := last.snapshot()
				if err != nil {
					t.Fatal(err)
				}
				next.carry(sent)
			}
		}
		if last = next; label == "third" {
			h.Observe(0.5)
		}
	}
	families, err := last.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*dto.MetricFamily{}
	for _, f := range families {
		found[f.GetName()] = f
	}
	counts := map[string]float64{}
	for _, m := range found["c_total"].GetMetric() {
		counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
	}
	if counts["same"] != 6 || counts["first"] != 1 || counts["second"] != 1 || counts["third"] != 1 || len(counts) != 4 {
		t.Errorf("counters: %v", counts)
	}
	h := found["h"].GetMetric()[0].GetHistogram()
	if h.GetSampleCount() != 4 || h.GetSampleSum() != 5 || h.GetBucket()[0].GetCumulativeCount() != 1 || h.GetBucket()[1].GetCumulativeCount() != 4 {
		t.Errorf("histogram: %v", h)
	}
	if g := found["g"].GetMetric()[0].GetGauge().GetValue(); g != 7 {
		t.Errorf("gauge: %v", g)
	}
}
