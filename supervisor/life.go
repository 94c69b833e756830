package supervisor

import (
	"context"
	"fmt"
	"time"

	"stoker/config"
	"stoker/supervisor/keeper"
	"stoker/upstream"
)

// The states, but those of an end, which leave.go has. Each is a method that does what the state does and returns which
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
			w.refused = w.refused || event == kicked && !v.isQuestioned()
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
