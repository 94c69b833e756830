package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The waits after a failed accept, and how often a shortage is logged.
const (
	firstWait    = 5 * time.Millisecond
	longestWait  = time.Second
	shortageEach = 30 * time.Second
)

// Listener is one socket of a door. The connections that it accepts are
// *rawconn.Conn.
type Listener struct {
	net.Listener
	log    hclog.Logger
	shared bool
	socket socket
	limit  time.Duration // of emptying the queue

	accepted atomic.Uint64
	// served: somebody has called Accept, so that waiting for an empty queue
	// makes sense.
	served atomic.Bool

	closing atomic.Bool
	// over is closed when no further connection can come: by Accept when the
	// kernel says so, else by the end itself. Closing alone ends no wait in
	// Accept, since the queue must still be emptied.
	over     chan struct{}
	overOnce sync.Once

	mu       sync.Mutex
	shortage time.Time // last logged
}

func newListener(log hclog.Logger, ln net.Listener, shared bool) *Listener {
	log = log.With("listen", ln.Addr().String())
	ln = takeOver(log, ln)
	return &Listener{
		Listener: ln,
		log:      log,
		shared:   shared,
		socket:   socketOf(ln),
		limit:    emptying,
		over:     make(chan struct{}),
	}
}

// Accept waits for the next connection. When descriptors or memory run short it
// waits and tries again, logging once in a while, since a front that gave up
// would be deaf for ever and one that tried at once would burn a core. After the
// door's end it returns an error that is [net.ErrClosed].
func (l *Listener) Accept() (net.Conn, error) {
	l.served.Store(true)
	wait := firstWait
	for {
		conn, err := l.acceptOnce()
		if err == nil {
			l.accepted.Add(1)
			return conn, nil
		}
		if !passing(err) {
			return nil, err
		}
		l.reportShortage(err)
		if !l.sleep(wait) {
			return nil, net.ErrClosed
		}
		wait = min(2*wait, longestWait)
	}
}

// acceptOnce is one accept of the open listener, or one of those that empty its queue.
func (l *Listener) acceptOnce() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if !l.closing.Load() {
		return conn, err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		conn, err = l.socket.acceptQueued()
	}
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EINVAL) {
		// Nothing is queued any more, or the socket listens no more.
		l.isOver()
		err = net.ErrClosed
	}
	return conn, err
}

// passing tells whether an accept error is worth another try.
func passing(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM,
		// The connection died in the queue. Linux gives also its network errors
		// to accept; none of them says anything about the listener.
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EPERM,
		syscall.ENETDOWN, syscall.EHOSTDOWN, syscall.ENETUNREACH, syscall.EHOSTUNREACH,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func (l *Listener) reportShortage(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.shortage.IsZero() && time.Since(l.shortage) < shortageEach {
		return
	}
	l.shortage = time.Now()
	hint := "clients wait in the kernel's queue meanwhile"
	if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
		hint = "raise the limit of open files (ulimit -n; LimitNOFILE= in a systemd unit)"
	}
	l.log.Warn("cannot accept connections, trying again", "error", err, "hint", hint)
}

// sleep waits d and tells whether the listener is still wanted.
func (l *Listener) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.over:
		return false
	}
}

func (l *Listener) isOver() { l.overOnce.Do(func() { close(l.over) }) }

// end is the door's end for this listener: filter, empty, close.
func (l *Listener) end(ctx context.Context) error {
	began, before := time.Now(), l.accepted.Load()
	l.closing.Store(true)
	calm, err := l.socket.refuseNew()
	if err != nil {
		l.log.Debug("cannot keep new connections away while the queue empties; some may be reset", "error", err)
	}
	if l.served.Load() {
		l.empty(ctx, calm)
	}
	left := l.socket.queued()
	err = l.socket.shut()
	l.isOver()
	if e := l.Close(); e != nil && !errors.Is(e, net.ErrClosed) {
		err = errors.Join(err, e)
	}

	facts := []any{"took", time.Since(began).Round(time.Millisecond).String(), "accepted_last", l.accepted.Load() - before}
	if left > 0 {
		l.log.Warn("closed with connections that nobody accepted; their clients saw a reset", append(facts, "reset", left)...)
	} else {
		l.log.Info("closed, new clients are refused", facts...)
	}
	if err != nil {
		return fmt.Errorf("close listener %s: %w", l.Addr(), err)
	}
	return nil
}

// empty waits while the fronts accept what is queued, until nothing has come for
// the time calm, nor after no handshake was half-way any more: one that ends between
// the look at the queue and that at handshakes is in neither, and was reset.
func (l *Listener) empty(ctx context.Context, calm time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, l.limit)
	defer cancel()
	every := time.NewTicker(pollEvery)
	defer every.Stop()

	seen, since, whole := l.accepted.Load(), time.Now(), false
	for {
		switch n := l.accepted.Load(); {
		case n != seen || l.socket.queued() > 0:
			seen, since, whole = n, time.Now(), false
		case time.Since(since) < calm:
		case whole:
			return
		default:
			whole = l.socket.halfOpen() == 0
		}
		select {
		case <-ctx.Done():
			return
		case <-l.over:
			return
		case <-every.C:
		}
	}
}

// leave closes our descriptor and touches nothing that others share.
func (l *Listener) leave() error {
	l.closing.Store(true)
	l.isOver()
	if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("leave listener %s: %w", l.Addr(), err)
	}
	l.log.Info("left to the process that shares it")
	return nil
}
