package supervisor

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/config"
	"stoker/upstream"
)

// Options are what a supervisor is made with.
type Options struct {
	// Config is validated and is not changed afterwards.
	Config *config.Config
	// Pools by name: one for each of the configuration's.
	Pools map[string]*upstream.Pool
	Log   hclog.Logger
	// KeeperArgv is the command that becomes a keeper.
	KeeperArgv []string
	// Epoch of this master; see NextEpoch.
	Epoch      uint64
	Registerer prometheus.Registerer
	// Stderr is where keepers write their engines' output.
	Stderr *os.File
}

// Supervisor keeps the workers of all pools alive and knows how remote servers are.
type Supervisor struct {
	pools   []*poolWorkers
	keepers keepers
	epoch   uint64
	log     hclog.Logger

	// leftovers are the directories of keepers that belong to no worker.
	leftovers []string
	cleared   chan struct{} // closed when they are ended
	hurry     chan struct{} // closed when a stop shall not wait any longer
	hurryOnce sync.Once

	started atomic.Bool
	end     context.CancelFunc // ends the probing of servers
	ctx     context.Context    // the servers' life, which Start begins and Stop ends
	running sync.WaitGroup
}

// poolWorkers are the upstreams of one pool.
type poolWorkers struct {
	name    string
	workers []*worker
	servers []*server
}

// New prepares all workers and starts nothing. Its errors are the
// configuration's: a user that does not exist, too few GPUs.
func New(o Options) (*Supervisor, error) {
	gpus, err := assignDevices(o.Config.Pools, visibleDevices)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Supervisor{
		keepers: &spawner{argv: o.KeeperArgv, stderr: o.Stderr},
		epoch:   o.Epoch,
		log:     o.Log,
		cleared: make(chan struct{}),
		hurry:   make(chan struct{}),
	}
	ports := newPorts()
	ours := make(map[string]bool)
	for i := range o.Config.Pools {
		p := &o.Config.Pools[i]
		pool := o.Pools[p.Name]
		if pool == nil {
			return nil, fmt.Errorf("pool %s: no upstream pool of that name was given", p.Name)
		}
		b := builder{s: s, config: o.Config, pool: p, upstream: pool, ports: ports, metrics: m, turns: &turns{limit: p.MaxStarting}}
		made, err := b.build(gpus[p.Name])
		if err != nil {
			return nil, err
		}
		for _, w := range made.workers {
			ours[w.name] = true
		}
		s.pools = append(s.pools, made)
	}
	// The parent of any keeper's directory is the parent of all.
	root := filepath.Dir(o.Config.KeeperDir("any"))
	s.leftovers, err = leftoverDirs(root, ours)
	if err != nil {
		return nil, err
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s, nil
}

// builder makes the upstreams of one pool.
type builder struct {
	s        *Supervisor
	config   *config.Config
	pool     *config.Pool
	upstream *upstream.Pool
	ports    *ports
	metrics  *metrics
	turns    *turns
}

func (b builder) build(gpus [][]string) (*poolWorkers, error) {
	made := &poolWorkers{name: b.pool.Name}
	for _, c := range b.pool.Servers {
		made.servers = append(made.servers, newServer(b.pool, c, b.upstream.Add(c.Name, c.Weight), b.s.log))
	}
	if b.pool.Remote() {
		return made, nil
	}
	account, err := lookUpAccount(b.pool.User)
	if err != nil {
		return nil, fmt.Errorf("pool %s: %w", b.pool.Name, err)
	}
	for index := range b.pool.Workers {
		slot := newSlot(b.config, b.pool, index)
		slot.account, slot.ports, slot.stopSignal = account, b.ports, stopSignal(b.pool.Stop.Signal)
		if gpus != nil {
			slot.gpus = gpus[index]
		}
		made.workers = append(made.workers, b.worker(slot))
	}
	return made, nil
}

func (b builder) worker(slot *slot) *worker {
	w := newWorker(slot.name, b.pool, slot.stopSignal)
	w.epoch, w.log, w.metrics = b.s.epoch, b.s.log, b.metrics.worker(b.pool.Name, slot.name)
	w.keepers, w.place, w.member = b.s.keepers, slot, b.upstream.Add(slot.name, 1)
	w.newProbe = func(address string) probe { return newHTTPProbe(b.pool.Health, address) }
	w.turns, w.cleared, w.luck = b.turns, b.s.cleared, rand.Float64
	return w
}

// stopSignal translates the configuration's word.
func stopSignal(name string) syscall.Signal {
	switch name {
	case "INT":
		return syscall.SIGINT
	case "QUIT":
		return syscall.SIGQUIT
	default:
		return syscall.SIGTERM
	}
}

// Start adopts what an earlier master left and begins to start the rest; it
// does not wait until engines are ready. It is called once.
func (s *Supervisor) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	s.started.Store(true)
	s.running.Go(s.clearLeftovers)
	for _, p := range s.pools {
		for _, w := range p.workers {
			s.running.Go(w.run)
		}
		for _, server := range p.servers {
			s.running.Go(func() { server.run(s.ctx) })
		}
	}
	return nil
}

