package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"stoker/balancer"
	"stoker/balancer/compression"
	"stoker/balancer/guard"
	"stoker/config"
	"stoker/internal/acme"
	"stoker/internal/certs"
	"stoker/internal/door"
	"stoker/internal/systemd"
	"stoker/supervisor"
	"stoker/upstream"
)

// A reload has three parts. What can fail is done first, and undone if any of
// it does: a reload that fails has changed nothing. What takes no time is done
// then, at once. What takes time, rolling engines, is last, and a newer reload
// may take it over.

// errNoFile: there is nothing to read anew.
var errNoFile = fmt.Errorf("%w: this master was started by a command line alone; only one with -c FILE can reload", errOrder)

// poolSet is the upstream pools of the present configuration, in its order.
type poolSet struct {
	now atomic.Pointer[[]*upstream.Pool]
}

func (s *poolSet) all() []*upstream.Pool {
	if now := s.now.Load(); now != nil {
		return *now
	}
	return nil
}

func (s *poolSet) set(pools []*upstream.Pool) { s.now.Store(&pools) }

func (s *poolSet) byName() map[string]*upstream.Pool {
	named := make(map[string]*upstream.Pool)
	for _, pool := range s.all() {
		named[pool.Name()] = pool
	}
	return named
}

func (m *master) reloadOrder(ctx context.Context, o order) (*outcome, error) {
	if o.DryRun {
		plan, next, err := m.plan()
		if err != nil {
			return nil, err
		}
		if _, err := readKeys(next); err != nil {
			return nil, err
		}
		return planOutcome("would change", plan, nil), nil
	}
	return m.reload(ctx)
}

// reloadBySignal is HUP: what a command would have been answered is logged.
func (m *master) reloadBySignal(ctx context.Context) {
	done, err := m.apartFromUpgrades(func(ctx context.Context, _ order) (*outcome, error) { return m.reload(ctx) })(ctx, order{})
	switch {
	case err != nil:
		m.log.Error("not reloaded: everything goes on as before", "error", err)
	case done.Error != "":
		m.log.Error("reloaded, but not all of it came about", "result", done.Message, "error", done.Error)
	default:
		m.log.Info("reloaded", "result", done.Message)
	}
}

// plan reads the configuration anew and says what it changes.
func (m *master) plan() (*config.Plan, *config.Config, error) {
	if m.load == nil {
		return nil, nil, errNoFile
	}
	next, err := m.load()
	if err != nil {
		return nil, nil, err
	}
	now := m.current.Load()
	plan := config.Diff(now, next)
	plan.Correct(m.sup.Restarts(next))
	// These stay as they are until the master does not.
	next.RunDir, next.StateDir, next.Admin = now.RunDir, now.StateDir, now.Admin
	return &plan, next, nil
}

// reload goes by the configuration as it is on disk now.
func (m *master) reload(ctx context.Context) (*outcome, error) {
	m.notifier.rolling.Add(1)
	defer m.notifier.rolling.Add(-1)
	m.notifier.reloading()
	plan, err := m.reconfigure(ctx)
	m.notifier.reloaded()
	if err != nil {
		return nil, err
	}
	return planOutcome("reloaded", plan, m.sup.Roll(ctx, "")), nil
}

// reconfigure does everything but the rolling.
func (m *master) reconfigure(ctx context.Context) (*config.Plan, error) {
	m.changing.Lock()
	defer m.changing.Unlock()
	if m.now() != serving {
		return nil, fmt.Errorf("the master is %s", m.now())
	}
	plan, next, err := m.plan()
	if err != nil {
		return nil, err
	}
	change, err := m.stage(ctx, next)
	if err != nil {
		return nil, err
	}
	m.log.Info("new configuration", "workers_kept", len(plan.Kept), "workers_restarted", len(plan.Restarted),
		"workers_added", len(plan.Added), "workers_removed", len(plan.Removed), "keys_changed", len(plan.Changes))
	for _, c := range plan.NeedMaster {
		m.log.Warn("this change needs a restart of the master, and waits for it", "change", c.String())
	}
	m.adopt(ctx, change)
	m.scaled.forget()
	return plan, nil
}

