package supervisor

import (
	"context"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
	"stoker/supervisor/keeper"
)

// Limits of actions that are quick unless something is broken.
const (
	helloLimit = 10 * time.Second // a keeper's spawn, until the engine is executed
	attachTime = 5 * time.Second  // finding out about a leftover
	callLimit  = 2 * time.Second  // one word with a keeper
	killLimit  = 10 * time.Second // from KILL to nothing left
	sweepLimit = 15 * time.Second // ending a tree whose keeper is dead
	noLimit    = 1<<63 - 1        // waiting for others, who have limits
)

// worker is one slot and the state machine that keeps an engine alive in it.
type worker struct {
	name       string
	pool       *config.Pool
	stopSignal syscall.Signal
	epoch      uint64
	log        hclog.Logger
	metrics    *workerMetrics
	keepers    keepers
	place      place
	member     member
	newChecks  func(h config.Health, address string) *checks
	stopped    func(pid int) bool // see isStopped
	turns      *turns
	// cleared is closed once no leftover of another configuration runs: it may
	// hold the memory of the devices that are ours now.
	cleared <-chan struct{}
	luck    func() float64    // in [0, 1): see decideRestart
	onDeath func(Death) []any // see Options

	voices *voices // the pool's

	requests  chan request
	done      chan struct{} // closed when the goroutine has ended
	asked     atomic.Bool   // somebody has asked it to stop
	published atomic.Pointer[snapshot]
	judged    atomic.Pointer[Health] // of a ready one

	// The rest is the goroutine's own.
	state   State
	since   time.Time
	wish    wish
	drain   bool
	hurried bool
	// drainLimit bounds a wished drain; 0: the pool's drain_timeout.
	drainLimit time.Duration
	// migrate: requests that can go on elsewhere do, whatever the pool's policy.
	migrate  bool
	settings *config.Pool // to be taken at the end of the present state
	// refused: a dial was refused since the last good probe, which has taken the
	// member out of the pool.
	refused bool
	left    bool // nothing is to be watched any more: see HandOver

	engine  engine // nil: nothing runs that we know of
	address string
	checks  *checks
	turn    bool // holds a turn to load
	// unsure: the slot may hold an engine that we are not attached to, since an
	// earlier master left it, or a spawn went wrong. Nothing is started before
	// that is known.
	unsure  bool
	adopted bool
	used    bool // an engine has ended here: the gone command must be asked
	// why the engine is being ended, or ended by itself.
	why       cause
	readyFor  time.Duration // how long the present engine was ready
	failures  int           // in a row
	resumeAt  time.Time     // end of the present backoff
	again     reason        // why the next start is a restart, empty for a first
	restarts  int
	lastExit  *ExitStatus
	lastWords string // gist of the engine's that died before, see newWords
	epitaph   epitaph

	stopForced, stuck bool // see snapshot
	drained           time.Duration
	cut               int
}

// newWorker is a worker of which the outside is still to be set.
func newWorker(name string, p *config.Pool, stop syscall.Signal) *worker {
	w := &worker{
		name: name, pool: p, stopSignal: stop,
		requests: make(chan request), done: make(chan struct{}),
		state: Starting, since: time.Now(), unsure: true,
	}
	w.publish(cause{})
	return w
}

// snapshot is what others may read of a worker. It is replaced whole.
type snapshot struct {
	state     State
	since     time.Time
	pid       int
	keeperPID int
	// protocol is the lowest and the highest version that the keeper speaks.
	protocol [2]int
	address  string
	restarts int
	lastExit *ExitStatus
	// stopForced: the wished stop took a KILL. stuck: not even that helped.
	stopForced, stuck bool
	// drained is how long the last drain took, cut how many requests it cut.
	drained time.Duration
	cut     int
	// failures in a row, and the cause of the last transition.
	failures int
	why      cause
	// used: an engine has ended here, so that the gone command must be asked.
	used bool
	// changed is closed when a newer snapshot is there.
	changed chan struct{}
}

