// Command bench measures stoker beside nginx, HAProxy, Caddy and a tuned
// net/http ReverseProxy: the same engines, the same load, all subjects in turn
// in every round, so that a machine that drifts drifts for all of them. What it
// reports is CPU time of the proxy's own threads as the kernel accounts it,
// which is what a host pays; the proxy has one core for itself, load and
// engines have another.
//
//	make bench BENCH_FLAGS="-rounds 5 -only small"
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"stoker/scripts/bench/loop"
)

// options are the command line's.
type options struct {
	stoker   string
	rounds   int
	tries    int
	duration time.Duration
	only     string
	subjects string
	report   string
	files    int // descriptors that a process may have
}

func main() {
	if len(os.Args) > 1 && runPart(os.Args[1], os.Args[2:]) {
		return
	}
	var o options
	flag.StringVar(&o.stoker, "stoker", "bin/stoker", "the binary to measure")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; each measures every subject once; 0: leave the comparison out")
	flag.IntVar(&o.tries, "tries", 5, "upgrades and crashes of the master; 0: leave them out")
	flag.DurationVar(&o.duration, "duration", 2*time.Second, "of one measurement")
	flag.StringVar(&o.only, "only", "", "a regular expression: measure only the works whose names it matches")
	flag.StringVar(&o.subjects, "subjects", "", "a regular expression: measure only the proxies whose names it matches, and stoker")
	flag.StringVar(&o.report, "json", "", "file to write all samples to, as JSON")
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

// runPart is what this program is when the bench starts it beside itself.
func runPart(name string, args []string) bool {
	var err error
	switch {
	case name == "loop" && len(args) == 1:
		err = loop.Serve(args[0], engines, os.Stdin, os.Stdout)
	case name == "reverseproxy" && len(args) == 1:
		err = reverseProxy(args[0])
	default:
		return false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
	return true
}

func bench(ctx context.Context, o options) error {
	if runtime.NumCPU() < 2 {
		return errors.New("needs two cores: one for the proxy, one for the load")
	}
	var err error
	if o.files, err = raiseFileLimit(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "stoker-bench")
	if err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	load, err := startLoad(ctx, dir)
	if err != nil {
		return err
	}
	defer load.stop()
	plan, err := makePlan(o)
	if err != nil {
		return err
	}
	subjects, err := findSubjects(ctx, o)
	if err != nil {
		return err
	}
	r := newReport(o, subjects)
	for round := range o.rounds {
		for _, w := range plan {
			if err := w.measureAll(ctx, load, dir, rotate(subjects, round), r); err != nil {
				return err
			}
		}
		fmt.Fprintf(os.Stderr, "round %d of %d done\n", round+1, o.rounds)
	}
	fmt.Print(r.markdown(plan))
	return r.save(o.report)
}

// rotate gives another order each round: nobody is always first on a cold cache.
func rotate(all []subject, by int) []subject {
	by %= len(all)
	return append(append([]subject(nil), all[by:]...), all[:by]...)
}

// raiseFileLimit makes room for ten thousand streams, two descriptors each, or
// for as many as the hard limit allows.
func raiseFileLimit() (int, error) {
	const enough = 65536
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	limit.Cur = min(limit.Max, enough)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("raise the limit of open files: %w", err)
	}
	return int(limit.Cur), nil
}
