package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"stoker/balancer"
	"stoker/balancer/front"
	"stoker/balancer/guard"
	"stoker/balancer/quarantine"
	"stoker/balancer/recorder"
	"stoker/balancer/tokens"
	"stoker/balancer/tracing"
	"stoker/config"
	"stoker/internal/certs"
	"stoker/internal/door"
	"stoker/supervisor"
	"stoker/upstream"
)

// phase is how far the master's life has come; it only moves forward.
type phase int32

const (
	// serving: the door is open.
	serving phase = iota
	// draining: readiness is 503; requests that are here finish.
	draining
	// stopping: engines are being ended.
	stopping
)

func (p phase) String() string { return [...]string{"serving", "draining", "stopping"}[p] }

// master is one running stoker: the pieces, and the order in which they begin
// and end.
type master struct {
	cfg     *config.Config
	log     hclog.Logger
	metrics *masterMetrics

	logs     *logs
	pools    poolSet
	sup      *supervisor.Supervisor
	claim    *supervisor.EpochClaim // nil: see nextEpoch
	balancer *balancer.Balancer
	tokens   *tokens.Metrics
	recorder *recorder.Recorder // nil: off
	court    *quarantine.Court  // nil: off
	// guard is who may ask; whoever holds changing may touch it. keys are its keys, nil: none are needed.
	guard *guard.Guard
	keys  atomic.Pointer[guard.Keyring]
	// tracing is by what the configuration says; whoever holds changing may touch it.
	tracing tracingNow
	// postmortem writes crash reports; mourners, it among them, are told of each death.
	postmortem *postmortem
	mourners   []func(d supervisor.Death, id string)
	front      *front.Front
	door       *door.Door
	certs      *certs.Store
	obtained   obtained
	tlsMetrics *tlsMetrics
	admin      *admin
	// notifier speaks to the service manager, if one has started us.
	notifier *notifier

	// inherit is what came from the generation before, elder that generation.
	inherit  *inheritance
	elder    *elder
	upgrades *upgrades
	carried  *carried
	held     *lock

	// scaled is what operators have changed of its numbers of workers.
	scaled *scaled
	// current is the configuration that runs; cfg is the one that it began with.
	current atomic.Pointer[config.Config]
	// load reads the configuration anew; nil: no file says it.
	load func() (*config.Config, error)
	// gate keeps orders and upgrades apart.
	gate *gate
	// changing is held while an operator changes what runs.
	changing sync.Mutex
	// listeners of the door, by their address in the configuration. Whoever
	// holds changing may touch them.
	listeners map[string]*door.Listener
	// configured are the addresses of listeners in the configuration, by *door.Listener.
	configured sync.Map
	// jobs are what signals have begun.
	jobs sync.WaitGroup
	// endAsked is closed when a command asks for the end.
	endAsked chan struct{}
	endOnce  sync.Once

	phase atomic.Int32
	// began: every pool has been ready once. succeeded: another generation
	// serves, and this one's end is not the service's. See readiness.
	began, succeeded atomic.Bool
}

// runOptions are what a command may ask of a master besides its configuration.
type runOptions struct {
	// reload reads the configuration anew; nil: no file configures it, so it
	// ends with its terminal.
	reload func() (*config.Config, error)
	// opened, where not nil, is told when the door is open.
	opened func(*master)
	// ended, where not nil, is called at the end of the last generation.
	ended func()
}

// runMaster runs cfg until a signal ends it, and returns nil after a graceful
// end. It may find itself to be an upgrade of a master that runs.
func runMaster(ctx context.Context, cfg *config.Config, o runOptions) error {
	signals := watchSignals(o.reload == nil)
	defer signals.stop()
	inherit, err := inherit(cfg.UpgradeTimeout.Std())
	if err != nil {
		return err
	}
	err = runGeneration(ctx, cfg, o, inherit, signals)
	if inherit.successor() {
		if err != nil {
			inherit.giveUp(err)
		}
		inherit.parent.close()
	}
	if errors.Is(err, errStoodIn) {
		return nil
	}
	return err
}

// runGeneration is the life of this process as a master.
func runGeneration(ctx context.Context, cfg *config.Config, o runOptions, inherit *inheritance, signals *signals) error {
	held, err := inherit.takeRunDir(cfg)
	if err != nil && !errors.Is(err, errHeld) {
		return err
	}
	logs, logless := newLogs(cfg)
	if logless != nil {
		return errors.Join(err, logless)
	}
	defer logs.close()
	log := logs.log.Named("systemd")
	if err != nil {
		if held, err = newStandIn(cfg, inherit, signals, log).takeRunDir(ctx, err); err != nil {
			return err
		}
	}
	defer held.release()
	notifier := newNotifier(log)
	defer notifier.close()
	handed := takeHandedIn(notifier.manager, notifier.log)
	scaled := readScaled(cfg.RunDir, logs.log)
	m, err := newMaster(ctx, scaled.apply(cfg), logs, handed, inherit)
	if err != nil {
		if !inherit.successor() {
			held.leave()
		}
		return err
	}
	m.held, m.notifier, m.load, m.scaled = held, notifier, o.reload, scaled
	return m.run(ctx, signals, o)
}