// run is the worker's life. It returns in a terminal state.
func (w *worker) run() {
	defer close(w.done)
	defer w.voices.settles(w.name)
	w.member.SetExpected(w.promising())
	for !w.state.terminal() {
		to, why := w.step()
		w.takeSettings()
		if to != w.state || why.reason != reasonSettings {
			w.transition(to, why)
		}
	}
}

// step does what the present state does and returns what comes next.
func (w *worker) step() (State, cause) {
	switch w.state {
	case Starting:
		return w.starting()
	case Loading:
		return w.loading()
	case Ready:
		return w.ready()
	case Watching:
		return w.watching()
	case Draining:
		return w.draining()
	case Stopping:
		return w.stopping()
	case Backoff:
		return w.backoff()
	case Stopped, Failed, Released:
	}
	panic("supervisor: no step from " + string(w.state))
}

// transition enters a state. It alone writes the state, the pool, the log, the
// metrics and what others read.
func (w *worker) transition(to State, why cause) {
	from := w.state
	w.logTransition(to, why)
	if from == Ready {
		w.readyFor = time.Since(w.since)
	}
	if from == Draining {
		w.drained = time.Since(w.since)
	}
	w.state, w.since = to, time.Now()
	if w.turn && !to.takesTurn() {
		w.turn = false
		w.turns.done()
	}
	switch to {
	case Starting:
		if w.again != "" {
			w.restarts++
			w.metrics.restarted(w.again)
			w.again = ""
		}
	case Draining:
		w.metrics.drains.Inc()
		w.why = why
		w.drained, w.cut = 0, 0
	case Stopping:
		if from != Draining || why.reason.failure() {
			w.why = why
		}
		if why.reason == reasonHung {
			w.metrics.hung.Inc()
		}
	case Ready:
		if !w.adopted {
			w.metrics.loaded(w.since.Sub(w.engine.State().StartedAt))
		}
	case Loading, Watching, Backoff, Stopped, Failed, Released:
	}
	w.publish(why)
	// Last: whoever is served by a worker finds it ready.
	w.member.SetExpected(w.promising())
	w.member.SetReady(to.serves())
	if to == Stopping && w.why.reason.failure() {
		w.member.Died(w.troubledSince())
	}
	w.metrics.entered(from, to)
}

// hangTime is how long before it is found out an engine may have hung: its
// clients may have given up since, the one that it hangs because of first.
const hangTime = 30 * time.Second

// troubledSince is when whatever ends the engine may have begun.
func (w *worker) troubledSince() time.Time {
	if w.why.reason == reasonUnhealthy || w.why.reason == reasonHung {
		return w.since.Add(-hangTime)
	}
	return w.since
}

// promising says whether requests may wait for this worker. One death in a row
// is bad luck; after two its next engine has to show itself first.
func (w *worker) promising() bool {
	return !w.state.terminal() && w.wish == wishRun && w.failures <= 1
}

// publish makes the facts readable by others.
func (w *worker) publish(why cause) {
	s := &snapshot{
		state: w.state, since: w.since, restarts: w.restarts, lastExit: w.lastExit,
		stopForced: w.stopForced, stuck: w.stuck, drained: w.drained, cut: w.cut,
		failures: w.failures, why: why, used: w.used, changed: make(chan struct{}),
	}
	if w.engine != nil {
		facts := w.engine.State()
		s.pid, s.keeperPID, s.address = facts.EnginePID, facts.KeeperPID, w.address
		s.protocol[0], s.protocol[1] = w.engine.Versions()
	}
	if before := w.published.Swap(s); before != nil {
		close(before.changed)
	}
}

