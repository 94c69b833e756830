package traffic

import (
	"slices"
	"time"
)

// Chooser is a policy with its counts. One goroutine calls it.
type Chooser interface {
	// Acquire gives a request to an engine, or keeps it until a Release.
	Acquire(r *Request) (engine int, now bool)
	// First says that a request's first token has come: its prompt is read.
	First(r *Request)
	// Release gives back a place on an engine, and says who gets one by that.
	Release(engine int) (next *Request, to int, granted bool)
}

// Result is what clients and engines have seen.
type Result struct {
	Requests int
	// First are the times to the first token, sorted.
	First []time.Duration
	// Cached is how much of the prompts did not have to be read, of 1.
	Cached float64
	// Busy is how much of the time the engines worked, of 1; Busiest, the one that did most.
	Busy, Busiest float64
	// Peak is the most requests that one engine was given, to the mean.
	Peak float64
}

// Quantile of the times to the first token, 0 to 1.
func (r *Result) Quantile(q float64) time.Duration {
	if len(r.First) == 0 {
		return 0
	}
	return r.First[min(int(q*float64(len(r.First))), len(r.First)-1)]
}

// Add takes another run's times in, and its shares by weight.
func (r *Result) Add(other Result, weight float64) {
	r.Requests += other.Requests
	r.First = append(r.First, other.First...)
	slices.Sort(r.First)
	r.Cached += weight * other.Cached
	r.Busy += weight * other.Busy
	r.Busiest += weight * other.Busiest
	r.Peak += weight * other.Peak
}

// Run plays requests against engines until all are answered. Those that come
// before warm are served and not counted: the engines hold nothing at first.
func Run(requests []Request, specs []Spec, chooser Chooser, warm time.Duration) Result {
	engines := make([]engine, 0, len(specs))
	for _, spec := range specs {
		engines = append(engines, engine{spec: spec})
	}
	var result Result
	var now time.Duration
	place := func(r *Request, to int) {
		engines[to].add(r)
		if !engines[to].stepping {
			engines[to].begin(now)
		}
	}
	first := func(r *Request) {
		chooser.First(r)
		if r.At >= warm {
			result.First = append(result.First, now-r.At)
		}
	}
	for next := 0; ; {
		stepper := -1
		for i := range engines {
			if engines[i].stepping && (stepper < 0 || engines[i].until < engines[stepper].until) {
				stepper = i
			}
		}
		if next < len(requests) && (stepper < 0 || requests[next].At <= engines[stepper].until) {
			r := &requests[next]
			next++
			now = r.At
			if to, at := chooser.Acquire(r); at {
				place(r, to)
			}
			continue
		}
		if stepper < 0 {
			break
		}
		e := &engines[stepper]
		now = e.until
		var ended int
		e.end(first, func(*Request) { ended++ })
		for range ended {
			if r, to, granted := chooser.Release(stepper); granted {
				if to == stepper {
					e.add(r) // its next step begins below
				} else {
					place(r, to)
				}
			}
		}
		e.begin(now)
	}
	slices.Sort(result.First)
	result.Requests = len(requests)
	var read, cached int64
	var busy, busiest time.Duration
	most := 0
	for i := range engines {
		read, cached = read+engines[i].read, cached+engines[i].cached
		busy, busiest = busy+engines[i].busy, max(busiest, engines[i].busy)
		most = max(most, engines[i].given)
	}
	result.Cached = float64(cached) / float64(max(read+cached, 1))
	result.Busy = busy.Seconds() / now.Seconds() / float64(len(engines))
	result.Peak = float64(most) * float64(len(engines)) / float64(max(len(requests), 1))
	result.Busiest = busiest.Seconds() / now.Seconds()
	return result
}
