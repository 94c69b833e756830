package main

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stoker/balancer/recorder"
)

// elder is the generation before this one, as far as this one sees it: who it
// is, and what it still has to do. All zero in a first generation.
type elder struct {
	m     *master
	link  *link
	hello helloMessage

	mu       sync.Mutex
	requests int
	gone     bool

	// counted is closed when its counters are known, or will never be.
	counted     chan struct{}
	countedOnce sync.Once
	// heir takes what it has recorded; told is closed when it has told what it
	// held at first, or never will.
	heir      *recorder.Heir
	told      chan struct{}
	since     time.Time // of our answers on the admin listener
	toldOnce  sync.Once
	following sync.WaitGroup
	// left is closed when it has gone.
	left chan struct{}
}

// olderStatus is a generation in GET /status that finishes its requests.
type olderStatus struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
	InFlight   int    `json:"in_flight"`
}

func newElder(m *master, h *inheritance) *elder {
	return &elder{m: m, link: h.parent, hello: h.hello, gone: h.parent == nil, counted: make(chan struct{}), told: make(chan struct{}), left: make(chan struct{})}
}

// draining says whether it still lives.
func (e *elder) draining() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.gone
}

// status is what operators see of it; empty when it has gone.
func (e *elder) status() []olderStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return nil
	}
	return []olderStatus{{Generation: e.hello.Generation, PID: e.hello.PID, Version: e.hello.Version, InFlight: e.requests}}
}

// follow begins to listen to it, until its end.
func (e *elder) follow() {
	if e.link == nil {
		close(e.counted)
		close(e.told)
		close(e.left)
		return
	}
	e.heir = e.m.recorder.Heir()
	if e.heir == nil || !e.hello.Records {
		e.endTold()
	}
	e.following.Go(func() {
		defer e.end()
		for {
			m, err := e.link.next(nil)
			if err != nil {
				return
			}
			e.hear(m)
		}
	})
}

func (e *elder) hear(m message) {
	switch {
	case m.InFlight != nil:
		e.mu.Lock()
		e.requests = m.InFlight.Requests
		e.mu.Unlock()
		e.m.setElsewhere(m.InFlight.Upstreams)
	case m.End:
		e.m.askEnd()
	case m.Metrics != nil:
		e.m.carried.carry(m.Metrics)
		e.countedOnce.Do(func() { close(e.counted) })
	case m.Prompts != nil:
		e.hearPrompts(m.Prompts)
	case m.Recorded != nil:
		for _, t := range m.Recorded.Exchanges {
			e.heir.Take(t)
		}
		if m.Recorded.All {
			e.endTold()
		}
	}
}

func (e *elder) endTold() { e.toldOnce.Do(func() { close(e.told) }) }

// end takes note that it has gone: it has nothing in flight any more.
func (e *elder) end() {
	e.mu.Lock()
	e.gone = true
	e.mu.Unlock()
	e.m.setElsewhere(nil)
	e.countedOnce.Do(func() { close(e.counted) })
	e.heir.End()
	e.endTold()
	close(e.left)
	select {
	case <-e.link.closed: // it is we who end
		return
	default:
	}
	e.m.log.Info("the generation before has ended", "generation", e.hello.Generation, "pid", e.hello.PID)
}

// outlast blocks until it has gone, so that engines are not ended under its
// requests, and nothing of this service outlives it. It began to drain before we
// did; once ctx ends it is told not to wait any longer.
func (e *elder) outlast(ctx context.Context) {
	select {
	case <-e.left:
		return
	case <-ctx.Done():
	}
	select {
	case <-e.left: // as well, and then there is nobody to hurry
		return
	default:
	}
	if err := e.hurry(); err != nil {
		e.m.log.Warn("cannot hurry the generation before; it ends by itself", "pid", e.hello.PID, "error", err)
		return
	}
	limit := time.NewTimer(2 * cutPatience)
	defer limit.Stop()
	select {
	case <-e.left:
	case <-limit.C:
		e.m.log.Warn("the generation before has not ended yet", "pid", e.hello.PID)
	}
}

// hurry sends TERM to it, by a handle that is known to be its: its end of the
// link was open after the handle was.
func (e *elder) hurry() error {
	handle, err := unix.PidfdOpen(e.hello.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(handle) //nolint:errcheck // nothing was written
	if !e.draining() {
		return nil
	}
	return unix.PidfdSendSignal(handle, unix.SIGTERM, nil, 0)
}

// countedLimit bounds the wait for its counters: it leaves its admin listener
// before it sends them, and gives answers there a second.
const countedLimit = 5 * time.Second

// awaitCounters blocks until metrics may be served.
func (e *elder) awaitCounters() {
	defer func() { e.since = time.Now() }()
	limit := time.NewTimer(countedLimit)
	defer limit.Stop()
	select {
	case <-e.counted:
	case <-limit.C:
		e.m.log.Warn("the generation before has not told its counters: those in /metrics begin anew until it does", "pid", e.hello.PID)
	}
}

// toldLimit bounds the wait for what it has recorded: much of it takes a while.
const toldLimit = 2 * time.Second

// awaitRecorded blocks until what it had recorded is known here, or most of it:
// who asks right after an upgrade shall not be told that nothing was asked before.
func (e *elder) awaitRecorded(ctx context.Context) {
	limit := time.NewTimer(time.Until(e.since.Add(toldLimit)))
	defer limit.Stop()
	select {
	case <-e.told:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// close ends the following.
func (e *elder) close() {
	if e.link != nil {
		e.link.close()
	}
	e.following.Wait()
}

// setElsewhere tells the pools what another generation has on their members.
func (m *master) setElsewhere(counts map[string]map[string]int) {
	for name, pool := range m.pools.byName() {
		pool.SetElsewhere(counts[name])
	}
}
