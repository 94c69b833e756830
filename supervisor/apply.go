package supervisor

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"time"

	"stoker/config"
	"stoker/upstream"
)

// # A new configuration
//
// It comes in three steps, so that whoever composes can take other pieces along:
//
//	Check  finds what would fail (users, devices), and changes nothing
//	Adopt  changes what takes no time: settings, servers, the pools there are;
//	       a rolling change that goes on is superseded, and ends after its
//	       present worker
//	Roll   takes the time it takes: workers removed, added and replaced
//
// Nobody else but Roll replaces an engine, so a worker keeps its old one until
// its turn, also when that dies before.

// Check says whether c can be adopted.
func (s *Supervisor) Check(c *config.Config) error {
	for i := range c.Pools {
		if p := &c.Pools[i]; !p.Remote() {
			if _, err := lookUpAccount(p.User); err != nil {
				return fmt.Errorf("pool %s: %w", p.Name, err)
			}
		}
	}
	_, err := assignDevices(c.Pools, visibleDevices)
	return err
}

// Restarts says of each worker that has or had an engine whether c would
// replace it. A rolling change that stopped has not come to all of them.
func (s *Supervisor) Restarts(c *config.Config) map[string]bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	restarts := make(map[string]bool)
	s.each(func(q *post) {
		if p := c.Pool(q.pool.name); p != nil && q.worker != nil && !q.leaving {
			restarts[q.name] = !q.made.SameEngine(p)
		}
	})
	return restarts
}

// outdated reports whether the post's worker is to be replaced. The lock is held.
func (q *post) outdated() bool {
	return q.worker != nil && !q.leaving && !q.held && !q.made.SameEngine(q.pool.config)
}

// Adopt goes by c from now on, which Check has found good. ups has an upstream
// pool for each of c's; that of a pool that was there before is the same.
func (s *Supervisor) Adopt(c *config.Config, ups map[string]*upstream.Pool) {
	s.applying.Lock()
	defer s.applying.Unlock()
	s.mu.Lock()
	resolverChanged := s.config.Resolver != c.Resolver
	s.config = c
	now := make([]*poolWorkers, 0, len(c.Pools))
	var before []*poolWorkers
	for _, p := range s.pools {
		wanted := c.Pool(p.name)
		if p.supersede != nil && !reflect.DeepEqual(p.config, wanted) {
			p.supersede(errSuperseded)
		}
		if p.removed || wanted == nil {
			p.removed = true
			for _, n := range p.names {
				n.stop()
			}
			before = append(before, p)
		}
	}
	settings := make(map[*worker]*config.Pool)
	var changes []func()
	for i := range c.Pools {
		p := &c.Pools[i]
		kept := s.present(p.Name)
		if kept == nil {
			kept = s.openPool(p, ups[p.Name], before)
		} else {
			kept.adopt(p, settings)
			kept.keepNames()
			changes = append(changes, kept.changedServers()...)
			for _, n := range kept.names {
				if n.cancel == nil || resolverChanged {
					n.start()
				}
			}
		}
		now = append(now, kept)
	}
	s.pools = append(now, before...)
	s.mu.Unlock()

	var all sync.WaitGroup
	for w, p := range settings {
		all.Go(func() { w.ask(context.Background(), request{settings: p}) })
	}
	all.Go(func() { together(changes) })
	all.Wait()
}

// together makes changes side by side.
func together(changes []func()) {
	var all sync.WaitGroup
	for _, change := range changes {
		all.Go(change)
	}
	all.Wait()
}

// present is the pool of that name that is not being removed. The lock is held.
func (s *Supervisor) present(name string) *poolWorkers {
	for _, p := range s.pools {
		if p.name == name && !p.removed {
			return p
		}
	}
	return nil
}

// openPool makes a pool, which begins when one of the same name that is just
// being removed has gone: their workers would meet in the same directories.
// The lock is held.
func (s *Supervisor) openPool(p *config.Pool, up *upstream.Pool, before []*poolWorkers) *poolWorkers {
	made := s.newPool(p, up)
	for _, other := range before {
		if other.name == p.Name {
			made.after = other.gone
		}
	}
	for _, r := range made.remote {
		r.start(s.ctx)
	}
	for _, n := range made.names {
		n.start()
	}
	return made
}

// adopt changes a pool's settings, and collects what its workers are to hear.
// The supervisor's lock is held.
func (p *poolWorkers) adopt(c *config.Pool, settings map[*worker]*config.Pool) {
	p.config = c
	p.turns.setLimit(c.MaxStarting)
	for _, q := range p.posts {
		if q.worker == nil || q.leaving {
			continue
		}
		mixed := c.WithEngineOf(q.made)
		if q.made.SameEngine(c) {
			mixed = c
		}
		q.made, settings[q.worker] = mixed, mixed
	}
}

