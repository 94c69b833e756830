// Package door owns the sockets that clients connect to, and closes them so
// that nobody is left on the doorstep. It knows nothing of HTTP: it hands
// connections to whoever calls Accept.
//
// # The end of a door
//
// A plain close of a listening TCP socket resets every connection that the
// kernel has already completed but nobody has accepted: under load nearly every
// client sees a reset, which it cannot tell from a request cut half-way, where
// "connection refused" could be retried at once. [Door.Close] therefore goes
// through these steps, all listeners side by side:
//
//  1. release  every other holder of the sockets lets go (BeforeClose). While one
//     of them holds a duplicate, close closes nothing: clients would
//     connect to a socket from which nobody accepts.
//  2. filter   TCP: a socket filter drops each pure SYN, so that no new handshake
//     begins; its sender tries again in a second and is refused.
//     Unix: the path is unlinked and the socket shut for reading, which
//     refuses new connections and leaves the queued ones to be accepted.
//  3. empty    the fronts go on accepting until the queue is empty, no handshake
//     is half-way and 50 ms have passed without a new connection;
//     900 ms at most, so that a dropped SYN's second try is refused and
//     not dropped too.
//  4. close    shutdown, which ends listening for forgotten duplicates as well,
//     then close. Accept returns [net.ErrClosed].
//
// Where the kernel refuses the filter (some sandboxes) step 3 ends as soon as the
// queue is empty: most clients are spared, not all.
//
// Fronts must go on calling Accept until it fails, and must not close their
// listener first: that would be the plain close.
//
// [Door.Leave] is the other end, for a successor that shares the sockets: it
// stops accepting and closes this process's descriptors, nothing more.
package door

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The bounds of step 3. Filter and queue check make the end right; quiet only
// covers what the kernel does not show, a connection between two of its tables.
const (
	quiet     = 50 * time.Millisecond
	emptying  = 900 * time.Millisecond
	pollEvery = 5 * time.Millisecond
)

// Door is a set of listeners that open and close together. Its methods may be
// called by several goroutines at once.
type Door struct {
	log hclog.Logger

	mu        sync.Mutex
	listeners []*Listener
	releases  []release

	end  sync.Once
	done chan struct{}
	err  error // of the end; read after done is closed
}

// release is one other holder of the sockets, and how it lets go.
type release struct {
	holder string
	letGo  func() error
}

// New makes a door without listeners.
func New(log hclog.Logger) *Door {
	return &Door{log: log, done: make(chan struct{})}
}

// Add makes ln part of the door, which takes over its socket: ln itself is closed.
// From now on Close ends it for everybody, and callers accept from what Add
// returns. For a unix socket the door takes over the removal of its path.
func (d *Door) Add(ln net.Listener) *Listener { return d.add(ln, false) }

// AddShared is Add for a socket that another process goes on listening on when
// we are gone, such as a systemd socket unit: Close only leaves it, because a
// filter or a shutdown would last beyond us.
func (d *Door) AddShared(ln net.Listener) *Listener { return d.add(ln, true) }

func (d *Door) add(ln net.Listener, shared bool) *Listener {
	l := newListener(d.log, ln, shared)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = append(d.listeners, l)
	return l
}

// Listeners returns what was added, in that order.
func (d *Door) Listeners() []*Listener {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]*Listener(nil), d.listeners...)
}

// Remove ends one listener as Close ends all, and forgets it. Functions given to
// BeforeClose are not called: whoever else holds this one socket must have let
// go of it.
func (d *Door) Remove(ctx context.Context, l *Listener) error {
	d.mu.Lock()
	d.listeners = slices.DeleteFunc(slices.Clone(d.listeners), func(other *Listener) bool { return other == l })
	d.mu.Unlock()
	if l.shared {
		return l.leave()
	}
	return l.end(ctx)
}

// BeforeClose names another holder of the sockets (a library that keeps
// duplicates for an upgrade, a service manager that stores them) and how to make
// it let go. Close calls letGo before anything else, in the order of the calls
// to BeforeClose; one that fails is reported and does not stop the rest.
func (d *Door) BeforeClose(holder string, letGo func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.releases = append(d.releases, release{holder, letGo})
}

// Close ends the door for every client as the package comment tells. It returns
// when all listeners are closed: after 50 ms in the common case, after one
// second at most. When ctx ends it hurries: what is still queued is reset.
// Only the first call of Close or Leave acts; the others wait for it and return
// its error.
func (d *Door) Close(ctx context.Context) error {
	return d.finish(func() error {
		err := d.letGo()
		return errors.Join(err, d.each(func(l *Listener) error {
			if l.shared {
				return l.leave()
			}
			return l.end(ctx)
		}))
	})
}

// Leave stops accepting and closes this process's descriptors. The sockets live
// on for whoever else holds them, with all connections that are queued; unix
// paths stay. It does not call the BeforeClose functions.
func (d *Door) Leave() error {
	return d.finish(func() error { return d.each((*Listener).leave) })
}

// finish runs the door's one end, or waits for it.
func (d *Door) finish(end func() error) error {
	d.end.Do(func() {
		d.err = end()
		close(d.done)
	})
	<-d.done
	return d.err
}

// letGo makes the other holders let go of the sockets.
func (d *Door) letGo() error {
	d.mu.Lock()
	releases := d.releases
	d.mu.Unlock()

	var errs []error
	for _, r := range releases {
		if err := r.letGo(); err != nil {
			errs = append(errs, fmt.Errorf("close door: make %s let go of its sockets: %w", r.holder, err))
		}
	}
	return errors.Join(errs...)
}

// each does the same to all listeners at once and joins their errors.
func (d *Door) each(do func(*Listener) error) error {
	listeners := d.Listeners()
	errs := make([]error, len(listeners))
	var all sync.WaitGroup
	for i, l := range listeners {
		all.Go(func() { errs[i] = do(l) })
	}
	all.Wait()
	return errors.Join(errs...)
}
