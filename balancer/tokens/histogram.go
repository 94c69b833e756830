package tokens

import (
	"sync/atomic"
	"time"
)

// gapBounds are the buckets of times between tokens, and firstBounds of those to
// the first: from a small model on a large device to one that is overloaded.
var (
	gapBounds = [...]time.Duration{
		2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 15 * time.Millisecond, 20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond,
		75 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond, time.Second, 5 * time.Second,
	}
	firstBounds = [...]time.Duration{
		5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond, 350 * time.Millisecond,
		500 * time.Millisecond, 750 * time.Millisecond, time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
	}
)

// Gaps is a histogram of one answer's times between tokens: counted without an
// atomic operation for each, and added to that of all when the answer has ended.
type Gaps struct {
	counts [len(gapBounds) + 1]uint32
	sum    time.Duration
}

func (g *Gaps) add(d time.Duration) {
	g.counts[bucket(gapBounds[:], d)]++
	g.sum += d
}

// bucket is the first whose bound is not below d; most are among the first.
func bucket(bounds []time.Duration, d time.Duration) int {
	for i, bound := range bounds {
		if d <= bound {
			return i
		}
	}
	return len(bounds)
}

// histogram is one that many add to.
type histogram struct {
	bounds []time.Duration
	counts []atomic.Uint64
	sum    atomic.Int64
}

func newHistogram(bounds []time.Duration) histogram {
	return histogram{bounds: bounds, counts: make([]atomic.Uint64, len(bounds)+1)}
}

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(h.bounds, d)].Add(1)
	h.sum.Add(int64(d))
}

func (h *histogram) merge(g *Gaps) {
	for i, n := range g.counts {
		if n > 0 {
			h.counts[i].Add(uint64(n))
		}
	}
	h.sum.Add(int64(g.sum))
}

// cumulated are the counts as Prometheus wants them.
func (h *histogram) cumulated() (total uint64, sum float64, buckets map[float64]uint64) {
	buckets = make(map[float64]uint64, len(h.bounds))
	for i := range h.counts {
		total += h.counts[i].Load()
		if i < len(h.bounds) {
			buckets[h.bounds[i].Seconds()] = total
		}
	}
	return total, time.Duration(h.sum.Load()).Seconds(), buckets
}

// quantile is about where that share of all lies, 0 without any.
func (h *histogram) quantile(q float64) time.Duration {
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
