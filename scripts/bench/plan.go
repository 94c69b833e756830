package main

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"time"

	"stoker/scripts/bench/loop"
)

// engines is how many upstreams listen; a work uses the first few.
const engines = 256

// work is one row of the report: a load, over one transport to the engines.
type work struct {
	name, unit string
	order      loop.Order
	perUnit    float64 // how many of the loop's units make one of ours
	unix       bool    // transport to the engines
	secure     bool    // TLS from the clients
	tool       *tool   // instead of the loop's clients
	upstreams  int
	// resident: memory is what is measured, not time.
	resident bool
	// ours: only stoker is measured. moves: and stoker with streams that may move.
	ours, moves bool
	goal        string
}

// makePlan lists what is measured.
func makePlan(o options) ([]work, error) {
	wanted, err := regexp.Compile(o.only)
	if err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	var plan []work
	for _, w := range allWorks(o) {
		if !wanted.MatchString(w.name) {
			continue
		}
		w.order.Duration, w.order.Warm = o.duration, o.duration/4
		if w.upstreams == 0 {
			w.upstreams = 4
		}
		if w.perUnit == 0 {
			w.perUnit = 1
		}
		plan = append(plan, w)
	}
	return plan, nil
}

func allWorks(o options) []work {
	const mib = 1 << 20
	compared := []work{
		{name: "small JSON, 10 000/s", unit: "request", goal: "≤ 0.90", order: loop.Order{Work: loop.Small, Conns: 64, Rate: 10000}},
		{name: "small JSON, saturated", unit: "request", goal: "≤ 0.85", order: loop.Order{Work: loop.Small, Conns: 64}},
		{name: "SSE, 200 streams × 50/s", unit: "event", goal: "≤ 0.95", order: loop.Order{Work: loop.Stream, Conns: 200, Events: 50}},
		{name: "SSE, 1000 streams × 10/s", unit: "event", goal: "≤ 0.95", order: loop.Order{Work: loop.Stream, Conns: 1000, Events: 10}},
		{name: "SSE, 200 streams × 50/s, all at once", unit: "event", goal: "≤ 0.95", order: loop.Order{Work: loop.Stream, Conns: 200, Events: 50, Aligned: true}},
		{name: "1 MiB up", unit: "MiB", goal: "≤ 0.60", order: loop.Order{Work: loop.Up, Conns: 4, Size: mib}},
		{name: "10 MiB down", unit: "MiB", perUnit: 0.1, goal: "≤ 0.60", order: loop.Order{Work: loop.Down, Conns: 4, Size: 10 * mib}},
		{name: "a connection each", unit: "request", goal: "≤ 1.00", order: loop.Order{Work: loop.Close, Conns: 16}},
	}
	var all []work
	for _, w := range compared {
		overUnix := w
		w.name += ", TCP"
		overUnix.name, overUnix.unix = overUnix.name+", unix", true
		all = append(all, w, overUnix)
	}
	all = append(all,
		work{name: "TLS 1.3 handshakes", unit: "connection", secure: true, tool: handshakes, goal: "not above Caddy"},
		work{name: "small JSON over TLS", unit: "request", secure: true, tool: overHTTP1(), goal: "not above Caddy"},
		work{name: "small JSON over HTTP/2 and TLS", unit: "request", secure: true, tool: overHTTP2(), goal: "not above Caddy"},
	)
	most := min(10000, o.files/2-1000)
	for _, n := range []int{0, 1000, most} {
		all = append(all, work{
			name: fmt.Sprintf("memory with %d open streams", n), unit: "stream", resident: true,
			goal:  map[int]string{0: "≤ 15 MB", most: "≤ 18 KiB each"}[n],
			order: loop.Order{Work: loop.Stream, Conns: n, Events: 0.1},
		})
	}
	for _, rate := range []float64{50, 10} {
		all = append(all, work{
			name: fmt.Sprintf("tokens that could go on elsewhere, %d streams × %v/s", int(10000/rate), rate), unit: "event", ours: true, moves: true,
			goal: "replay at most 1.10 of plain", order: loop.Order{Work: loop.Stream, Conns: int(10000 / rate), Events: rate, Tokens: true},
		})
	}
	for _, n := range []int{4, 32, 256} {
		all = append(all, work{
			name: fmt.Sprintf("choosing among %d upstreams", n), unit: "request", ours: true, upstreams: n,
			goal: "flat within 5 %", order: loop.Order{Work: loop.Small, Conns: 64, Rate: 10000},
		})
	}
	return all
}