// staged is a change that cannot fail any more.
type staged struct {
	cfg    *config.Config
	pools  []*upstream.Pool
	logs   func()
	certs  *certs.Staged
	acme   *acme.Manager
	keys   *guard.Keyring
	opened map[string]*door.Listener
}

// stage does what can fail.
func (m *master) stage(ctx context.Context, next *config.Config) (*staged, error) {
	if err := m.sup.Check(next); err != nil {
		return nil, err
	}
	keys, err := readKeys(next)
	if err != nil {
		return nil, err
	}
	change := &staged{cfg: next, keys: keys, opened: map[string]*door.Listener{}}
	now := m.pools.byName()
	for i := range next.Pools {
		pool := now[next.Pools[i].Name]
		if pool == nil {
			pool = m.newPool(&next.Pools[i])
		}
		change.pools = append(change.pools, pool)
	}
	if change.certs, err = certs.Stage(certSettings(next)); err != nil {
		return nil, err
	}
	roots, err := authorityRoots(next)
	if err != nil {
		return nil, err
	}
	if err := m.openListeners(ctx, change); err != nil {
		return nil, err
	}
	logs, err := m.logs.prepare(next)
	if err != nil {
		return nil, errors.Join(err, m.closeListeners(ctx, change.opened))
	}
	change.logs = logs
	change.acme = m.obtainedBy(ctx, next, roots, m.listeners, change.opened)
	return change, nil
}

// adopt does what takes no time, in the order in which no request can miss
// anything: what is new is there before routes lead to it, and what is removed
// goes after none does.
func (m *master) adopt(ctx context.Context, change *staged) {
	next := change.cfg
	change.logs()
	now := m.pools.byName()
	for i, pool := range change.pools {
		if now[pool.Name()] != nil {
			pool.SetOptions(poolOptions(&next.Pools[i]))
			delete(now, pool.Name())
		}
	}
	m.certs.Adopt(change.certs) // before connections ask for them
	m.adoptObtained(change.acme)
	m.current.Store(next)
	if m.court != nil {
		m.court.SetTTL(next.Quarantine.TTL.Std())
	}
	m.pools.set(change.pools)
	carry := balancerOptions(next, change.pools, m.log)
	carry.Guard, carry.Tracer = m.guardBy(next, change.keys), m.traceBy(next)
	if err := m.balancer.Update(carry); err != nil {
		m.log.Error("routes stay as they were", "error", err) // which validation has ruled out
	}
	m.tokens.Configure(modelsOf(next))
	m.front.SetLimits(frontLimits(next))
	m.secured(next)
	m.sup.Adopt(next, m.pools.byName())
	for _, removed := range now {
		removed.Close()
	}
	for address, l := range change.opened {
		m.serveMore(address, l)
	}
	removed := map[string]*door.Listener{}
	for address, l := range m.listeners {
		if !slices.Contains(next.Doors(), address) {
			removed[address] = l
			delete(m.listeners, address)
		}
	}
	maps.Copy(m.listeners, change.opened)
	if err := m.closeListeners(ctx, removed); err != nil {
		m.log.Warn("close listeners that are not configured any more", "error", err)
	}
}

// openListeners listens on what is new, or on none of it.
func (m *master) openListeners(ctx context.Context, change *staged) error {
	for _, address := range change.cfg.Doors() {
		if m.listeners[address] != nil {
			continue
		}
		listener, _, err := listen(ctx, address, nil, m.inherit)
		if err != nil {
			return errors.Join(err, m.closeListeners(ctx, change.opened))
		}
		change.opened[address] = m.door.Add(listener)
		m.configured.Store(change.opened[address], address)
	}
	if err := storeListeners(m.door, change.opened, m.notifier); err != nil {
		m.log.Warn("clients are refused while no master runs", "error", err)
	}
	return nil
}

