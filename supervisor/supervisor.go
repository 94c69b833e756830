package supervisor

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/config"
	"stoker/internal/resolve"
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
	// OnDeath is told of every end of an engine that nobody wished, once, by the
	// worker's own goroutine, before the next engine is started: it must not
	// block. What it returns, keys and values, stands in the line that is logged of
	// the death. Nil: nobody wants to know. After HandOver it is told of every end
	// of an engine that is still watched, wished or not, as Death.Watched.
	OnDeath func(Death) []any
	// HoldOutput is how long the output of an engine may be held back that may say why it
	// cannot start, as others have: see voices. 0, where OnDeath does not keep it: not at all.
	HoldOutput time.Duration
}

// Supervisor keeps the workers of all pools alive and knows how remote servers are.
type Supervisor struct {
	keepers keepers
	epoch   uint64
	log     hclog.Logger
	metrics *metrics
	ports   *ports
	onDeath func(Death) []any

	holdOutput time.Duration

	// mu guards what runs, which operators and reloads change: the pools, their
	// posts and what says so below. It is never held while anything is waited for.
	mu     sync.Mutex
	config *config.Config
	pools  []*poolWorkers
	// devices are the GPUs that pools without a list of their own share; nil:
	// not asked for yet. freed is closed, and replaced, when some were given back.
	devices *devices
	freed   chan struct{}
	// ending: nothing is started any more.
	ending bool

	// leftovers are the directories of keepers that belong to no worker.
	leftovers []string
	cleared   chan struct{} // closed when they are ended
	hurry     chan struct{} // closed when a stop shall not wait any longer
	hurryOnce sync.Once

	started atomic.Bool
	end     context.CancelFunc // ends the probing of servers, and operations
	ctx     context.Context    // the servers' life, which Start begins and Stop ends
	running sync.WaitGroup
	// lookUp makes what names are looked up with.
	lookUp func(config.Resolver) resolver
	// held are the wishes of operators on disk.
	held *held
	// applying is held by whoever changes the configuration.
	applying sync.Mutex
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
		keepers: &spawner{argv: o.KeeperArgv, stderr: o.Stderr, log: o.Log},
		epoch:   o.Epoch,
		log:     o.Log,
		metrics: m,
		ports:   newPorts(),
		onDeath: o.OnDeath, holdOutput: o.HoldOutput,
		config:  o.Config,
		held:    &held{path: heldFile(o.Config.RunDir)},
		freed:   make(chan struct{}),
		cleared: make(chan struct{}),
		hurry:   make(chan struct{}),
		lookUp:  func(c config.Resolver) resolver { return &resolve.Resolver{Server: c.Address} },
	}
	s.ctx, s.end = context.WithCancel(context.Background())
	ours := make(map[string]bool)
	for i := range o.Config.Pools {
		p := &o.Config.Pools[i]
		up := o.Pools[p.Name]
		if up == nil {
			return nil, fmt.Errorf("pool %s: no upstream pool of that name was given", p.Name)
		}
		made := s.newPool(p, up)
		s.pools = append(s.pools, made)
		if p.Remote() {
			continue
		}
		for index := range p.Workers {
			q := s.addPost(made, index)
			if gpus[p.Name] != nil {
				q.gpus = gpus[p.Name][index]
			}
			if _, err := s.newWorker(q, nil); err != nil {
				return nil, fmt.Errorf("pool %s: %w", p.Name, err)
			}
			ours[q.name] = true
		}
	}
	s.keepHeld()
	// The parent of any keeper's directory is the parent of all.
	root := filepath.Dir(o.Config.KeeperDir("any"))
	s.leftovers, err = leftoverDirs(root, ours)
	return s, err
}

// stopSignal translates the configuration's word.
func stopSignal(name string) syscall.Signal {
	switch name {
	case "INT":
		return syscall.SIGINT
	case "QUIT":
		return syscall.SIGQUIT
	case "ABRT":
		return syscall.SIGABRT
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started.Store(true)
	s.running.Go(s.clearLeftovers)
	s.each(func(q *post) { s.running.Go(q.worker.run) })
	for _, p := range s.pools {
		for _, r := range p.remote {
			r.start(s.ctx)
		}
		for _, n := range p.names {
			n.start()
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
			ended, err := endLeftover(s.keepers, dir, s.epoch, s.hurry)
			if err != nil {
				s.log.Warn("a worker that is not configured any more was left alone: end it by hand, or its keeper does after orphan_timeout",
					"error", err)
				return
			}
			if ended.Ran {
				s.log.Info("ended what an earlier master left of a worker that is not configured any more", "keeper_dir", dir)
			}
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
// has drained them before. It returns when nothing is left of any, their empty
// directories in the run directory included, so it takes
// as long as the slowest. When ctx ends all grace is over: what still lives is
// killed, and joined all the same.
func (s *Supervisor) Stop(ctx context.Context) StopReport {
	began := time.Now()
	s.noMore()
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
	if err := s.held.save(func() []string { return nil }); err != nil {
		s.log.Warn("what operators had stopped could not be forgotten", "error", err)
	}
	report := StopReport{Duration: time.Since(began)}
	for _, w := range s.workers() {
		facts := w.published.Load()
		switch {
		case facts.stuck:
			report.Stuck = append(report.Stuck, w.name)
		case facts.state == Stopped && facts.stopForced:
			report.Forced = append(report.Forced, w.name)
		}
	}
	s.tidyAll()
	return report
}

// noMore lets nothing be started from now on.
func (s *Supervisor) noMore() {
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.end()
}

// Release lets go of all engines without ending them: another master, or the
// same after a restart, adopts them. Requests may finish first, each worker's
// within its drain_timeout; ctx bounds the wait, not the work.
func (s *Supervisor) Release(ctx context.Context) error {
	s.noMore()
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
	for _, w := range s.workers() {
		all.Go(func() { w.ask(context.Background(), r) })
	}
	all.Wait()
}