// measureAll measures one work on every subject.
func (w *work) measureAll(ctx context.Context, load *loadProcess, dir string, subjects []subject, r *report) error {
	for _, s := range subjects {
		// Without a proxy nobody has memory to measure, or ends a connection.
		if w.ours && !s.ours || s.moves && !w.moves || s.command == nil && (w.resident || w.tool != nil || w.order.Work == loop.Close) {
			continue
		}
		one, err := w.measure(ctx, load, dir, s)
		switch {
		case err == nil:
		case s.ours || s.command == nil || ctx.Err() != nil:
			return fmt.Errorf("%s: %s: %w", w.name, s.name, err)
		default:
			// What another proxy cannot do belongs into the report.
			fmt.Fprintf(os.Stderr, "%s: %s: %v\n", w.name, s.name, err)
			one = sample{Failed: err.Error()}
		}
		r.add(w.name, s.name, one)
	}
	return nil
}

// measure starts a subject, puts the work on it, and stops it.
func (w *work) measure(ctx context.Context, load *loadProcess, dir string, s subject) (sample, error) {
	upstreams := load.upstreams(w.unix, w.upstreams)
	if s.command == nil { // nobody between client and engine
		w.order.Target = upstreams[0]
		return w.take(load, nil)
	}
	address, err := freeAddress(ctx)
	if err != nil {
		return sample{}, err
	}
	o := setup{dir: dir, address: address, upstreams: upstreams}
	if w.secure {
		made, err := makePair(dir)
		if err != nil {
			return sample{}, err
		}
		o.tls = &made
	}
	command, err := s.command(o)
	if err != nil {
		return sample{}, err
	}
	p, err := startPinned(ctx, proxyCore, command...)
	if err != nil {
		return sample{}, err
	}
	defer p.stop()
	if err := waitServing(ctx, address, w.secure); err != nil {
		return sample{}, fmt.Errorf("%w: %s", err, p.output.String())
	}
	if w.tool != nil {
		one, err := w.measureBy(ctx, dir, address, p)
		if err != nil {
			err = fmt.Errorf("%w; it said: %s", err, p.output.String())
		}
		return one, err
	}
	w.order.Target = address
	one, err := w.take(load, p)
	if err != nil {
		return one, fmt.Errorf("%w; it said: %s", err, p.output.String())
	}
	return one, nil
}

func (w *work) take(load *loadProcess, p *pinned) (one sample, err error) {
	if w.resident && w.order.Conns == 0 {
		time.Sleep(w.order.Duration) // at rest is what is measured
		return sample{Resident: p.resident()}, nil
	}
	if err := load.begin(w.order); err != nil {
		return one, err
	}
	var before time.Duration
	if p != nil {
		before = p.cpu()
	}
	result, err := load.result()
	if err != nil {
		return one, err
	}
	if result.Units == 0 && !w.resident {
		return one, fmt.Errorf("nothing was answered")
	}
	// Each of many upstreams may be given one more before its connections suffice.
	if limit := w.order.Conns + 2*w.upstreams; w.order.Work != loop.Close && result.Accepted > limit {
		return one, fmt.Errorf("the engines were given %d new connections for %d clients: upstream connections are not reused", result.Accepted, limit)
	}
	units := float64(result.Units) / w.perUnit
	one = sample{Rate: units / result.Elapsed.Seconds(), P50: result.P50, P99: result.P99}
	if p != nil {
		one.CPU = time.Duration(float64(p.cpu()-before) / max(units, 1))
		one.Resident = p.resident()
	}
	return one, nil
}