// newMaster makes all pieces and opens the door and the admin listener: what
// can fail for a reason that an operator must mend fails here, before any
// engine is started.
func newMaster(ctx context.Context, cfg *config.Config, logs *logs, handed *handedIn, inherit *inheritance) (*master, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m := &master{
		cfg: cfg, log: logs.log, logs: logs, metrics: newMasterMetrics(registry), endAsked: make(chan struct{}),
		gate: newGate(), inherit: inherit, carried: &carried{own: registry},
	}
	m.elder, m.upgrades = newElder(m, inherit), newUpgrades(m)
	m.current.Store(cfg)
	m.began.Store(inherit.successor())

	inOrder := make([]*upstream.Pool, 0, len(cfg.Pools))
	for i := range cfg.Pools {
		inOrder = append(inOrder, m.newPool(&cfg.Pools[i]))
	}
	m.pools.set(inOrder)
	registry.MustRegister(upstream.NewCollector(m.pools.all))

	var err error
	if m.recorder, err = newRecorder(&cfg.Recorder); err != nil {
		return nil, err
	}
	m.postmortem = newPostmortem(m, registry)
	m.mourners = append(m.mourners, m.postmortem.hear)
	carry := balancerOptions(cfg, inOrder, m.log)
	m.tokens = tokens.NewMetrics(registry)
	m.tokens.Configure(modelsOf(cfg))
	carry.Tokens, carry.PromptSeed = m.tokens, inherit.hello.PromptSeed
	carry.Recorder, carry.Court = m.recorder, newCourt(cfg, m.log, registry)
	m.court = carry.Court
	carry.EvidenceLimit, carry.EvidenceMemory = int64(cfg.Quarantine.BodyKiB)<<10, int64(cfg.Quarantine.MemoryMiB)<<20
	m.mourners = append(m.mourners, func(d supervisor.Death, id string) { m.balancer.Named(d.Pool, d.Worker, id) })
	keys, err := readKeys(cfg)
	if err != nil {
		return nil, err
	}
	carry.Guard = m.guardBy(cfg, keys)
	m.tracing.metrics = tracing.NewMetrics(registry)
	carry.Tracer = m.traceBy(cfg)
	if m.balancer, err = balancer.New(carry); err != nil {
		return nil, err
	}
	observers := []front.Observer{balancer.NewMetrics(registry), &logs.access}
	m.tlsMetrics = newTLSMetrics(registry, m.obtained.held)
	if m.certs, err = newCerts(m, m.tlsMetrics); err != nil {
		return nil, err
	}
	roots, err := authorityRoots(cfg)
	if err != nil {
		return nil, err
	}
	if m.front, err = front.New(front.Options{
		Handler: newHall(m), Observers: observers, Limits: frontLimits(cfg), Shaken: m.tlsMetrics.shaken, Log: m.log.Named("front"),
	}); err != nil {
		return nil, err
	}
	m.secured(cfg)
	if m.sup, err = supervisor.New(supervisor.Options{
		Config: cfg, Pools: m.pools.byName(), Log: m.log.Named("supervisor"), Registerer: registry,
		KeeperArgv: []string{selfPath(), keeperCommand}, Stderr: os.Stderr, OnDeath: m.died, HoldOutput: holdOutput(cfg),
	}); err != nil {
		return nil, err
	}
	if m.admin, err = openAdmin(ctx, m); err != nil {
		return nil, err
	}
	if m.door, err = openDoor(ctx, cfg.Doors(), handed, inherit, m.log.Named("door")); err != nil {
		m.admin.giveUp(m.inherit.successor())
		return nil, err
	}
	m.listeners = map[string]*door.Listener{}
	for i, l := range m.door.Listeners() { // one for each address, in order
		m.listeners[cfg.Doors()[i]] = l
		m.configured.Store(l, cfg.Doors()[i])
	}
	m.adoptObtained(m.obtainedBy(ctx, cfg, roots, m.listeners))
	return m, nil
}

// newPool makes a pool whose engines' deaths the balancer hears of.
func (m *master) newPool(p *config.Pool) *upstream.Pool {
	pool := upstream.NewPool(p.Name, poolOptions(p))
	if !p.Remote() {
		pool.OnDeath(func(worker string, since time.Time) { m.balancer.Died(p.Name, worker, since) })
	}
	return pool
}