// changedServers brings a pool's remote servers to what its configuration says.
// What it returns is to be done without the lock, which is held.
func (p *poolWorkers) changedServers() []func() {
	var changes []func()
	old := p.remote
	p.remote = nil
	for _, at := range p.seats() {
		i := slices.IndexFunc(old, func(r *remote) bool {
			return r.seat.sameEnd(&at) && r.server.pool.Protocol == p.config.Protocol
		})
		if i < 0 {
			r := p.s.newRemote(p, at)
			if at.name != nil && (at.name.held || at.name.away[at.Name]) {
				r.holdBefore()
			}
			r.start(p.s.ctx)
			p.remote = append(p.remote, r)
			continue
		}
		r := old[i]
		old = slices.Delete(slices.Clone(old), i, i+1)
		p.remote = append(p.remote, r)
		if !r.seat.same(&at) || !reflect.DeepEqual(r.server.pool.Health, p.config.Health) || r.server.pool.DrainTimeout != p.config.DrainTimeout {
			settings, held := p.config, r.held
			changes = append(changes, func() { r.change(settings, at, held) })
		}
	}
	for _, r := range old {
		if n := r.seat.name; n != nil {
			n.away[r.seat.Name] = r.held
		}
		changes = append(changes, r.leave)
	}
	return changes
}

// Roll brings the workers to what the configuration says: all pools, or the one
// of that name, side by side, in each one worker after another. ctx ends it
// between two workers. It returns when each is ready, or is found not to get so.
func (s *Supervisor) Roll(ctx context.Context, only string) *Report {
	began := time.Now()
	s.mu.Lock()
	pools := slices.DeleteFunc(slices.Clone(s.pools), func(p *poolWorkers) bool { return only != "" && p.name != only })
	s.mu.Unlock()
	reports := make([][]MemberReport, len(pools))
	var all sync.WaitGroup
	for i, p := range pools {
		all.Go(func() { reports[i] = s.rollPool(ctx, p) })
	}
	all.Wait()
	return &Report{Members: slices.Concat(reports...), Seconds: time.Since(began).Seconds()}
}

func (s *Supervisor) rollPool(ctx context.Context, p *poolWorkers) []MemberReport {
	if p.after != nil {
		select {
		case <-p.after:
		case <-ctx.Done():
		case <-s.ctx.Done():
		}
	}
	ctx, done, err := s.takeTurn(ctx, p)
	if err != nil {
		return nil
	}
	defer done()
	if p.isRemoved(s) {
		return s.closePool(ctx, p)
	}
	reports := s.resize(ctx, p)
	if slices.ContainsFunc(reports, func(m MemberReport) bool { return m.Error != "" }) {
		return append(reports, s.kept(s.outdated(p), fmt.Errorf("pool %s was to be resized first, and was not", p.name))...)
	}
	return append(reports, s.change(ctx, p, s.outdated(p))...)
}

func (p *poolWorkers) isRemoved(s *Supervisor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.removed
}

// outdated are the posts of a pool that a rolling change is to come to.
func (s *Supervisor) outdated(p *poolWorkers) []*post {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(p.posts), func(q *post) bool { return !q.outdated() })
}

// closePool ends and forgets all that a removed pool has.
func (s *Supervisor) closePool(ctx context.Context, p *poolWorkers) []MemberReport {
	s.mu.Lock()
	posts, remotes := p.posts, p.remote
	s.mu.Unlock()
	for _, r := range remotes {
		r.leave()
	}
	reports := s.removeAll(ctx, posts)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.posts) == 0 { // else what could not be ended stays in sight
		s.pools = slices.DeleteFunc(slices.Clone(s.pools), func(other *poolWorkers) bool { return other == p })
		p.goneOnce.Do(func() { close(p.gone) })
	}
	return reports
}

// change replaces the workers of posts one by one, with one more beside where
// the pool's surge says so.
func (s *Supervisor) change(ctx context.Context, p *poolWorkers, posts []*post) []MemberReport {
	s.mu.Lock()
	surge := p.config.Surge > 0 && len(posts) > 0
	var spare *post
	if surge {
		index := 0
		for slices.ContainsFunc(p.posts, func(q *post) bool { return q.index == index }) {
			index++
		}
		spare = s.addPost(p, index)
	}
	s.mu.Unlock()
	if spare == nil {
		return s.roll(ctx, posts)
	}
	if enough, _ := s.tryDevices(spare); !enough {
		s.removePost(spare)
		s.log.Warn("rolling change without surge: no GPU is free for one more worker", "pool", p.name)
		return s.roll(ctx, posts)
	}
	first := s.beginWorker(ctx, spare)
	var reports []MemberReport
	if first.Error == "" {
		reports = s.roll(ctx, posts)
	} else {
		s.log.Error("rolling change stopped: all keep their engines as they were", "worker", spare.name, "error", first.Error, "kept", names(posts))
		reports = s.kept(posts, fmt.Errorf("%s, started beside, did not become ready: %s", spare.name, first.Error))
	}
	s.removeAll(ctx, []*post{spare})
	return reports
}
