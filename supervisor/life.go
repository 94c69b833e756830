package supervisor

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"stoker/config"
	"stoker/supervisor/keeper"
	"stoker/upstream"
)

// The states. Each is a method that does what the state does and returns which
// state comes next, and why.

// starting finds out what the slot holds, and spawns a keeper if it is empty.
func (w *worker) starting() (State, cause) {
	if w.unsure && w.wish != wishHandOver {
		if next, why, found := w.findLeftover(); found {
			return next, why
		}
	}
	if w.wish != wishRun {
		return w.leave()
	}
	if !w.turn && !w.mayStart() {
		return Backoff, progress("waits for its turn")
	}
	w.turn = true
	l, err := w.place.Prepare(w.epoch)
	if err != nil {
		return w.notStarted(err)
	}
	l.intent.HoldOutput = w.voices.starts(w.name, w.failures > 0)
	err = w.await(helloLimit, true, func(ctx context.Context) (err error) {
		w.engine, err = w.keepers.Spawn(ctx, l)
		return err
	})
	if err == nil {
		w.voices.runs(w.name, w.engine)
		w.address = l.address
		return w.executed()
	}
	// Something may run all the same.
	w.engine, w.unsure = nil, true
	if next, why, found := w.findLeftover(); found {
		return next, why
	}
	if w.wish != wishRun {
		w.place.Vacate()
		return w.leave()
	}
	return w.notStarted(err)
}

// mayStart takes a turn if the worker may start right now.
func (w *worker) mayStart() bool {
	select {
	case <-w.cleared:
		return w.turns.try()
	default:
		return false
	}
}

// executed waits until the new engine runs, or has failed to.
func (w *worker) executed() (State, cause) {
	limit := time.NewTimer(helloLimit)
	defer limit.Stop()
	for {
		switch {
		case w.wish == wishHandOver:
			return w.handedOver()
		case w.ended():
			return Stopping, exitCause(w.engine.State().Exit)
		case w.keeperLost():
			return Stopping, keeperLostCause()
		case w.wish == wishStop:
			return Stopping, wished()
		case w.engine.State().Phase == keeper.Running:
			w.occupy()
			return Loading, progress("engine runs")
		}
		if event, _ := w.next(waits{engine: w.engine, limit: limit.C}); event == limited {
			return Stopping, cause{reason: reasonNotStarted, text: "its keeper did not execute it within " + helloLimit.String()}
		}
	}
}

// occupy points the pool and the prober at the engine.
func (w *worker) occupy() {
	w.readyFor, w.refused = 0, false
	w.checks = w.newChecks(w.pool.Health, w.address)
	w.member.ResetPeer(upstream.Peer{Address: w.address, HTTP2: w.pool.Protocol == config.HTTP2})
}

// loading waits for the first good answers.
func (w *worker) loading() (State, cause) {
	left, patience := w.loadTime()
	limit := time.NewTimer(left)
	defer limit.Stop()
	tick := time.NewTimer(0)
	defer tick.Stop()
	var probing *task
	defer func() { probing.abandon() }()
	pause, good := firstPause, 0
	var last error
	for {
		if next, why, left := w.interrupted(); left {
			return next, why
		}
		event, err := w.next(waits{engine: w.engine, tick: tick.C, limit: limit.C, finished: probing.result()})
		switch event {
		case ticked:
			probing = beside(patience, w.checks.usual)
		case finished:
			probing, last = nil, err
			if good++; err != nil {
				good = 0
			}
			if good >= max(w.pool.Health.Successes, 1) {
				return Ready, progress("answers its probes")
			}
			tick.Reset(pause)
			pause = longer(pause, lastPause)
		case limited:
			return Stopping, w.startTimeout(last)
		case requested, engineChanged, keeperGone, kicked, called:
		}
	}
}

// adoptedTime is what an engine that an earlier master left has at least, to
// show that it lives, unless start_timeout is shorter.
const adoptedTime = time.Minute

// loadTime is how long the engine may still load, and how long a probe may
// take meanwhile. One that was adopted may have become ready long ago and be
// busy right now: its late answers are good ones. But if it has had all its time
// to load, it hangs, since the master before would not have kept it.
func (w *worker) loadTime() (left, patience time.Duration) {
	started := w.engine.State().StartedAt
	if started.IsZero() || started.After(time.Now()) {
		started = time.Now()
	}
	whole := w.pool.StartTimeout.Std()
	left = time.Until(started.Add(whole))
	if w.adopted {
		return max(left, min(whole, adoptedTime)), max(w.checks.timeout, w.checks.patience)
	}
	return left, w.checks.timeout
}

// startTimeout explains an engine that never answered.
func (w *worker) startTimeout(last error) cause {
	text := fmt.Sprintf("not ready within start_timeout %s", w.pool.StartTimeout.Std())
	if last != nil {
		text += "; its last probe: " + last.Error()
	}
	return cause{reason: reasonStartTimeout, text: text}
}

