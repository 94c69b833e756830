package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// sample is one measurement.
type sample struct {
	CPU      time.Duration `json:"cpu_ns"` // per unit of work
	Rate     float64       `json:"rate"`   // units per second
	P50      time.Duration `json:"p50_ns"` // of a request, or of an event's way
	P99      time.Duration `json:"p99_ns"`
	Resident int64         `json:"resident_bytes"`
	// Failed says why there are no figures.
	Failed string `json:"failed,omitempty"`
}

// report collects the samples: by work, by subject, one for each round.
type report struct {
	Go       string                         `json:"go"`
	Rounds   int                            `json:"rounds"`
	Duration string                         `json:"duration"`
	Versions map[string]string              `json:"versions"`
	Samples  map[string]map[string][]sample `json:"samples"`
	order    []string
}

func newReport(o options, subjects []subject) *report {
	r := &report{Go: runtime.Version(), Rounds: o.rounds, Duration: o.duration.String(), Versions: map[string]string{}, Samples: map[string]map[string][]sample{}}
	for _, s := range subjects {
		r.order = append(r.order, s.name)
		if s.version != "" {
			r.Versions[s.name] = s.version
		}
	}
	return r
}

func (r *report) add(work, subject string, s sample) {
	if r.Samples[work] == nil {
		r.Samples[work] = map[string][]sample{}
	}
	r.Samples[work][subject] = append(r.Samples[work][subject], s)
}

// save writes everything as JSON, for who wants to compare runs.
func (r *report) save(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(text, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}

// markdown prints medians, and stoker's cost as a share of each other's with
// the least and the greatest of the rounds.
func (r *report) markdown(plan []work) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Bench\n\n%d rounds of %s, subjects in turn; one core for the proxy, one for load and engines; %s, %s/%s.\nAccess logs off. Every answer's status and bytes were checked.\n\n",
		r.Rounds, r.Duration, r.Go, runtime.GOOS, runtime.GOARCH)
	for _, name := range r.order {
		if v := r.Versions[name]; v != "" {
			fmt.Fprintf(&out, "- %s: %s\n", name, v)
		}
	}
	for _, w := range plan {
		fmt.Fprintf(&out, "\n## %s", w.name)
		if w.goal != "" {
			fmt.Fprintf(&out, " (goal: %s)", w.goal)
		}
		if w.resident {
			r.memory(&out, w)
		} else {
			r.costs(&out, w)
		}
	}
	return out.String()
}

func (r *report) costs(out *strings.Builder, w work) {
	fmt.Fprintf(out, "\n\n| | CPU per %s, µs | %s/s | p50, ms | p99, ms | stoker's CPU as a share of this (least–greatest) |\n|---|---|---|---|---|---|\n", w.unit, w.unit)
	for _, name := range r.order {
		samples := sound(r.Samples[w.name][name])
		if len(samples) == 0 {
			if len(r.Samples[w.name][name]) > 0 {
				fmt.Fprintf(out, "| %s | not done | | | | |\n", name)
			}
			continue
		}
		cpu, share := "–", "–"
		if samples[0].CPU > 0 {
			cpu = fmt.Sprintf("%.1f", median(samples, func(s sample) float64 { return s.CPU.Seconds() * 1e6 }))
			share = ratios(r.Samples[w.name][stokerName], r.Samples[w.name][name])
		}
		fmt.Fprintf(out, "| %s | %s | %.0f | %s | %s | %s |\n", name, cpu,
			median(samples, func(s sample) float64 { return s.Rate }),
			milliseconds(samples, func(s sample) time.Duration { return s.P50 }),
			milliseconds(samples, func(s sample) time.Duration { return s.P99 }), share)
	}
}

// milliseconds is a median; nothing where it was not measured.
func milliseconds(samples []sample, of func(sample) time.Duration) string {
	m := median(samples, func(s sample) float64 { return of(s).Seconds() * 1e3 })
	if m == 0 {
		return "–"
	}
	return fmt.Sprintf("%.2f", m)
}

// memory prints what is resident, and what each stream adds to none.
func (r *report) memory(out *strings.Builder, w work) {
	fmt.Fprint(out, "\n\n| | resident, MB | KiB per stream |\n|---|---|---|\n")
	for _, name := range r.order {
		samples := sound(r.Samples[w.name][name])
		if len(samples) == 0 || samples[0].Resident == 0 {
			continue
		}
		bytes := median(samples, func(s sample) float64 { return float64(s.Resident) })
		each := "–"
		if atRest := r.Samples["memory with 0 open streams"][name]; w.order.Conns > 0 && len(atRest) > 0 {
			each = fmt.Sprintf("%.1f", (bytes-median(atRest, func(s sample) float64 { return float64(s.Resident) }))/1024/float64(w.order.Conns))
		}
		fmt.Fprintf(out, "| %s | %.1f | %s |\n", name, bytes/1e6, each)
	}
}

// sound are those that have figures.
func sound(samples []sample) []sample {
	return slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return s.Failed != "" })
}

func median(samples []sample, of func(sample) float64) float64 {
	values := make([]float64, 0, len(samples))
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// ratios compares round by round.
func ratios(ours, theirs []sample) string {
	var r []float64
	for i := range ours {
		if theirs[i].Failed != "" {
			continue
		}
		r = append(r, float64(ours[i].CPU)/float64(theirs[i].CPU))
	}
	slices.Sort(r)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r[len(r)/2], r[0], r[len(r)-1])
}
