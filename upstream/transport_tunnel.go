package upstream

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/rawconn"
	"stoker/internal/websocket"
)

const (
	// goodbyeTime is how long a client that was told to go may take to do so, and
	// the engine for the rest of a frame before that.
	goodbyeTime = 5 * time.Second
	// partTime is how long one side may take to finish once the other has.
	partTime = 2 * time.Second
)

// tunnel is a WebSocket between a client and an engine. Two goroutines carry it:
// who called Do reads from the engine, another from the client. The first is the
// only one that writes to the client, and the one that decides; whoever wants
// something of it says so in a flag, and wakes it by the engine's read deadline.
//
//	what happens                        to the client              to the engine
//	asked to leave, or idle too long    Close 1001 between two     the client's Close, as it comes
//	                                    frames, then no more       5 s later: cut
//	cut                                 the same, if no frame is   cut
//	                                    half written; then the end
//	the client ends its side            what comes within 2 s      its last bytes, then the end
//	the engine ends its side            its last bytes, then       what comes within 2 s, if it has
//	                                    the end                    said Close and waits for the client's
//	one breaks, or dies                 the end                    the end
type tunnel struct {
	client exchange.Tunnel
	engine wire

	// Of who called Do.
	frames websocket.Frames // to the client
	room   relayRoom
	last   time.Time // that the engine sent something
	why    error     // it must end; nil: it need not
	limit  time.Time // by which it must have ended; zero: none
	said   bool      // that it ends
	parted bool      // one side has ended, and limit says so

	// What others tell.
	leave    atomic.Pointer[error] // asked to leave: why
	cut      atomic.Bool           // asked to end at once
	parting  atomic.Bool           // the client's side is ending, or has ended
	goodbye  atomic.Bool           // the client has said Close
	lastUp   atomic.Int64          // when the client sent something, Unix nanoseconds
	done     chan struct{}         // the client's side has ended
	clientIs error                 // how; to be read after done
}

func newTunnel(engine wire) *tunnel {
	t := &tunnel{engine: engine, last: time.Now(), done: make(chan struct{})}
	t.lastUp.Store(t.last.UnixNano())
	t.room.init()
	return t
}

// clientError is one of writing to the client.
type clientError struct{ error }

func (e *clientError) Unwrap() error { return e.error }

var errTunnelOver = errors.New("the tunnel's time is over")

// relay passes on what the engine sends, beginning with what it has sent already,
// until something ends the tunnel: never nil.
func (t *tunnel) relay(first []byte) error {
	err := t.pass(first)
	if err == nil {
		err = t.wakened()
	}
	for err == nil {
		var n int
		n, err = t.engine.ReadLazily(t.room.get, t.room.free)
		switch {
		case n > 0:
			t.last = time.Now()
			t.heed(t.last) // before what came after it is passed on
			err = t.pass(t.room.got(n))
		case errors.Is(err, os.ErrDeadlineExceeded):
			err = t.wakened()
		}
	}
	return err
}

// pass writes p to the client, and what is left of a large frame with it. Once
// the client has been told to go, nothing more is for it.
func (t *tunnel) pass(p []byte) error {
	for len(p) > 0 && !t.said {
		n := len(p)
		if t.why == nil {
			t.frames.Follow(p)
		} else {
			n = t.frames.Next(p)
		}
		if _, err := t.client.Write(p[:n]); err != nil {
			return &clientError{err}
		}
		p = p[n:]
		if err := t.sayGoodbye(); err != nil {
			return err
		}
	}
	if left := t.frames.Left(); left >= spliceFrom && !t.said && spliceable(t.engine) != nil {
		return t.splice(left)
	}
	return nil
}

// splice moves the rest of a frame. A deadline that ends it is looked at by who
// reads next.
func (t *tunnel) splice(n int64) error {
	moved, err := t.client.Splice(spliceable(t.engine), n)
	t.frames.Skip(moved)
	t.last = time.Now()
	var source *rawconn.SourceError
	switch {
	case errors.As(err, &source) && errors.Is(err, os.ErrDeadlineExceeded):
		return t.sayGoodbye()
	case errors.As(err, &source):
		return err
	case err != nil:
		return &clientError{err}
	case moved < n:
		return io.EOF
	}
	return t.sayGoodbye()
}

// sayGoodbye tells the client to go, once, if it is to and no frame is half
// written, nor a Close.
func (t *tunnel) sayGoodbye() error {
	if t.why == nil || t.said || !t.frames.Between() {
		return nil
	}
	t.said = true
	if t.frames.Closed() {
		return nil
	}
	if _, err := t.client.Write(websocket.GoingAway(reasonOf(t.why))); err != nil {
		return &clientError{err}
	}
	return nil
}

// reasonOf is what the client is told.
func reasonOf(why error) string {
	switch {
	case errors.Is(why, exchange.ErrIdle):
		return "idle for too long"
	case errors.Is(why, exchange.ErrDeadline):
		return "deadline exceeded"
	case errors.Is(why, exchange.ErrShutdown):
		return "server is shutting down"
	}
	return "worker is being stopped"
}

