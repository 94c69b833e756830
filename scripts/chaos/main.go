// Command chaos tests a built stoker at random: it runs real engines behind it
// and real clients before it, lets everything fail that can fail (engines,
// keepers and masters are killed, stopped and exit; what runs is reloaded,
// scaled, drained, upgraded; clients hang up and dawdle), and checks what must
// hold all the same:
//
//   - an answer is exact to the byte, or visibly broken, or an error of ours; it
//     is never another request's, and it always comes;
//   - connections are refused or lost only while no master lives;
//   - a request reaches one engine once, or the next only after the first has died;
//   - there is one engine on each slot, and one owner of each keeper;
//   - at rest everything is whole again: workers ready, nothing in flight, the
//     descriptors, goroutines and memory of before, no process too many;
//   - at the end nothing is left; no log has a race or a panic in it.
//
// What is done, and when, follows from the seed alone:
//
//	make chaos CHAOS_FLAGS="-seed 7 -duration 5m -race"
//
// A failing run prints the seed, what was done, and the last lines of the log.
package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

// options are the command line's.
type options struct {
	seed     uint64
	duration time.Duration
	round    time.Duration // of faults, before things are looked at
	pace     time.Duration // mean time between two faults
	clients  int
	binary   string
	race     bool
	python   string
	keep     bool
	verbose  bool
	only     string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		os.Exit(runEngine(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "sleeper" {
		runSleeper()
	}
	var o options
	flag.Uint64Var(&o.seed, "seed", 0, "what happens, and when, follows from it; 0: any, which is printed")
	flag.DurationVar(&o.duration, "duration", 3*time.Minute, "how long to go on")
	flag.DurationVar(&o.round, "round", 15*time.Second, "how long faults go on before everything is looked at")
	flag.DurationVar(&o.pace, "pace", 600*time.Millisecond, "mean time between two faults")
	flag.IntVar(&o.clients, "clients", 12, "how many clients ask all the time")
	flag.StringVar(&o.binary, "binary", "", "a stoker to test; default: built from this tree, twice, with failpoints")
	flag.BoolVar(&o.race, "race", false, "build it with the race detector")
	flag.StringVar(&o.python, "python", "/usr/bin/python3", "a Python with uvicorn and FastAPI; without it their pool is left out")
	flag.BoolVar(&o.keep, "keep", false, "leave logs and configuration where they are")
	flag.BoolVar(&o.verbose, "v", false, "print what is done as it is done")
	flag.StringVar(&o.only, "only", "", "comma-separated kinds of faults; default: all")
	flag.Parse()
	for o.seed == 0 {
		o.seed = rand.Uint64N(1e9)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	failed, err := chaos(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
	}
	if err != nil || failed {
		os.Exit(1)
	}
}

// chaos is one whole run. It says whether what must hold did not.
func chaos(ctx context.Context, o options) (failed bool, err error) {
	// Short: the kernel takes 107 bytes of path for a socket.
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return false, err
	}
	j := newJournal(o.verbose)
	defer func() {
		if !o.keep && !failed {
			_ = os.RemoveAll(dir)
		}
	}()
	fmt.Printf("chaos: seed %d, %v, in %s\n", o.seed, o.duration, dir)
	s, err := newStack(ctx, o, dir, j)
	if err != nil {
		return false, err
	}
	defer s.killAll()
	if err := s.begin(ctx); err != nil {
		fmt.Print(s.lastLines())
		return false, err
	}
	crowd := newCrowd(s, o)
	began := time.Now()
	for round := 0; ctx.Err() == nil && time.Since(began) < o.duration && j.fine(); round++ {
		crowd.open()
		s.suffer(ctx, schedule(o, round))
		crowd.shut()
		if ctx.Err() != nil {
			break
		}
		s.last = time.Since(began) >= o.duration
		s.rest(ctx, crowd)
		fmt.Printf("chaos: %v, round %d: %s\n", time.Since(began).Round(time.Second), round, crowd.summary())
	}
	crowd.end()
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	s.finish(ctx, o.seed)
	if j.fine() {
		fmt.Printf("chaos: seed %d: all that must hold has held: %s\n", o.seed, crowd.total())
		return false, nil
	}
	fmt.Printf("\nchaos: seed %d FAILED (make chaos CHAOS_FLAGS=\"-seed %d …\" does the same again; everything is in %s)\n\nwhat was done:\n%s\nthe log's end:\n%s\nwhat did not hold:\n%s",
		o.seed, o.seed, dir, j.text(), s.lastLines(), j.violationText())
	return true, nil
}

func (s *stack) lastLines() string {
	text, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-16<<10):])
}
