package supervisor

import (
	"context"
	"time"

	"stoker/config"
)

// wish is what somebody outside wants of a worker. It only moves forward: what
// shall run again after a stop is the post's next worker.
type wish int

const (
	wishRun wish = iota
	// wishRelease: let go of the engine; another master goes on with it.
	wishRelease
	// wishStop: end the engine, and stay so.
	wishStop
	// wishHandOver: the engine is a successor's; nothing may be done to it. It
	// is the last, since no later wish may lead to an act again.
	wishHandOver
)

// request is handed to a worker's goroutine, which alone acts on it.
type request struct {
	wish wish
	// drain lets the worker's requests finish first.
	drain bool
	// migrate has those that can go on elsewhere do so.
	migrate bool
	// limit bounds the drain; 0: the pool's drain_timeout.
	limit time.Duration
	// hurry ends all waiting: no drain, no grace, KILL now.
	hurry bool
	// settings, where not nil, are the pool's from now on; the rest of the
	// request is nothing then. What the engine is started with is the same in
	// them: see config.Pool.SameEngine.
	settings *config.Pool
	// sign: nothing is wanted but the sign of life that hearing it is.
	sign bool
	// leave, with wishHandOver, ends the watching too.
	leave bool
}

// ask hands r to the worker's goroutine. It returns when that has heard it,
// has ended, or ctx has.
func (w *worker) ask(ctx context.Context, r request) {
	select {
	case w.requests <- r:
	case <-w.done:
	case <-ctx.Done():
	}
}

// hear takes note of a request; the state that called it acts on it.
func (w *worker) hear(r request) {
	if r.sign {
		return
	}
	if r.settings != nil {
		w.settings = r.settings
		return
	}
	w.wish = max(w.wish, r.wish)
	w.drain = r.drain && !r.hurry
	w.drainLimit = r.limit
	w.migrate = w.migrate || r.migrate
	w.hurried = w.hurried || r.hurry
	w.left = w.left || r.leave
}

// takeSettings goes by new settings. It is called between two states, when no
// action reads the old ones.
func (w *worker) takeSettings() {
	if w.settings == nil {
		return
	}
	w.pool, w.stopSignal = w.settings, stopSignal(w.settings.Stop.Signal)
	w.place.Configure(w.settings)
	w.settings = nil
	if w.engine != nil && w.address != "" {
		w.checks = w.newChecks(w.pool.Health, w.address)
	}
}

// leave is where a worker goes that has no engine and shall not run.
func (w *worker) leave() (State, cause) {
	if w.wish == wishHandOver {
		return w.handedOver()
	}
	if w.wish == wishRelease {
		return Released, cause{reason: reasonWish, text: "as was wished; nothing was running"}
	}
	return Stopped, cause{reason: reasonWish, text: "as was wished"}
}
