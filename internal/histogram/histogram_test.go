package histogram

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

var testBounds = []time.Duration{time.Millisecond, 2500 * time.Microsecond, 5 * time.Millisecond, time.Second, time.Minute}

// What is counted is what the library counts.
func TestCountsAsTheLibraryDoes(t *testing.T) {
	h := New(testBounds)
	theirs := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "h", Buckets: []float64{.001, .0025, .005, 1, 60}})
	r := rand.New(rand.NewPCG(1, 2))
	add := func(d time.Duration) {
		h.Add(d)
		theirs.Observe(d.Seconds())
	}
	for _, bound := range testBounds {
		add(bound - 1)
		add(bound)
		add(bound + 1)
	}
	add(0)
	for range 1000 {
		add(time.Duration(r.Int64N(int64(2 * time.Minute))))
	}
	var ours, want dto.Metric
	if err := h.Metric(prometheus.NewDesc("h", "h", nil, nil)).Write(&ours); err != nil {
		t.Fatal(err)
	}
	if err := theirs.Write(&want); err != nil {
		t.Fatal(err)
	}
	got, expected := ours.GetHistogram(), want.GetHistogram()
	if off := got.GetSampleSum() - expected.GetSampleSum(); off > 1e-3 || off < -1e-3 {
		t.Errorf("sum %v, want %v", got.GetSampleSum(), expected.GetSampleSum())
	}
	got.SampleSum, expected.SampleSum, expected.CreatedTimestamp = nil, nil, nil
	if !proto.Equal(got, expected) {
		t.Errorf("%v\nwant\n%v", got, expected)
	}
}

func TestMergeIsAddingEach(t *testing.T) {
	one, other := New(testBounds), New(testBounds)
	counts := make([]uint32, len(testBounds)+1)
	var sum time.Duration
	for _, d := range []time.Duration{0, time.Millisecond, time.Hour, 3 * time.Millisecond, time.Hour} {
		one.Add(d)
		counts[Bucket(testBounds, d)]++
		sum += d
	}
	other.Merge(counts, sum)
	for _, q := range []float64{.01, .5, .9, 1} {
		if a, b := one.Quantile(q), other.Quantile(q); a != b {
			t.Errorf("quantile %v: %v and %v", q, a, b)
		}
	}
	if one.sum.Load() != other.sum.Load() {
		t.Errorf("sums %v and %v", one.sum.Load(), other.sum.Load())
	}
}

func TestQuantileOfNoneIsZero(t *testing.T) {
	h := New(testBounds)
	if q := h.Quantile(.5); q != 0 {
		t.Errorf("%v", q)
	}
}