// run begins, serves until something ends it, and ends: for good, or in favour
// of a next generation.
func (m *master) run(ctx context.Context, signals *signals, o runOptions) error {
	var serving errgroup.Group
	broken := make(chan error, 1)
	defer beLean()()
	m.elder.follow()
	defer m.elder.close()
	defer m.watchCerts(ctx)()
	defer m.obtained.end()
	m.postmortem.begin()
	defer m.postmortem.end()
	if m.court != nil {
		m.court.Begin(m.cfg.QuarantineFile())
		defer m.court.End()
	}
	defer m.watchKeys()()
	defer m.endTracing()
	if err := m.begin(ctx, &serving, broken); err != nil {
		m.inherit.giveUp(err)
		return err
	}
	m.obtained.begin()
	if err := linkState(m.cfg); err != nil {
		m.log.Debug("no link to the state directory", "error", err)
	}
	m.log.Info("serving", "listen", m.cfg.Listen, "listen_tls", m.cfg.ListenTLS, "admin", m.cfg.AdminSocket(), "pid", os.Getpid(), "version", version, "generation", m.inherit.generation())
	m.notifier.started(m.vitals())
	if o.opened != nil && !m.inherit.successor() {
		o.opened(m)
	}

	reason, failure := m.waitForEnd(ctx, signals, broken)
	if reason != reasonUpgraded {
		m.leaving()
	}
	if next := m.upgrades.close(); next != nil {
		if reason != reasonUpgraded {
			// Who asked this master to end meant the service, and the engines are the
			// next one's by now.
			m.passOnEnd(next, reason)
		}
		err := m.retire(ctx, signals, next)
		m.jobs.Wait()
		return errors.Join(failure, err, serving.Wait())
	}
	err := m.shutdown(ctx, signals, reason)
	m.jobs.Wait() // the supervisor's end has ended them
	if o.ended != nil {
		o.ended()
	}
	return errors.Join(failure, err, serving.Wait())
}

// reasonUpgraded: a next generation has taken over.
const reasonUpgraded = "upgraded"

// begin opens for clients. Up to its commit an error leaves no trace, so that
// the master whose place this one was to take goes on undisturbed.
func (m *master) begin(ctx context.Context, serving *errgroup.Group, broken chan error) error {
	observed, err := m.commit(ctx)
	if err != nil {
		m.admin.giveUp(m.inherit.successor())
		m.front.Close()
		return errors.Join(err, m.door.Leave())
	}
	epoch, err := m.takeCharge(ctx, observed)
	if err != nil {
		m.sup.Leave()
		m.admin.giveUp(m.inherit.successor())
		m.front.Close()
		// The sockets of one that succeeds are the elder's, too. It closes them, should
		// it have let go of the engines; if it has not heard of our Ready, it goes on.
		if m.inherit.successor() {
			return errors.Join(err, m.door.Leave())
		}
		return errors.Join(err, m.door.Close(ctx))
	}
	for address, l := range m.listeners {
		serving.Go(func() error { return m.serve(address, l, broken) })
	}
	m.announce(epoch)
	m.elder.awaitCounters()
	serving.Go(m.admin.serve)
	return nil
}

// serve lets the front serve l, and tells broken if that ends before its time.
func (m *master) serve(address string, l net.Listener, broken chan<- error) error {
	err := m.front.ServeAs(l, m.mannerOf(address))
	if err == nil || m.now() != serving {
		return nil
	}
	err = fmt.Errorf("serve %s: %w", l.Addr(), err)
	select {
	case broken <- err:
	default:
	}
	return nil
}

// waitForEnd blocks until something ends the master's service, and says what.
func (m *master) waitForEnd(ctx context.Context, signals *signals, broken <-chan error) (reason string, failure error) {
	for {
		select {
		case sig := <-signals.end:
			return sig.String(), nil
		case sig := <-signals.work:
			m.work(ctx, sig)
		case a := <-m.upgrades.succeeded:
			m.upgrades.succeeded <- a // for close
			return reasonUpgraded, nil
		case <-m.endAsked:
			return "asked by stoker shutdown", nil
		case err := <-broken:
			return "front broke", err
		case <-ctx.Done():
			return "canceled", nil
		}
	}
}

// work begins what a signal asks for besides the end.
func (m *master) work(ctx context.Context, sig os.Signal) {
	switch sig {
	case syscall.SIGHUP:
		m.jobs.Go(func() { m.reloadBySignal(ctx) })
	case syscall.SIGUSR1:
		if err := m.logs.reopen(); err != nil {
			m.log.Error("a log file could not be opened again: it goes on where it was", "error", err)
		} else {
			m.log.Info("log files opened again")
		}
	case syscall.SIGTTIN:
		m.jobs.Go(func() { m.scaleFirst(ctx, 1) })
	case syscall.SIGTTOU:
		m.jobs.Go(func() { m.scaleFirst(ctx, -1) })
	case syscall.SIGUSR2:
		m.upgrades.ask()
	}
}

func (m *master) now() phase { return phase(m.phase.Load()) }

// enter moves the master's life on.
func (m *master) enter(p phase) { m.phase.Store(int32(p)) }

// selfPath is how this very program is executed again as a keeper. Once the
// file has been replaced on disk, its name means another program; the kernel's
// link still means this one.
func selfPath() string {
	const self = "/proc/self/exe"
	path, err := os.Executable()
	if err != nil {
		return self
	}
	byName, err := os.Stat(path)
	if err != nil {
		return self
	}
	running, err := os.Stat(self)
	if err != nil || !os.SameFile(byName, running) {
		return self
	}
	return path
}

// uptime rounds for logs.
func since(start time.Time) time.Duration { return time.Since(start).Round(time.Millisecond) }