// wakened looks at what has happened besides the engine's bytes, and sets the
// deadline of the next read. An error ends the tunnel.
func (t *tunnel) wakened() error {
	for {
		now := time.Now()
		if err := t.look(now); err != nil {
			return err
		}
		_ = t.engine.SetReadDeadline(t.next(now)) // fails on a closed connection only, as the read will
		if !t.hasNews() {
			return nil
		}
	}
}

func (t *tunnel) look(now time.Time) error {
	if idle := t.client.IdleLimit(); idle > 0 && t.why == nil && now.Sub(t.moved()) >= idle {
		t.askToLeave(exchange.ErrIdle)
	}
	t.heed(now)
	if t.cut.Load() {
		return errTunnelOver // the goodbye is finish's
	}
	if err := t.sayGoodbye(); err != nil {
		return err
	}
	if t.parting.Load() && !t.parted {
		t.parted = true
		if by := now.Add(partTime); t.limit.IsZero() || by.Before(t.limit) {
			t.limit = by
		}
	}
	if t.broken() || !t.limit.IsZero() && !now.Before(t.limit) {
		return errTunnelOver
	}
	return nil
}

// heed takes note that the client is to be asked to go, if it is.
func (t *tunnel) heed(now time.Time) {
	if why := t.leave.Load(); why != nil && t.why == nil {
		t.why, t.limit = *why, now.Add(goodbyeTime)
	}
}

// broken says whether the client's side has ended by an error.
func (t *tunnel) broken() bool {
	select {
	case <-t.done:
		return t.clientIs != nil
	default:
		return false
	}
}

// hasNews says whether something has been told that look has not seen: its
// deadline may just have been overwritten.
func (t *tunnel) hasNews() bool {
	return t.cut.Load() || t.leave.Load() != nil && t.why == nil || t.parting.Load() && !t.parted || t.broken()
}

// next is when to look again if nothing is heard before; zero: then alone.
func (t *tunnel) next(now time.Time) time.Time {
	idle := t.client.IdleLimit()
	switch {
	case !t.limit.IsZero():
		return t.limit
	case idle > 0:
		return now.Add(idle - now.Sub(t.moved()))
	}
	return time.Time{}
}

// moved is when something passed last, in either direction.
func (t *tunnel) moved() time.Time {
	if up := time.Unix(0, t.lastUp.Load()); up.After(t.last) {
		return up
	}
	return t.last
}

// finish is the end of what the engine sends; cut is why somebody here has ended
// it, if somebody has.
func (t *tunnel) finish(err, cut error) error {
	if t.why == nil {
		t.why = cut
	}
	if bye := t.sayGoodbye(); bye != nil {
		return bye
	}
	if !errors.Is(err, io.EOF) || t.why != nil || !t.frames.Closed() || t.goodbye.Load() {
		return err
	}
	// It has said Close and waits for the client's.
	if t.client.CloseWrite() == nil {
		limit := time.NewTimer(partTime)
		defer limit.Stop()
		select {
		case <-t.done:
		case <-limit.C:
		}
	}
	return err
}

// upload passes on what the client sends, in a goroutine of its own until done.
func (t *tunnel) upload() {
	defer t.wake()
	defer close(t.done)
	var frames websocket.Frames
	var room relayRoom
	room.init()
	defer room.give()
	for {
		n, err := t.client.ReadLazily(room.get, room.free)
		if n > 0 {
			t.lastUp.Store(time.Now().UnixNano())
			p := room.got(n)
			frames.Follow(p)
			t.goodbye.Store(frames.Closed())
			if _, err := t.engine.Write(p); err != nil {
				return // the engine's reader finds out what that means
			}
			continue
		}
		// A front that has cut it lets it be read no more; why, endWith is told,
		// perhaps in a moment, as there may be contexts between.
		cut := errors.Is(err, os.ErrDeadlineExceeded) && !t.parting.Load()
		t.parting.Store(true)
		switch {
		case errors.Is(err, io.EOF):
			_ = t.engine.CloseWrite() // else it has gone, which its reader finds
		case !cut:
			t.clientIs = err
		}
		return
	}
}

// wake lets the engine's reader look around.
func (t *tunnel) wake() {
	_ = t.engine.SetReadDeadline(time.Now()) // fails on a closed connection only
}

// askToLeave has the client told to go. The first reason counts.
func (t *tunnel) askToLeave(why error) {
	t.leave.CompareAndSwap(nil, &why)
	t.wake()
}

// endWith ends the tunnel as its exchange's context has.
func (t *tunnel) endWith(cause error) {
	if errors.Is(cause, exchange.ErrClientGone) {
		t.parting.Store(true)
	} else {
		t.leave.CompareAndSwap(nil, &cause)
		t.cut.Store(true)
	}
	t.wake()
}