// logTransition writes the one line of an event that a person would act on or
// wait for; the others are for debugging.
func (w *worker) logTransition(to State, why cause) {
	args := append([]any{"worker", w.name, "cause", why.text}, why.details...)
	if to == Ready {
		args = []any{"worker", w.name, "address", w.address, "after", readable(time.Since(w.since))}
	}
	switch {
	case to == Failed:
		w.log.Error("worker failed: it stays down until it is restarted by hand", args...)
	case to == Backoff && why.reason.failure():
		w.log.Warn("worker died", args...)
	case to == Ready:
		w.log.Info("worker ready", args...)
	case to == Stopping && why.reason == reasonHung:
		w.log.Warn("worker hung: it is killed and started again", append(args, "requests_in_flight", w.member.InFlight())...)
	case to == Draining && why.reason.failure():
		w.log.Warn("worker unhealthy: it leaves the pool, and is restarted once its requests have finished", args...)
	case to == Loading && w.failures == 0:
		facts := w.engine.State()
		w.log.Info("worker loading", append(args, "pid", facts.EnginePID, "address", w.address)...)
	case to == Draining, to == Released, to == Stopped, why.reason == reasonChanged:
		w.log.Info("worker "+string(to), args...)
	default:
		w.log.Debug("worker "+string(to), args...)
	}
}

// event is what a state may be waiting for.
type event int

const (
	requested     event = iota // a request was heard
	engineChanged              // the engine's state may have changed
	keeperGone                 // the keeper is lost
	ticked                     // the tick is due
	limited                    // the limit is reached
	finished                   // the action beside has ended
	kicked                     // a dial was refused: probe at once
	called                     // the canary is back
)

// waits are the events that a state waits for besides requests; nil never comes.
type waits struct {
	engine   engine
	tick     <-chan time.Time
	limit    <-chan time.Time
	finished <-chan error
	kick     <-chan struct{}
	canary   <-chan error
}

// next blocks until one of the events comes. Everything that a worker waits
// for passes through here, so no state can be deaf to a request. The error is
// that of a finished action, or of a canary.
func (w *worker) next(x waits) (event, error) {
	var updates, lost <-chan struct{}
	if x.engine != nil {
		updates, lost = x.engine.Updates(), x.engine.Lost()
	}
	select {
	case r := <-w.requests:
		w.hear(r)
		return requested, nil
	case <-updates:
		return engineChanged, nil
	case <-lost:
		return keeperGone, nil
	case <-x.tick:
		return ticked, nil
	case <-x.limit:
		return limited, nil
	case err := <-x.finished:
		return finished, err
	case <-x.kick:
		return kicked, nil
	case err := <-x.canary:
		return called, err
	}
}

// task is an action in a goroutine of its own; whoever begins it waits for it,
// by its result or by abandon.
type task struct {
	cancel context.CancelFunc
	done   chan error    // the result
	ended  chan struct{} // closed after that
}

// beside begins an action and bounds it.
func beside(limit time.Duration, action func(context.Context) error) *task {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t := &task{cancel: cancel, done: make(chan error, 1), ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		defer cancel()
		t.done <- action(ctx)
	}()
	return t
}

// result delivers once. A nil task never delivers.
func (t *task) result() <-chan error {
	if t == nil {
		return nil
	}
	return t.done
}

// abandon cancels the action, if it is not over, and waits for its end.
func (t *task) abandon() {
	if t != nil {
		t.cancel()
		<-t.ended
	}
}

// await does an action while requests are heard. When yields is set, the
// action is cancelled as soon as the worker shall not run any more. What finds
// or ends an engine does not yield: whoever is in a hurry wants it gone.
func (w *worker) await(limit time.Duration, yields bool, action func(context.Context) error) error {
	t := beside(limit, action)
	for {
		event, err := w.next(waits{finished: t.result()})
		if event == finished {
			return err
		}
		if yields && w.wish != wishRun {
			t.cancel()
		}
	}
}

// keeperLost reports whether the keeper is gone.
func (w *worker) keeperLost() bool {
	select {
	case <-w.engine.Lost():
		return true
	default:
		return false
	}
}

// ended reports whether the engine's first process is gone.
func (w *worker) ended() bool {
	phase := w.engine.State().Phase
	return phase == keeper.Ending || phase == keeper.Ended
}