// closeListeners ends listeners as the door's end does, one by one.
func (m *master) closeListeners(ctx context.Context, listeners map[string]*door.Listener) error {
	var errs []error
	for address := range listeners {
		errs = append(errs, m.notifier.manager.Remove(systemd.StoredName(address)))
	}
	if len(listeners) > 0 && m.notifier.manager.Enabled() {
		limited, cancel := context.WithTimeout(ctx, barrierLimit)
		defer cancel()
		errs = append(errs, m.notifier.manager.Barrier(limited))
	}
	for _, l := range listeners {
		m.configured.Delete(l)
		errs = append(errs, m.door.Remove(ctx, l))
	}
	return errors.Join(errs...)
}

// storeListeners stores further listeners with the service manager.
func storeListeners(d *door.Door, opened map[string]*door.Listener, n *notifier) error {
	addresses := make(map[*door.Listener]string, len(opened))
	for address, l := range opened {
		addresses[l] = address
	}
	return storeDoor(d, addresses, n.manager)
}

// serveMore lets the front serve a listener that was opened while it serves others.
func (m *master) serveMore(address string, l *door.Listener) {
	m.jobs.Go(func() {
		// Its failure ends it alone: the others serve on.
		if err := m.front.ServeAs(l, m.mannerOf(address)); err != nil && m.now() == serving {
			m.log.Error("listener broke", "listen", l.Addr().String(), "error", err)
		}
	})
}

// planOutcome puts a plan, and what came of it, into one line.
func planOutcome(verb string, plan *config.Plan, report *supervisor.Report) *outcome {
	o := &outcome{Plan: plan, Report: report}
	if plan.Empty() {
		o.Message = "nothing has changed"
	} else {
		o.Message = fmt.Sprintf("%s: %d workers kept, %d restarted, %d added, %d removed; %d other keys",
			verb, len(plan.Kept), len(plan.Restarted), len(plan.Added), len(plan.Removed), len(plan.Changes))
	}
	if len(plan.NeedMaster) > 0 {
		keys := make([]string, len(plan.NeedMaster))
		for i, c := range plan.NeedMaster {
			keys[i] = c.Key
		}
		o.Message += "; " + strings.Join(keys, " and ") + " as before, until the master is restarted"
	}
	if report == nil {
		return o
	}
	if failed := report.Failed(); len(failed) > 0 {
		o.Error = failed[0].Name + ": " + failed[0].Error
	}
	return o
}

// balancerOptions are what a configuration says to the balancer.
func balancerOptions(cfg *config.Config, pools []*upstream.Pool, log hclog.Logger) balancer.Options {
	o := balancer.Options{Routes: cfg.Routes, TrustedProxies: cfg.TrustedProxies, MaxBody: int64(cfg.Clients.BodyMiB) << 20, MaxAhead: int64(cfg.Clients.ReadAheadMiB) << 20, AheadMemory: int64(cfg.Clients.ReadAheadMemoryMiB) << 20, Log: log.Named("balancer"), Rules: map[string]balancer.Rules{}}
	o.Compression = compression.New(compression.Options{
		Encodings: cfg.Compression.Encodings, Types: cfg.Compression.Types, MinSize: int64(cfg.Compression.MinSize), Level: cfg.Compression.Level,
	})
	o.Agents = cfg.AccessLogForm() == "combined"
	o.Pages = balancer.Pages{HTML: cfg.ErrorPages.HTML, JSONPaths: cfg.ErrorPages.JSONPaths}
	for i := range cfg.Pools {
		o.Rules[cfg.Pools[i].Name] = poolRules(&cfg.Pools[i])
	}
	for _, pool := range pools {
		o.Pools = append(o.Pools, balancer.Over(pool))
	}
	return o
}
