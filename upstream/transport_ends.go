package upstream

import (
	"sync"

	"stoker/internal/rawconn"
)

// ends watches, for the end of their input, the connections that have carried a
// stream: see rawconn's ReadOn. The watch is there while one of them is.
type ends struct {
	mu    sync.Mutex
	watch *rawconn.Watch // nil while none is watched
	links int
}

// add has l watched. Without a watch, for want of descriptors, reading costs one
// system call more.
func (e *ends) add(l *link, conn *rawconn.Conn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.watch == nil {
		w, err := rawconn.NewWatch()
		if err != nil {
			return
		}
		e.watch = w
	}
	if l.watched = conn.WatchEnd(e.watch) == nil; l.watched {
		e.links++
	}
	e.trim()
}

// close closes l, and forgets it.
func (e *ends) close(l *link) {
	_ = l.conn.Close()
	if !l.watched {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	spliceable(l.conn).UnwatchEnd(e.watch)
	l.watched = false
	e.links--
	e.trim()
}

// trim ends a watch over nothing. The lock is held; who is told takes none.
func (e *ends) trim() {
	if e.links == 0 {
		e.watch.Close()
		e.watch = nil
	}
}
