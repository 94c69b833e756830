package supervisor

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"stoker/supervisor/keeper"
)

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