// ready watches over an engine that serves.
func (w *worker) ready() (State, cause) {
	heard := w.beHeard()
	defer heard.abandon()
	v := w.newVigil()
	defer v.end()
	tick := time.NewTimer(v.pause())
	defer tick.Stop()
	var probing, canary *task
	defer func() {
		probing.abandon()
		canary.abandon()
	}()
	for {
		if next, why, left := w.interrupted(); left {
			return next, why
		}
		x := waits{engine: w.engine, tick: tick.C, finished: probing.result(), canary: canary.result()}
		if probing == nil {
			x.kick = w.member.Kick()
		}
		found := unclear
		switch event, err := w.next(x); event {
		case ticked, kicked:
			w.refused = w.refused || event == kicked
			probing = beside(noLimit, v.prepare())
			tick.Stop()
		case finished:
			probing = nil
			found = v.hear(err)
			tick.Reset(v.pause())
		case called:
			canary = nil
			found = v.hearCanary(err)
		case requested, engineChanged, keeperGone, limited:
		}
		if next, why, left := w.found(found, v.judge); left {
			return next, why
		}
		if canary == nil && v.stalled() {
			v.call()
			canary = beside(noLimit, v.canary)
		}
	}
}

// beHeard has the engine's output passed on that was held back until it was ready.
func (w *worker) beHeard() *task {
	muted := w.voices.settles(w.name)
	if muted == nil {
		return nil
	}
	return beside(callLimit, func(ctx context.Context) error { return muted.Hold(ctx, 0) })
}

// newVigil begins to watch over the present engine.
func (w *worker) newVigil() *vigil {
	v := newVigil(w.pool.Health, w.member, w.checks)
	pid := w.engine.State().EnginePID
	v.stopped = func() bool { return pid != 0 && w.stopped(pid) }
	v.failure = w.metrics.probeFailed
	v.tell = w.judged.Store
	v.warn = func(err error) {
		w.log.Warn("a canary was refused, so that a silent worker cannot be told from a hung one: check pools.health.canary, unless the engine was full",
			"worker", w.name, "error", err)
	}
	v.say()
	return v
}

// found says where a verdict leads.
func (w *worker) found(v verdict, j *judge) (next State, why cause, left bool) {
	switch v {
	case hung:
		return Stopping, cause{reason: reasonHung, text: "hung: " + j.complaint()}, true
	case sick:
		return Draining, cause{reason: reasonUnhealthy, text: j.complaint()}, true
	case well:
		if w.refused { // which has taken it out: see upstream.Member.Refused
			w.refused = false
			w.member.SetReady(true)
		}
	case unclear:
	}
	return w.state, cause{}, false
}

// interrupted says where an engine that loads or serves goes when something
// has come between.
func (w *worker) interrupted() (next State, why cause, left bool) {
	switch {
	case w.wish == wishHandOver:
		next, why = w.handedOver()
		return next, why, true
	case w.ended():
		return Stopping, exitCause(w.engine.State().Exit), true
	case w.keeperLost():
		return Stopping, keeperLostCause(), true
	case w.wish == wishRun && w.settings != nil:
		return w.state, cause{reason: reasonSettings}, true
	case w.wish == wishRun:
		return w.state, cause{}, false
	case w.state == Ready && (w.drain || w.wish == wishRelease):
		return Draining, wished(), true
	case w.wish == wishRelease:
		return w.release(), wished(), true
	default:
		return Stopping, wished(), true
	}
}

// draining lets the worker's requests finish, out of the pool.
func (w *worker) draining() (State, cause) {
	if w.pool.Drain == drainStop && w.wish != wishRelease && w.wish != wishHandOver {
		w.cut = w.member.Cut()
		return Stopping, cause{reason: reasonWish, text: "its requests were cut, as drain = stop wants", details: []any{"requests_cut", w.cut}}
	}
	if w.wish != wishRelease && w.wish != wishHandOver {
		w.member.Dismiss()
		w.move()
	}
	limit := w.drainTime()
	idle := beside(limit, w.member.WaitIdle)
	defer func() { idle.abandon() }()
	for {
		switch {
		case w.wish == wishHandOver:
			return w.handedOver()
		case w.ended():
			return Stopping, exitCause(w.engine.State().Exit)
		case w.keeperLost():
			return Stopping, keeperLostCause()
		case w.wish == wishStop && !w.drain:
			return Stopping, cause{reason: reasonWish, text: "as was wished, without waiting any longer"}
		}
		switch event, err := w.next(waits{engine: w.engine, finished: idle.result()}); event {
		case finished:
			idle = nil
			return w.endOfDrain(limit, err)
		case requested:
			w.move()
			if asked := w.drainTime(); asked != limit {
				idle.abandon()
				limit = asked
				idle = beside(limit, w.member.WaitIdle)
			}
		case engineChanged, keeperGone, ticked, limited, kicked, called:
		}
	}
}

// move has the requests that can go on elsewhere do so, where that is wanted.
// The others may finish.
func (w *worker) move() {
	if w.pool.Drain != drainMigrate && !w.migrate {
		return
	}
	if n := w.member.Move(); n > 0 {
		w.log.Info("streams go on elsewhere", "worker", w.name, "streams", n)
	}
}

