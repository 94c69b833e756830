package tokens

import (
	"time"

	"stoker/internal/histogram"
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
	g.counts[histogram.Bucket(gapBounds[:], d)]++
	g.sum += d
}
