// Command bench-policy plays LLM traffic against engines, both as package traffic
// models them, and asks the balancer's own pool who gets each request: how long
// do clients wait for their first token under each policy, and under nginx's?
//
//	make bench-policy BENCH_FLAGS="-seeds 5 -json policy.json"
//
// The same seeds give the same figures, to the digit; only the time that it takes
// depends on the machine.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"
	"time"

	"stoker/scripts/bench-policy/traffic"
)

// published is how many seeds the figures in the documentation are over.
const published = 5

func main() {
	seeds := flag.Int("seeds", published, "how many runs of each, with traffic of their own; figures are over all of them")
	asJSON := flag.String("json", "", "also write the figures to this file")
	flag.Parse()
	if err := bench(os.Stdout, *seeds, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "bench-policy:", err)
		os.Exit(1)
	}
}

func bench(out io.Writer, seeds int, file string) error {
	if seeds < 1 {
		return fmt.Errorf("-seeds %d: at least one", seeds)
	}
	began := time.Now()
	all := runAll(scenarios(), seeds)
	report(out, all, seeds, time.Since(began))
	if file == "" {
		return nil
	}
	return write(file, all)
}

// write keeps the figures for programs.
func write(file string, all []Table) error {
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil { //nolint:gosec // a report for anybody
		return fmt.Errorf("write the figures: %w", err)
	}
	return nil
}

// Row is one policy's figures in one scenario, over all seeds.
type Row struct {
	Policy string `json:"policy"`
	// Times to the first token, in milliseconds.
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	// Shares, of 1.
	Cached  float64 `json:"cached"`
	Busy    float64 `json:"busy"`
	Busiest float64 `json:"busiest"`
	// Peak is the most requests of one worker, to the mean.
	Peak    float64 `json:"peak"`
	counted int
}

// Table is one scenario's.
type Table struct {
	Scenario string `json:"scenario"`
	About    string `json:"about"`
	Requests int    `json:"requests"`
	Rows     []Row  `json:"rows"`
}

// runAll runs everything, as many at a time as there are processors.
func runAll(scenarios []scenario, seeds int) []Table {
	tables := make([]Table, len(scenarios))
	var work sync.WaitGroup
	slots := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, s := range scenarios {
		policies := policies(&s)
		tables[i] = Table{Scenario: s.name, About: s.about, Rows: make([]Row, len(policies))}
		requests := make([][]traffic.Request, seeds)
		for seed := range requests {
			requests[seed] = s.load.Draw(uint64(seed)+1, length)
			tables[i].Requests += len(requests[seed])
		}
		for j, p := range policies {
			slots <- struct{}{}
			work.Go(func() {
				tables[i].Rows[j] = run(&s, p, requests)
				<-slots
			})
		}
	}
	work.Wait()
	return tables
}

// run is one policy in one scenario.
func run(s *scenario, p policy, requests [][]traffic.Request) Row {
	var all traffic.Result
	for _, r := range requests {
		all.Add(traffic.Run(r, s.engines(), p.make(), warm), 1/float64(len(requests)))
	}
	ms := func(q float64) float64 {
		return float64(all.Quantile(q).Round(100*time.Microsecond)) / float64(time.Millisecond)
	}
	return Row{
		Policy: p.name, P50: ms(.5), P90: ms(.9), P99: ms(.99), P999: ms(.999),
		Cached: all.Cached, Busy: all.Busy, Busiest: all.Busiest, Peak: all.Peak, counted: len(all.First),
	}
}

func report(out io.Writer, tables []Table, seeds int, took time.Duration) {
	fmt.Fprintf(out, "# Time to first token by policy\n\nSimulated: %d workers, %s of traffic and %d seeds each, in %s.\n", workers, length, seeds, took.Round(100*time.Millisecond))
	for _, t := range tables {
		fmt.Fprintf(out, "\n## %s\n\n%s; %d requests.\n\n", t.Scenario, t.About, t.Requests)
		fmt.Fprintln(out, "| policy | p50, ms | p90, ms | p99, ms | p99.9, ms | of prompts reused | workers busy (busiest) | most requests of one, to the mean |\n|---|---|---|---|---|---|---|---|")
		for _, r := range t.Rows {
			fmt.Fprintf(out, "| %s | %.0f | %.0f | %.0f | %.0f | %.0f %% | %.0f %% (%.0f %%) | %.2f |\n", r.Policy, r.P50, r.P90, r.P99, r.P999, 100*r.Cached, 100*r.Busy, 100*r.Busiest, r.Peak)
		}
	}
}