// Drain policies: one lets no request finish, and one has those go on elsewhere
// that can.
const (
	drainStop    = "stop"
	drainMigrate = "migrate"
)

// drainTime is how long the worker's requests may take to finish.
func (w *worker) drainTime() time.Duration {
	if w.wish == wishStop && w.drainLimit > 0 {
		return w.drainLimit
	}
	return w.pool.DrainTimeout.Std()
}

// endOfDrain says how a drain went.
func (w *worker) endOfDrain(limit time.Duration, err error) (State, cause) {
	why := cause{reason: reasonWish, text: "its requests have finished"}
	if err != nil {
		w.cut = w.member.InFlight()
		why.text = fmt.Sprintf("the %s for its requests are over", limit)
		why.details = []any{"requests_cut", w.cut}
	}
	if w.wish == wishRelease {
		return w.release(), why
	}
	return Stopping, why
}

// stopping sees to it that nothing of the engine is left.
func (w *worker) stopping() (State, cause) {
	sig, grace := w.ending()
	killing := w.hurried
	if killing {
		grace = 0
	}
	limit := time.NewTimer(grace + killLimit)
	defer limit.Stop()
	var order *task
	defer func() { order.abandon() }()
	if !w.keeperLost() && (killing || !w.ended()) { // else its keeper is at it already, or dead
		order = w.tellToStop(sig, grace)
	}
	for {
		switch {
		case w.wish == wishHandOver:
			return w.handedOver()
		case w.engine.State().Phase == keeper.Ended:
			return w.settle()
		case w.keeperLost():
			return w.endOrphan()
		case w.hurried && !killing:
			killing = true
			order.abandon()
			order = w.tellToStop(sig, 0)
			limit.Reset(killLimit)
		}
		switch event, err := w.next(waits{engine: w.engine, limit: limit.C, finished: order.result()}); event {
		case finished:
			order = nil
			if errors.Is(err, keeper.ErrStaleEpoch) || errors.Is(err, keeper.ErrNotOwner) {
				return w.release(), cause{reason: reasonWish, text: "another master has taken it over"}
			}
			if err != nil {
				w.log.Debug("keeper did not take the order to stop", "worker", w.name, "error", err)
			}
		case limited:
			return w.survived()
		case requested, engineChanged, keeperGone, ticked, kicked, called:
		}
	}
}

// ending says how the engine is asked to end. One that hangs has nothing to
// finish: it may leave a trace of where, and free its devices if it still can.
func (w *worker) ending() (syscall.Signal, time.Duration) {
	if w.why.reason == reasonHung {
		return stopSignal(w.pool.Stop.HungSignal), w.pool.Stop.HungGrace.Std()
	}
	return w.stopSignal, w.pool.Stop.Grace.Std()
}

// tellToStop passes the order on. It is bounded, and so is what follows it.
func (w *worker) tellToStop(sig syscall.Signal, grace time.Duration) *task {
	e := w.engine
	return beside(grace+killLimit, func(ctx context.Context) error { return e.Stop(ctx, sig, grace) })
}

// survived gives up an engine that not even KILL has ended.
func (w *worker) survived() (State, cause) {
	facts := w.engine.State()
	_ = w.release()
	w.stuck = true
	return Failed, cause{
		reason: w.why.reason,
		text:   "its processes are still there after KILL",
		details: []any{
			"engine_pid", facts.EnginePID, "keeper_pid", facts.KeeperPID,
			"advice", "a process in state D hangs in a driver or a file system: see dmesg; this slot is not used again",
		},
	}
}

// release lets go of the engine, which runs on.
func (w *worker) release() State {
	_ = w.engine.Close()
	w.engine = nil
	return Released
}

// backoff waits for whatever must be over before the next start.
func (w *worker) backoff() (State, cause) {
	if w.used && w.wish == wishRun {
		w.awaitGone()
	}
	delay := time.NewTimer(time.Until(w.resumeAt))
	defer delay.Stop()
	for waiting := true; waiting && w.wish == wishRun; {
		event, _ := w.next(waits{tick: delay.C})
		waiting = event != ticked
	}
	if w.wish == wishRun && !w.turn {
		w.turn = w.await(noLimit, true, w.waitTurn) == nil
	}
	switch {
	case w.wish == wishRun:
		return Starting, progress("its turn has come")
	case w.unsure && w.wish != wishHandOver:
		return Starting, cause{reason: reasonWish, text: "something may still run"}
	default:
		return w.leave()
	}
}

// awaitGone waits until what the last engine held is free.
func (w *worker) awaitGone() {
	err := w.await(w.pool.Stop.GoneTimeout.Std(), true, w.place.Gone)
	w.used = false
	if err != nil && w.wish == wishRun {
		w.log.Warn("stop.gone_command did not succeed within stop.gone_timeout; the next engine starts all the same",
			"worker", w.name, "error", err)
	}
}

// waitTurn blocks until the worker may load.
func (w *worker) waitTurn(ctx context.Context) error {
	select {
	case <-w.cleared:
		return w.turns.wait(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
