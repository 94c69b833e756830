package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// carried makes counters go on from one generation of the master to the next.
// It gathers this process's own metrics and adds what the generation before had
// counted: counters, and the counts and sums of histograms and summaries.
// Gauges, and the quantiles of summaries, are this process's own.
//
// What the one before had counted grows while it finishes its last requests:
// it sends its state again, and each replaces the last, so that no scrape ever
// sees less than one before.
type carried struct {
	own prometheus.Gatherer

	mu     sync.Mutex
	before map[string]*dto.MetricFamily
}

// Gather implements prometheus.Gatherer.
func (c *carried) Gather() ([]*dto.MetricFamily, error) {
	families, err := c.own.Gather()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.before) == 0 {
		return families, err
	}
	known := make(map[string]bool, len(families))
	for _, f := range families {
		known[f.GetName()] = true
		if before := c.before[f.GetName()]; before != nil && before.GetType() == f.GetType() {
			addFamily(f, before)
		}
	}
	for name, f := range c.before {
		if !known[name] {
			families = append(families, proto.CloneOf(f))
		}
	}
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, err
}

// snapshot is what a next generation shall carry on, encoded.
func (c *carried) snapshot() ([][]byte, error) {
	families, err := c.Gather()
	if err != nil {
		return nil, err
	}
	var encoded [][]byte
	for _, f := range families {
		if !grows(f.GetType()) {
			continue
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(f)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", f.GetName(), err)
		}
		encoded = append(encoded, b)
	}
	return encoded, nil
}

// carry replaces what the generation before had counted. Of a family that
// cannot be read nothing is carried.
func (c *carried) carry(encoded [][]byte) {
	before := make(map[string]*dto.MetricFamily, len(encoded))
	for _, b := range encoded {
		f := new(dto.MetricFamily)
		if proto.Unmarshal(b, f) == nil && grows(f.GetType()) {
			before[f.GetName()] = f
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before = before
}

// grows says whether metrics of that type only ever go up.
func grows(t dto.MetricType) bool {
	switch t {
	case dto.MetricType_COUNTER, dto.MetricType_HISTOGRAM, dto.MetricType_SUMMARY:
		return true
	case dto.MetricType_GAUGE, dto.MetricType_UNTYPED, dto.MetricType_GAUGE_HISTOGRAM:
	}
	return false
}

// addFamily adds the series of before to f, which is the caller's own.
func addFamily(f, before *dto.MetricFamily) {
	if !grows(f.GetType()) {
		return
	}
	series := make(map[string]*dto.Metric, len(f.GetMetric()))
	for _, m := range f.GetMetric() {
		series[labelsOf(m)] = m
	}
	for _, b := range before.GetMetric() {
		m := series[labelsOf(b)]
		if m == nil {
			f.Metric = append(f.Metric, proto.CloneOf(b))
			continue
		}
		addMetric(m, b)
	}
}

func labelsOf(m *dto.Metric) string {
	var b strings.Builder
	for _, l := range m.GetLabel() { // sorted by name
		fmt.Fprintf(&b, "%q=%q,", l.GetName(), l.GetValue())
	}
	return b.String()
}

func addMetric(m, before *dto.Metric) {
	if m.Counter != nil && before.Counter != nil {
		m.Counter.Value = new(m.Counter.GetValue() + before.Counter.GetValue())
	}
	if m.Summary != nil && before.Summary != nil {
		m.Summary.SampleCount = new(m.Summary.GetSampleCount() + before.Summary.GetSampleCount())
		m.Summary.SampleSum = new(m.Summary.GetSampleSum() + before.Summary.GetSampleSum())
	}
	if m.Histogram != nil && before.Histogram != nil {
		addHistogram(m.Histogram, before.Histogram)
	}
}

// addHistogram adds counts, which are cumulative, bucket by bucket. When the
// bounds have changed between two versions, a bound that only one side has
// counts on the other what its next lower bound does: a lower limit.
func addHistogram(h, before *dto.Histogram) {
	h.SampleCount = new(h.GetSampleCount() + before.GetSampleCount())
	h.SampleSum = new(h.GetSampleSum() + before.GetSampleSum())
	for _, b := range h.GetBucket() {
		b.CumulativeCount = new(b.GetCumulativeCount() + countUpTo(before, b.GetUpperBound()))
	}
}

// countUpTo is the cumulative count of the highest bucket up to bound.
func countUpTo(h *dto.Histogram, bound float64) uint64 {
	var count uint64
	for _, b := range h.GetBucket() {
		if cmp.Compare(b.GetUpperBound(), bound) <= 0 {
			count = b.GetCumulativeCount()
		}
	}
	return count
}
