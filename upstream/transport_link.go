package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"stoker/exchange"
	"stoker/internal/rawconn"
)

// link is one connection to an upstream.
type link struct {
	conn wire
	// abort is conn.Abort, bound once.
	abort func()
	// reused: an exchange has gone over it before.
	reused bool
	// watched: ends tells it of its end.
	watched bool
	// since is when it fell idle, idled how long it was when it was last taken.
	since time.Time
	idled time.Duration
	// cut is why somebody else has aborted it; nil: nobody has.
	cut atomic.Pointer[error]
	// tunnel is what it carries, if it carries one; the lock of idleLinks guards it.
	tunnel *tunnel
	// prev and next are those in use beside it, see idleLinks.busy.
	prev, next *link
}

// While a unix socket's accept queue is full, connect fails at once with
// EAGAIN, where TCP would wait: a burst would be answered with errors by an
// engine that is merely busy. These bound how often it is tried again.
const (
	minBacklogWait = time.Millisecond
	maxBacklogWait = 50 * time.Millisecond
)

// dial connects, within ConnectTimeout.
func (t *Transport) dial(ctx context.Context) (*link, error) {
	if t.options.Load().ConnectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.options.Load().ConnectTimeout)
		defer cancel()
	}
	c, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := rawconn.Wrap(c)
	if err != nil {
		return nil, err
	}
	conn.CountReceived(&t.received)
	if t.secure == nil {
		return &link{conn: conn, abort: conn.Abort}, nil
	}
	secured, err := secure(ctx, conn, t.secure)
	if err != nil {
		return nil, err
	}
	return &link{conn: secured, abort: secured.Abort}, nil
}

// dialApart is dial on a stack of its own: what package net needs to connect would
// make the caller's grow to 16 KiB, where it then stays for as long as a stream is
// open. With ten thousand of them that was half of all memory.
func (t *Transport) dialApart(ctx context.Context) (l *link, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		l, err = t.dial(ctx)
	}()
	<-done
	return l, err
}

// connect makes a socket's connection.
func (t *Transport) connect(ctx context.Context) (net.Conn, error) {
	for wait := minBacklogWait; ; wait = min(2*wait, maxBacklogWait) {
		c, err := t.dialer.DialContext(ctx, t.network, t.address)
		if err == nil || t.network != "unix" || !errors.Is(err, syscall.EAGAIN) {
			return c, err //nolint:wrapcheck // it says what was dialed
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w while its accept queue was full", err)
		}
	}
}

// idleLinks holds the connections that wait for their next exchange, the one
// used last on top: the rest grow old together and go, so that their number
// follows the load.
type idleLinks struct {
	max     int
	timeout time.Duration

	mu    sync.Mutex
	links []*link // by age, oldest first
	busy  *link   // the first of the list of those in use
	// leaving is why tunnels are not to stay; nil: they may.
	leaving error
	closed  bool
	// sooner is when the upstream closes idle connections, as far as is known,
	// which is until forget.
	sooner time.Duration
	forget time.Time
	ends   ends
	// pruner runs while links is not empty. Without it, connections that the
	// upstream has closed would keep their descriptors until the next request.
	pruner *time.Timer
	armed  bool
}

func (i *idleLinks) init(limit int, timeout time.Duration) {
	i.max, i.timeout = limit, timeout
}

// take returns the connection used last that is not too old, nil when there is
// none. Whether it is still good shows when it is used, see call.send.
func (i *idleLinks) take(x *exchange.Exchange) *link {
	now := x.Departure()
	for {
		l, young := i.pop(now)
		if l == nil || young {
			return l
		}
		i.drop(l)
	}
}

// learnedFor is how long it is believed that the upstream closes idle
// connections sooner than we do; then it may have been another reason.
const learnedFor = 10 * time.Second

// learn notes that the upstream has closed a connection that was idle for so
// long, or less. A request that is written to one in the moment in which it is
// closed may be lost, so that from now on none is used that is nearly as old.
func (i *idleLinks) learn(idled time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now := time.Now(); now.After(i.forget) || idled/2 < i.sooner {
		i.sooner, i.forget = idled/2, now.Add(learnedFor)
	}
}

// patience is how long a connection may have been idle that is used again. The lock is held.
func (i *idleLinks) patience(now time.Time) time.Duration {
	if i.forget.IsZero() || now.After(i.forget) {
		return i.timeout
	}
	return min(i.sooner, i.timeout)
}

// pop takes the connection used last, and says whether that is not too old.
func (i *idleLinks) pop(now time.Time) (l *link, young bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	last := len(i.links) - 1
	if last < 0 {
		return nil, false
	}
	l = i.links[last]
	i.links[last] = nil
	i.links = i.links[:last]
	i.engage(l)
	l.idled = max(now.Sub(l.since), 0)
	return l, l.idled < i.patience(now)
}

// drop closes a connection that was in use.
func (i *idleLinks) drop(l *link) {
	i.mu.Lock()
	i.release(l)
	i.mu.Unlock()
	i.ends.close(l)
}

// engage notes that l is in use. The lock is held.
func (i *idleLinks) engage(l *link) {
	l.prev, l.next = nil, i.busy
	if i.busy != nil {
		i.busy.prev = l
	}
	i.busy = l
}

// release notes that l is not in use any more. The lock is held.
func (i *idleLinks) release(l *link) {
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		i.busy = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	}
	l.prev, l.next = nil, nil
}

// cut aborts every connection in use, and returns how many there were. Under
// the lock none of them can be closed, and its descriptor be another's.
func (i *idleLinks) cut(cause error) int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := 0
	for l := i.busy; l != nil; l = l.next {
		l.cut.Store(&cause)
		l.abort()
		n++
	}
	return n
}

// put keeps a connection for later, from now on, or closes it.
func (i *idleLinks) put(l *link, now time.Time) {
	l.reused, l.since = true, now
	if !i.push(l) {
		i.ends.close(l)
	}
}

func (i *idleLinks) push(l *link) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.release(l)
	if i.closed || len(i.links) >= i.max || l.cut.Load() != nil {
		return false
	}
	i.links = append(i.links, l)
	i.arm(i.timeout)
	return true
}

// arm makes sure that prune will run. The lock is held.
func (i *idleLinks) arm(after time.Duration) {
	if i.armed {
		return
	}
	i.armed = true
	if i.pruner == nil {
		i.pruner = time.AfterFunc(after, i.prune)
		return
	}
	i.pruner.Reset(after)
}

// prune closes what has waited too long.
func (i *idleLinks) prune() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.armed = false
	old := 0
	for old < len(i.links) && time.Since(i.links[old].since) >= i.timeout {
		i.ends.close(i.links[old])
		old++
	}
	kept := copy(i.links, i.links[old:])
	clear(i.links[kept:])
	i.links = i.links[:kept]
	if kept > 0 {
		i.arm(max(i.timeout-time.Since(i.links[0].since), minPrune))
	}
}

// minPrune keeps the pruner from running for each of many connections that
// fell idle within the same moment.
const minPrune = 100 * time.Millisecond

func (i *idleLinks) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
	if i.pruner != nil {
		i.pruner.Stop()
	}
	for _, l := range i.links {
		i.ends.close(l)
	}
	i.links = nil
}
