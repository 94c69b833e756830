package front

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	// cutGrace is how long a cut request may still take to say so to its client.
	cutGrace = time.Second
	// longestSpread bounds the time over which idle connections are closed:
	// thousands of clients told at once would all come back at once.
	longestSpread = time.Second
)

// The gentle end of a front, in this order, each step bounded by the caller:
// the listeners are closed, WaitAccepted, Drain, CloseIdle (returns when every
// connection has gone), Cut for those who did not finish in time, WaitIdle for a
// moment so that they learn of it, Close.

// Drain lets every answer from now on tell its client that the connection ends
// with it, by "Connection: close"; HTTP/2 clients are told at once, by a GOAWAY,
// to send no more requests over theirs. Those that come all the same are served.
func (f *Front) Drain() {
	if !f.draining.Swap(true) {
		f.sayFarewells()
	}
}

// WaitAccepted returns nil once every Serve has returned, or else the context's cause.
// A connection that had just been accepted when its listener was closed is nobody's
// yet, and CloseIdle could not wait for it: one in forty upgrades under load reset one.
func (f *Front) WaitAccepted(ctx context.Context) error {
	for {
		f.mu.Lock()
		accepting, changed := f.accepting, f.whenChanged()
		f.mu.Unlock()
		if accepting == 0 {
			return nil
		}
		if err := sleep(ctx, 0, changed); err != nil {
			return err
		}
	}
}

// CloseIdle ends connections as they become idle and returns when none is left,
// or with the context's cause. An idle one is kept for grace, so that a request
// which is on its way is still answered (with "Connection: close"), and then
// closed, at a random moment of a short time. A connection on which a request
// is being read or served is not touched. HTTP/2 connections are told by Drain,
// get a GOAWAY with their last stream's number when those requests must have
// come that were on their way, after grace or a second, and are closed a second
// after that stream.
//
// Connections that come later are served, but for HTTP/2 ones.
func (f *Front) CloseIdle(ctx context.Context, grace time.Duration) error {
	f.Drain()
	f.goroutine.Go(func() { f.endHTTP2(ctx, min(grace, longestSpread)) })
	began := time.Now()
	spread := min(grace, longestSpread)
	shares := make(map[*conn]time.Duration)
	for {
		next, left, changed := f.closeDue(began, func(c *conn) time.Duration {
			share, known := shares[c]
			if !known {
				share = time.Duration(rand.Int64N(int64(spread) + 1))
				shares[c] = share
			}
			return grace + share
		})
		if left == 0 {
			return nil
		}
		if err := sleep(ctx, next, changed); err != nil {
			return err
		}
	}
}

// closeDue closes every connection that has been idle since began, or later,
// for as long as it may. It returns when the next one is due (0: none is idle),
// how many connections are left, and a channel that tells of any change.
func (f *Front) closeDue(began time.Time, may func(*conn) time.Duration) (next time.Duration, left int, changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	for c := range f.conns {
		if !c.is(idle) {
			continue
		}
		since := c.since
		if since.Before(began) {
			since = began
		}
		wait := since.Add(may(c)).Sub(now)
		if wait <= 0 {
			f.closeQuiet(c)
			continue
		}
		if next == 0 || wait < next {
			next = wait
		}
	}
	return next, len(f.conns), f.whenChanged()
}

// closeQuiet closes an idle connection unless bytes of a request have just
// come: those are found by the reader, which makes the connection busy.
// The session takes the connection out of f.conns when it sees the end. f.mu is held.
func (f *Front) closeQuiet(c *conn) {
	if c.heard.Load() || c.waiting() {
		return
	}
	f.moveLocked(c, gone)
	if c.tls == nil {
		// Close would wait for who reads, who may just have read a request, and be about
		// to wait for the lock; the session closes it.
		c.Abort()
		return
	}
	_ = c.Close() // it cannot fail in a way that leaves the connection open
}

// waiting says whether bytes wait to be read on c.
func (c *conn) waiting() bool { return c.raw.Waiting() }

// sleep waits until wait is over (0: for ever), changed is closed, or ctx ends,
// which is the only error.
func sleep(ctx context.Context, wait time.Duration, changed <-chan struct{}) error {
	var over <-chan time.Time
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-over:
	case <-changed:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// InFlight is how many requests are being served: those whose head is complete
// and whose handler has not returned.
func (f *Front) InFlight() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests.length
}

// WaitIdle returns nil once no connection has a request, not even a part of a
// head or of an answer, or else the context's cause.
func (f *Front) WaitIdle(ctx context.Context) error {
	for {
		f.mu.Lock()
		busy, changed := f.busy, f.whenChanged()
		f.mu.Unlock()
		if busy == 0 {
			return nil
		}
		if err := sleep(ctx, 0, changed); err != nil {
			return err
		}
	}
}

// Cut ends every request in flight by cancelling its context with cause, and
// returns how many there were. A client that has had nothing of its answer yet
// is told so, within a second; one that has is left with a visibly broken
// connection, or stream.
func (f *Front) Cut(cause error) int {
	f.Drain()
	f.mu.Lock()
	defer f.mu.Unlock()
	for q := f.requests.first; q != nil; q = q.next {
		q.life.end(cause)
	}
	for c := range f.conns {
		if c.is(serving) {
			c.hurry()
		}
	}
	return f.requests.length
}

// hurry ends reads from the client, and soon writes to it: a cancelled context
// wakes nobody who waits for a client that neither sends nor reads. The
// connection ends with the request.
func (c *conn) hurry() {
	c.hurried.Store(true) // before: who sets deadlines meanwhile looks at it after
	now := time.Now()
	// Errors: the connection is closed already.
	_ = c.SetReadDeadline(now)
	_ = c.SetWriteDeadline(now.Add(cutGrace))
}
