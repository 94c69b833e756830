package balancer

import (
	"sync"
	"sync/atomic"
	"time"
)

// watch sees to it that tokens come. It looks now and then whether there were
// any since: to note the time of each would cost more than the rest of its way.
//
//	no token yet, first worker      never over: the prompt is read, which response_timeout may bound
//	no token yet, a later one       after four times the limit
//	since the last token            after the limit, or up to a quarter more
//	while the client is written to  not counted: it may read slowly
type watch struct {
	ticks atomic.Uint32
	busy  atomic.Bool

	mu    sync.Mutex
	timer *time.Timer
	over  bool
	seen  uint32
	quiet int
}

// parts of the limit after which the watch looks.
const parts = 4

func (w *watch) begin(limit time.Duration, later bool, stalled func()) {
	if limit <= 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ticks.Store(0)
	w.over, w.seen, w.quiet = false, 0, 0
	every := max(limit/parts, time.Millisecond)
	w.timer = time.AfterFunc(every, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.over {
			return
		}
		if w.look(later) {
			w.over = true
			stalled()
			return
		}
		w.timer.Reset(every)
	})
}

// look says whether it has been too long.
func (w *watch) look(later bool) bool {
	ticks := w.ticks.Load()
	if ticks != w.seen || w.busy.Load() {
		w.seen, w.quiet = ticks, 0
		return false
	}
	w.quiet++
	switch {
	case ticks > 0:
		return w.quiet >= parts
	case later:
		return w.quiet >= parts*parts
	}
	return false
}

func (w *watch) end() {
	if w.timer == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}

// tick says that a token has come.
func (w *watch) tick() { w.ticks.Add(1) }

// enter and leave stand around what may wait for the client.
func (w *watch) enter() { w.busy.Store(true) }
func (w *watch) leave() { w.busy.Store(false) }
