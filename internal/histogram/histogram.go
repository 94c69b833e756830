// Package histogram counts times by how long they were, for Prometheus and for people.
// The library's own would do, but that it touches some six lines of the processor's
// cache for each time, where two do: for a proxy that has slept in between, each is
// fetched from memory.
package histogram

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxBounds is how many bounds a histogram may have.
const maxBounds = 20

// Histogram is one that many add to. New makes it. Its sum and the counts of the
// shortest times, which are most, lie side by side.
type Histogram struct {
	sum    atomic.Int64
	counts [maxBounds + 1]atomic.Uint64
	bounds []time.Duration
}

// New returns one of buckets up to and with the bounds, which ascend, and one for what
// is longer.
func New(bounds []time.Duration) Histogram {
	if len(bounds) > maxBounds {
		panic("histogram: too many bounds")
	}
	return Histogram{bounds: bounds}
}

// Bucket is the first whose bound is not below d; most are among the first.
func Bucket(bounds []time.Duration, d time.Duration) int {
	for i, bound := range bounds {
		if d <= bound {
			return i
		}
	}
	return len(bounds)
}

// Add counts d.
func (h *Histogram) Add(d time.Duration) {
	h.counts[Bucket(h.bounds, d)].Add(1)
	h.sum.Add(int64(d))
}

// Merge adds what was counted elsewhere, by the same bounds.
func (h *Histogram) Merge(counts []uint32, sum time.Duration) {
	for i, n := range counts {
		if n > 0 {
			h.counts[i].Add(uint64(n))
		}
	}
	h.sum.Add(int64(sum))
}

// Metric is what has been counted, as Prometheus wants it.
func (h *Histogram) Metric(d *prometheus.Desc, labels ...string) prometheus.Metric {
	total, buckets := uint64(0), make(map[float64]uint64, len(h.bounds))
	for i := range len(h.bounds) + 1 {
		total += h.counts[i].Load()
		if i < len(h.bounds) {
			buckets[h.bounds[i].Seconds()] = total
		}
	}
	return prometheus.MustNewConstHistogram(d, total, time.Duration(h.sum.Load()).Seconds(), buckets, labels...)
}

// Quantile is about where that share of all lies, 0 without any.
func (h *Histogram) Quantile(q float64) time.Duration {
	var total, seen uint64
	for i := range h.counts {
		total += h.counts[i].Load()
	}
	if total == 0 {
		return 0
	}
	want := q * float64(total)
	var low time.Duration
	for i, high := range h.bounds {
		n := h.counts[i].Load()
		if n > 0 && float64(seen+n) >= want {
			return low + time.Duration(float64(high-low)*(want-float64(seen))/float64(n))
		}
		seen += n
		low = high
	}
	return low
}
