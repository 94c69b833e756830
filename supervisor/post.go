package supervisor

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"

	"stoker/config"
	"stoker/upstream"
)

// post is one position in a pool: a name, an index, devices, and a member of
// the upstream pool. The workers in it come one after another. Each keeps to
// the state table to its end; what shall run again after that is the next one.
type post struct {
	pool    *poolWorkers
	name    string
	index   int
	member  *upstream.Member
	metrics *workerMetrics

	// The rest is guarded by Supervisor.mu.

	// worker is the present one, or the last.
	worker *worker
	// made is the configuration that the worker's engine is started with.
	made *config.Pool
	gpus []string
	// held: an operator wants nothing to run here. It outlasts exits, reloads
	// and rolling restarts; only resume, restart and scale end it.
	held bool
	// leaving: it is being removed, and nothing starts here again.
	leaving bool
}

// poolWorkers are the upstreams of one pool.
type poolWorkers struct {
	s        *Supervisor
	name     string
	upstream *upstream.Pool
	turns    *turns
	voices   *voices
	// busy holds one token: one rolling change of the pool at a time, else two
	// of them together would take two workers out.
	busy chan struct{}
	// after is closed when a former pool of this name has gone; nil: there was none.
	after <-chan struct{}
	// gone is closed when this one, removed, has.
	gone     chan struct{}
	goneOnce sync.Once

	// The rest is guarded by Supervisor.mu.

	config *config.Pool
	posts  []*post // by index, which may have gaps
	remote []*remote
	names  []*dnsName
	// supersede ends the rolling change that goes on; nil: none does.
	supersede context.CancelCauseFunc
	// removed: it is in no configuration any more; its workers end.
	removed bool
}

// Reasons why nothing is started.
var (
	errEnding  = errors.New("the master is shutting down")
	errHeld    = errors.New("an operator has stopped it")
	errLeaving = errors.New("it is being removed")
)

// newPool prepares a pool's upstreams; nothing runs yet. The lock is held, or
// nobody else knows the supervisor.
func (s *Supervisor) newPool(p *config.Pool, up *upstream.Pool) *poolWorkers {
	made := &poolWorkers{
		s: s, name: p.Name, config: p, upstream: up, turns: &turns{limit: p.MaxStarting}, voices: newVoices(s.holdOutput),
		busy: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	made.keepNames()
	for _, at := range made.seats() {
		made.remote = append(made.remote, s.newRemote(made, at))
	}
	return made
}

// addPost makes a post of that index, without a worker.
func (s *Supervisor) addPost(p *poolWorkers, index int) *post {
	name := p.config.WorkerName(index)
	made := &post{
		pool: p, name: name, index: index,
		member: p.upstream.Add(name, 1), metrics: s.metrics.worker(p.name, name),
	}
	at, _ := slices.BinarySearchFunc(p.posts, index, func(q *post, index int) int { return q.index - index })
	p.posts = slices.Insert(slices.Clone(p.posts), at, made)
	return made
}

// removePost forgets a post whose worker has ended.
func (s *Supervisor) removePost(q *post) {
	s.tidy(q.name) // while nobody else can have that name
	s.mu.Lock()
	defer s.mu.Unlock()
	q.pool.posts = slices.DeleteFunc(slices.Clone(q.pool.posts), func(other *post) bool { return other == q })
	q.pool.upstream.Remove(q.member)
	s.metrics.forget(q.pool.name, q.name)
	s.giveDevices(q)
}

// newWorker makes the worker that goes by the pool's present configuration.
// after, where not nil, is the one that was at this post before and has ended.
func (s *Supervisor) newWorker(q *post, after *worker) (*worker, error) {
	p := q.pool.config
	account, err := lookUpAccount(p.User)
	if err != nil {
		return nil, err
	}
	slot := newSlot(s.config, p, q.index)
	slot.account, slot.ports, slot.stopSignal, slot.gpus = account, s.ports, stopSignal(p.Stop.Signal), q.gpus
	w := newWorker(slot.name, p, slot.stopSignal)
	w.epoch, w.log, w.metrics = s.epoch, s.log, q.metrics
	w.keepers, w.place, w.member = s.keepers, slot, q.member
	w.newChecks, w.stopped = slot.newChecks, isStopped
	w.turns, w.cleared, w.luck, w.onDeath, w.voices = q.pool.turns, s.cleared, rand.Float64, s.onDeath, q.pool.voices
	if after != nil {
		w.follow(after)
	}
	q.made, q.worker = p, w
	return w, nil
}

// follow goes on where a worker that has ended left off. It begins in backoff,
// which asks the gone command and waits for a turn.
func (w *worker) follow(before *worker) {
	facts := before.published.Load()
	w.state, w.restarts, w.lastExit, w.used = Backoff, facts.restarts, facts.lastExit, facts.used
	// Only of a clean end it is known that nothing is left.
	w.unsure = facts.state != Stopped || facts.stuck
	w.again = reasonWish
	w.metrics.entered(facts.state, Backoff)
	w.publish(cause{})
}

// engage puts a new worker to a post whose last one has ended, and returns it;
// one that has not ended is returned as it is. The lock is held.
func (s *Supervisor) engage(q *post) (*worker, error) {
	switch {
	case s.ending:
		return nil, errEnding
	case q.leaving:
		return nil, errLeaving
	case q.held:
		return nil, errHeld
	case q.worker != nil && !q.worker.over():
		return q.worker, nil
	}
	w, err := s.newWorker(q, q.worker)
	if err != nil {
		return nil, err
	}
	s.running.Go(w.run)
	return w, nil
}

// over reports whether the worker has ended.
func (w *worker) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// each calls f for every post, in order. The lock is held.
func (s *Supervisor) each(f func(*post)) {
	for _, p := range s.pools {
		for _, q := range p.posts {
			f(q)
		}
	}
}

// workers are those that are at a post now.
func (s *Supervisor) workers() []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*worker
	s.each(func(q *post) {
		if q.worker != nil {
			all = append(all, q.worker)
		}
	})
	return all
}
