package front

import (
	"sync"
	"time"
)

const (
	// maxSpare is how many sessions without a connection are kept, and spareTime
	// for how long: some ten KiB each.
	maxSpare  = 128
	spareTime = 5 * time.Second
)

// crew is the sessions whose connection has ended, each in its goroutine, ready
// for another. Where each request brings a connection of its own, a tenth of the
// time went into goroutines, whose stacks grew from the least size, and into what
// a session is made of.
type crew struct {
	mu     sync.Mutex
	spare  []spare // by how long, longest first
	closed bool
	pruner *time.Timer
}

// spare is a session and since when it has no connection.
type spare struct {
	session *session
	since   time.Time
}

// call returns the session that was used last; nil: there is none.
func (w *crew) call() *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := len(w.spare) - 1
	if last < 0 {
		return nil
	}
	s := w.spare[last].session
	w.spare[last] = spare{}
	w.spare = w.spare[:last]
	return s
}

// keep takes s, whose connection has ended, unless there are enough.
func (w *crew) keep(s *session) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.spare) >= maxSpare {
		return false
	}
	w.spare = append(w.spare, spare{s, time.Now()})
	switch {
	case w.pruner == nil:
		w.pruner = time.AfterFunc(spareTime, w.prune)
	case len(w.spare) == 1:
		w.pruner.Reset(spareTime)
	}
	return true
}

// prune dismisses who has waited for too long. It runs again while anybody waits.
func (w *crew) prune() {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := 0
	for old < len(w.spare) && time.Since(w.spare[old].since) >= spareTime {
		close(w.spare[old].session.next)
		old++
	}
	kept := copy(w.spare, w.spare[old:])
	clear(w.spare[kept:])
	w.spare = w.spare[:kept]
	if kept > 0 {
		w.pruner.Reset(spareTime - time.Since(w.spare[0].since))
	}
}

// close dismisses everybody, and who comes later.
func (w *crew) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	if w.pruner != nil {
		w.pruner.Stop()
	}
	for _, s := range w.spare {
		close(s.session.next)
	}
	w.spare = nil
}

// serve lets a session serve c, in a goroutine that Close awaits.
func (f *Front) serve(c *conn) {
	if s := f.crew.call(); s != nil {
		s.next <- c // has room for one
		return
	}
	f.goroutine.Go(func() {
		s := newSession(c)
		for {
			s.run()
			if !f.crew.keep(s) {
				return
			}
			c, more := <-s.next
			if !more {
				return
			}
			s.reset(c)
		}
	})
}
