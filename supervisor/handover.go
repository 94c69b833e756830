package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"stoker/supervisor/keeper"
)

// # Handing engines over to a successor
//
// A binary upgrade has two supervisors for a moment. What each may do:
//
//	the successor                        the one before
//	Prepare  observes: attaches to       owns the engines, and goes on as ever
//	         every keeper, proves its
//	         identity, probes, lets go
//	         — the successor's master commits —
//	Start    claims with a higher        HandOver: acts on nothing any more.
//	         epoch, adopts, runs           A ready worker becomes watching: it
//	Settled  what was there serves         serves the requests that are left
//	                                       and leaves the pool when its
//	                                       engine ends; all others let go.
//	                                     Leave: lets go of the rest
//
// Between the commit and the claim nobody acts, which lasts milliseconds; an
// engine that ends then is found ended by the claim.

// Observed is one engine as Prepare found it.
type Observed struct {
	Worker    string `json:"worker"`
	PID       int    `json:"pid"`
	KeeperPID int    `json:"keeper_pid"`
	// Start is when the kernel started the process, in clock ticks since boot.
	Start uint64 `json:"start"`
	// Answers: it answered a probe.
	Answers bool `json:"answers"`
}

// Prepare looks at what an earlier master runs without touching any of it:
// nothing is claimed, signalled or started. An error means that Start would not
// go well: a keeper that cannot be spoken to or is not the one its files tell
// of, or an engine that Start would end because it is of another configuration.
// That an engine is absent, has ended or does not answer is no error.
func (s *Supervisor) Prepare(ctx context.Context) ([]Observed, error) {
	workers := s.workers()
	found, errs := make([]*Observed, len(workers)), make([]error, len(workers))
	var all sync.WaitGroup
	for i, w := range workers {
		all.Go(func() { found[i], errs[i] = w.observe(ctx) })
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if running := s.runningLeftovers(ctx); len(running) > 0 {
		return nil, fmt.Errorf("%w: %d workers run that are not configured any more: %v", errOtherConfiguration, len(running), running)
	}
	var observed []Observed
	for _, o := range found {
		if o != nil {
			observed = append(observed, *o)
		}
	}
	return observed, nil
}

// runningLeftovers are the directories of workers that are not configured and
// may have an engine. Of one that was removed from a pool the directory stays,
// with nothing in it but a lock: every upgrade was refused after that once.
func (s *Supervisor) runningLeftovers(ctx context.Context) []string {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	var running []string
	for _, dir := range s.leftovers {
		e, err := s.keepers.Attach(ctx, dir)
		switch {
		case errors.Is(err, keeper.ErrNoKeeper), errors.Is(err, keeper.ErrKeeperDead):
			continue
		case err == nil:
			phase := e.State().Phase
			_ = e.Close()
			if phase == keeper.Ended {
				continue
			}
		}
		running = append(running, dir)
	}
	return running
}

// errOtherConfiguration: taking over would end engines.
var errOtherConfiguration = errors.New("what runs is of another configuration, and taking over would end it: let the running master apply the configuration first (stoker reload), or restart")

// observe looks at one worker's slot; nil: there is no engine.
func (w *worker) observe(ctx context.Context) (*Observed, error) {
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	e, err := w.keepers.Attach(ctx, w.place.KeeperDir())
	switch {
	case errors.Is(err, keeper.ErrNoKeeper), errors.Is(err, keeper.ErrKeeperDead):
		return nil, nil //nolint:nilnil // nothing runs there, which is as it may be
	case err != nil:
		return nil, fmt.Errorf("worker %s: %w", w.name, err)
	}
	defer func() { _ = e.Close() }()
	facts := e.State()
	if facts.Phase != keeper.Running {
		return nil, nil //nolint:nilnil // it is ending, or not executed yet
	}
	if facts.Label[labelFingerprint] != w.place.Fingerprint() {
		return nil, fmt.Errorf("worker %s: %w", w.name, errOtherConfiguration)
	}
	o := &Observed{Worker: w.name, PID: facts.EnginePID, KeeperPID: facts.KeeperPID, Start: facts.EngineStart}
	o.Answers = w.newChecks(w.pool.Health, facts.Label[labelAddress]).usual(ctx) == nil
	return o, nil
}

// KeeperProtocol says which versions of the protocol a worker's keeper speaks,
// which may be older than this program, or newer.
type KeeperProtocol struct {
	Worker          string
	Lowest, Highest int
}

// KeeperProtocols is what those who are to take over have to speak with: the
// keepers that live now, in the order of their workers.
func (s *Supervisor) KeeperProtocols() []KeeperProtocol {
	var all []KeeperProtocol
	for _, w := range s.workers() {
		if facts := w.published.Load(); facts.keeperPID != 0 {
			all = append(all, KeeperProtocol{Worker: w.name, Lowest: facts.protocol[0], Highest: facts.protocol[1]})
		}
	}
	return all
}

// SetEpoch replaces Options.Epoch, for a master that may take its epoch only
// once it has committed. It is called before Start.
func (s *Supervisor) SetEpoch(epoch uint64) {
	s.epoch = epoch
	for _, w := range s.workers() {
		w.epoch = epoch
	}
}

// Settled blocks until every worker that adopts what it finds has done so, and
// those that start a new engine have begun to: until then requests would wait
// although engines are there to serve them. ctx bounds the wait.
func (s *Supervisor) Settled(ctx context.Context, names []string) error {
	wanted := make(map[string]bool, len(names))
	for _, name := range names {
		wanted[name] = true
	}
	for _, w := range s.workers() {
		if !wanted[w.name] {
			continue
		}
		if err := w.awaitAdopted(ctx); err != nil {
			return fmt.Errorf("worker %s is not ready yet: %w", w.name, err)
		}
	}
	return nil
}

// awaitAdopted blocks until the worker has left starting and loading.
func (w *worker) awaitAdopted(ctx context.Context) error {
	for {
		facts := w.published.Load()
		if !facts.state.takesTurn() {
			return nil
		}
		select {
		case <-facts.changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// HandOver ends all acting for good: from its return on nothing here signals,
// spawns or restarts an engine. Ready workers stay in the pool until their
// engine ends or Leave.
func (s *Supervisor) HandOver() {
	s.noMore()
	s.askAll(request{wish: wishHandOver})
}

// Leave lets go of what HandOver left, and waits until every worker has ended.
func (s *Supervisor) Leave() {
	s.askAll(request{wish: wishHandOver, leave: true})
	s.running.Wait()
}

// watching serves with an engine that is a successor's by now. It sees the
// engine's end and acts on nothing.
func (w *worker) watching() (State, cause) {
	w.member.Doubt(false) // which is its new master's to have
	asked, _ := w.member.Questions()
	w.member.Vouch(asked)
	var probing *task
	defer func() { probing.abandon() }()
	for {
		switch {
		case w.left:
			return w.release(), wished()
		case w.ended():
			w.mournWatched(exitCause(w.engine.State().Exit))
			return w.release(), cause{reason: reasonWish, text: "the engine has ended, which is its new master's to mend"}
		case w.keeperLost():
			w.mournWatched(keeperLostCause())
			return w.release(), cause{reason: reasonWish, text: "its keeper has gone, which is its new master's to mend"}
		}
		x := waits{engine: w.engine, finished: probing.result()}
		if probing == nil {
			x.kick = w.member.Kick()
		}
		event, err := w.next(x)
		switch event {
		case kicked:
			asked, _ = w.member.Questions()
			probing = beside(w.checks.timeout, w.checks.usual)
		case finished:
			probing = nil
			w.member.SetReady(err == nil)
			w.member.Vouch(asked)
		case requested, engineChanged, keeperGone, ticked, limited, called:
		}
	}
}

// handedOver says where a worker goes that a successor has taken over: an
// engine that serves is watched, any other is let go.
func (w *worker) handedOver() (State, cause) {
	why := cause{reason: reasonWish, text: "handed over to a new generation"}
	switch {
	case w.engine == nil:
		return Released, why
	case w.state == Ready:
		return Watching, why
	default:
		return w.release(), why
	}
}
