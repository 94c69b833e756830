// Command bench measures stoker beside nginx and HAProxy: the same engine, the
// same load, all subjects in turn in every round, so that a machine that
// drifts drifts for all of them. It prints Markdown. What it reports is CPU
// time of the proxy's own threads as the kernel accounts it, which is what a
// host pays; the proxy has one core for itself, load and engine have another.
//
//	make bench BENCH_FLAGS="-rounds 5 -duration 5s"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	stoker   string
	rounds   int
	tries    int
	duration time.Duration
	streams  int
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == "engine" {
		fmt.Fprintln(os.Stderr, "engine:", runEngine(os.Args[2:]))
		os.Exit(1)
	}
	var o options
	flag.StringVar(&o.stoker, "stoker", "bin/stoker", "the binary to measure")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; each measures every subject once; 0: leave the comparison out")
	flag.IntVar(&o.tries, "tries", 5, "upgrades and crashes of the master; 0: leave them out")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of one measurement")
	flag.IntVar(&o.streams, "streams", 200, "concurrent streams, of 50 events/s each")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := error(nil)
	if o.rounds > 0 {
		err = bench(ctx, o)
	}
	if err == nil && o.tries > 0 {
		var text string
		text, err = survive(ctx, o)
		fmt.Print(text)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// figures of one subject under one work, one per round.
type figures map[string]map[string][]sample

// sample is one measurement.
type sample struct {
	cpu  time.Duration // per unit of work
	rate float64       // units per second
	p99  time.Duration // from the engine's write to the client's read; streams only
}

func bench(ctx context.Context, o options) error {
	if runtime.NumCPU() < 2 {
		return errors.New("needs two cores: one for the proxy, one for the load")
	}
	dir, err := os.MkdirTemp("", "stoker-bench")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	engine, addresses, err := startEngine(ctx, 4)
	if err != nil {
		return err
	}
	defer engine.stop()
	subjects, err := findSubjects(ctx, o, dir, addresses)
	if err != nil {
		return err
	}
	results := figures{}
	for round := range o.rounds {
		// Another order each round: nobody is always first on a cold cache.
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			if err := measure(ctx, o, s, results); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, o.rounds)
	}
	_, err = fmt.Print(report(o, subjects, results))
	return err
}

// measure starts a subject, puts every work on it, and stops it.
func measure(ctx context.Context, o options, s subject, results figures) error {
	p, err := startPinned(ctx, proxyCore, s.command...)
	if err != nil {
		return err
	}
	defer p.stop()
	if err := waitServing(ctx, s.address); err != nil {
		return fmt.Errorf("%w: %s", err, p.output.String())
	}
	for _, w := range works {
		// Connections and buffers are made once; measured is what comes after.
		if _, err := w.load(ctx, o, s.address, o.duration/4); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		before, start := p.cpu(), time.Now()
		done, err := w.load(ctx, o, s.address, o.duration)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if done.units == 0 {
			return fmt.Errorf("%s: nothing was answered", w.name)
		}
		if results[w.name] == nil {
			results[w.name] = map[string][]sample{}
		}
		results[w.name][s.name] = append(results[w.name][s.name], sample{
			cpu:  (p.cpu() - before) / time.Duration(done.units),
			rate: float64(done.units) / time.Since(start).Seconds(),
			p99:  done.p99,
		})
	}
	return nil
}

// report prints medians, and stoker's cost as a share of each other's with
// the least and the greatest of the rounds.
func report(o options, subjects []subject, results figures) string {
	var out strings.Builder
	fmt.Fprintf(&out, "# Bench\n\n%d rounds of %v, subjects in turn; one core for the proxy, one for load and engine; %s, %s/%s.\nTCP on both sides, access logs off. Every answer's status and length was checked.\n",
		o.rounds, o.duration, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, w := range works {
		fmt.Fprintf(&out, "\n## %s\n\n| | CPU per %s, µs | %ss/s | p99 of the way, ms | stoker's CPU as a share of this (least–greatest) |\n|---|---|---|---|---|\n", w.name, w.unit, w.unit)
		for _, s := range subjects {
			samples := results[w.name][s.name]
			p99 := "–"
			if samples[0].p99 > 0 {
				p99 = fmt.Sprintf("%.2f", median(samples, func(s sample) float64 { return s.p99.Seconds() * 1e3 }))
			}
			fmt.Fprintf(&out, "| %s | %.1f | %.0f | %s | %s |\n", s.name,
				median(samples, func(s sample) float64 { return s.cpu.Seconds() * 1e6 }),
				median(samples, func(s sample) float64 { return s.rate }), p99, ratios(results[w.name]["stoker"], samples))
		}
	}
	return out.String()
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
		r = append(r, float64(ours[i].cpu)/float64(theirs[i].cpu))
	}
	slices.Sort(r)
	return fmt.Sprintf("%.2f (%.2f–%.2f)", r[len(r)/2], r[0], r[len(r)-1])
}

// version is the first line of what a program says of itself.
func version(ctx context.Context, program, flag string) string {
	out, err := exec.CommandContext(ctx, program, flag).CombinedOutput()
	if err != nil {
		return "?"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}