// clearLeftovers ends the engines of workers that are no longer configured,
// all at once. Until then no new engine starts: they may hold its devices.
func (s *Supervisor) clearLeftovers() {
	defer close(s.cleared)
	var all sync.WaitGroup
	for _, dir := range s.leftovers {
		all.Go(func() {
			if err := endLeftover(s.keepers, dir, s.epoch, s.hurry); err != nil {
				s.log.Warn("a worker that is not configured any more was left alone: end it by hand, or its keeper does after orphan_timeout",
					"error", err)
				return
			}
			s.log.Info("ended what an earlier master left of a worker that is not configured any more", "keeper_dir", dir)
		})
	}
	all.Wait()
}

// StopReport says how a stop went.
type StopReport struct {
	// Forced are the workers that did not end within their grace and were
	// killed, or of which something was left that had to be.
	Forced []string
	// Stuck are the workers whose processes could not be ended.
	Stuck    []string
	Duration time.Duration
}

// Stop ends all engines at once, without letting requests finish: the master
// has drained them before. It returns when nothing is left of any, so it takes
// as long as the slowest. When ctx ends all grace is over: what still lives is
// killed, and joined all the same.
func (s *Supervisor) Stop(ctx context.Context) StopReport {
	began := time.Now()
	s.end()
	s.askAll(request{wish: wishStop})
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		s.running.Wait()
	}()
	select {
	case <-joined:
	case <-ctx.Done():
		s.hurryOnce.Do(func() { close(s.hurry) })
		s.askAll(request{wish: wishStop, hurry: true})
		<-joined
	}
	report := StopReport{Duration: time.Since(began)}
	for _, p := range s.pools {
		for _, w := range p.workers {
			facts := w.published.Load()
			switch {
			case facts.stuck:
				report.Stuck = append(report.Stuck, w.name)
			case facts.state == Stopped && facts.stopForced:
				report.Forced = append(report.Forced, w.name)
			}
		}
	}
	return report
}

// Release lets go of all engines without ending them: another master, or the
// same after a restart, adopts them. Requests may finish first, each worker's
// within its drain_timeout; ctx bounds the wait, not the work.
func (s *Supervisor) Release(ctx context.Context) error {
	s.end()
	s.askAll(request{wish: wishRelease})
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		s.running.Wait()
	}()
	select {
	case <-joined:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// askAll hands a request to every worker and returns when all have heard it.
func (s *Supervisor) askAll(r request) {
	if !s.started.Load() {
		return // nobody there to hear it
	}
	var all sync.WaitGroup
	for _, p := range s.pools {
		for _, w := range p.workers {
			all.Go(func() { w.ask(context.Background(), r) })
		}
	}
	all.Wait()
}
