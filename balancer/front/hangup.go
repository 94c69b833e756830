package front

import "time"

const (
	// watchAfter is how long the first request of a connection may take until that
	// is watched. Most that bring one of their own are answered before, and are
	// spared a system call; who waits for so long does not see the difference.
	watchAfter = 5 * time.Millisecond
	// watchAtOnce is how many are looked at under the front's lock at a time.
	watchAtOnce = 256
)

// latecomers are connections that are not watched yet and have a request.
type latecomers struct {
	conns []*conn
	timer *time.Timer
	armed bool
}

// watchLate has c watched, at its first request only if that takes long. f.mu is held.
func (f *Front) watchLate(c *conn) {
	switch {
	case c.watched:
		return
	case c.used: // also if it is late: see watchSlow
		f.watch(c)
		return
	}
	c.used, c.late = true, true
	f.late.conns = append(f.late.conns, c)
	f.late.arm(watchAfter, f.watchSlow)
}

// watch has hungUp told. f.mu is held.
func (f *Front) watch(c *conn) {
	// Without it, for want of memory in the kernel, a hang-up is seen only when
	// something is written: better late than never.
	var err error
	c.hangupID, err = f.hangups.Add(c.raw, c)
	c.watched = err == nil
	if c.watched && c.tls == nil {
		c.raw.EndIsTold()
	}
}

func (l *latecomers) arm(after time.Duration, look func()) {
	switch {
	case l.armed:
	case l.timer == nil:
		l.timer = time.AfterFunc(after, look)
	default:
		l.timer.Reset(after)
	}
	l.armed = true
}

// watchSlow watches those whose request has taken long, and forgets those whose
// request is over.
func (f *Front) watchSlow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late.armed = false
	now := time.Now()
	some := f.late.conns[:min(len(f.late.conns), watchAtOnce)]
	rest := f.late.conns[len(some):]
	var young []*conn
	for _, c := range some {
		switch {
		case c.now == nil, c.watched:
			c.late = false // also if it is gone: it must not be watched then
		case now.Sub(c.now.Record.Start) < watchAfter:
			young = append(young, c)
		default:
			c.late = false
			f.watch(c)
		}
	}
	switch left := append(young, rest...); {
	case len(left) == 0:
		clear(f.late.conns)
		f.late.conns = f.late.conns[:0]
		return
	case len(rest) > 0:
		f.late.conns = left
		f.late.arm(time.Millisecond, f.watchSlow)
	default:
		f.late.conns = left
		f.late.arm(watchAfter, f.watchSlow)
	}
}
