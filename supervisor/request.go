package supervisor

import "context"

// wish is what somebody outside wants of a worker. It only moves forward.
type wish int

const (
	wishRun wish = iota
	// wishRelease: let go of the engine; another master goes on with it.
	wishRelease
	// wishStop: end the engine, and stay so.
	wishStop
)

// request is handed to a worker's goroutine, which alone acts on it.
type request struct {
	wish wish
	// drain lets the worker's requests finish first.
	drain bool
	// hurry ends all waiting: no drain, no grace, KILL now.
	hurry bool
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
	w.wish = max(w.wish, r.wish)
	w.drain = r.drain && !r.hurry
	w.hurried = w.hurried || r.hurry
}

// leave is where a worker goes that has no engine and shall not run.
func (w *worker) leave() (State, cause) {
	if w.wish == wishRelease {
		return Released, cause{reason: reasonWish, text: "as was wished; nothing was running"}
	}
	return Stopped, cause{reason: reasonWish, text: "as was wished"}
}
