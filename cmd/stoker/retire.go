package main

import (
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"time"

	"stoker/balancer/recorder"
	"stoker/exchange"
	"stoker/internal/failpoint"
)

// How often a generation that finishes its requests looks whether there is news
// for the next one: counts at each tick, counters at every twentieth.
const (
	reportEvery   = 50 * time.Millisecond
	countersEvery = 20
)

// What was recorded is told in pieces, so that counts are not held up by it and
// requests keep their share of the processor.
const (
	// recordsSize is how many bytes of it are told at each tick, and
	// recordsPatience how long making them ready may take.
	recordsSize     = 1 << 20
	recordsPatience = 10 * time.Millisecond
	// recordsLimit bounds what the rest may take when all requests have ended.
	recordsLimit = 2 * time.Second
)

// errLost: the new generation died between Ready and serving.
var errLost = errors.New("the new generation ended before it served; engines live on for the next master that is started in this run directory")

// retire ends this master after an upgrade: the engines are the next
// generation's, and the clients' connections are ours to the end. Nothing is
// cut before shutdown.drain_timeout, and no connection attempt is refused.
func (m *master) retire(ctx context.Context, signals *signals, a *attempt) error {
	failpoint.Hit("old-after-ready")
	start := time.Now()
	reports := m.beginReports(a.link)
	defer a.link.close()
	defer reports.end()

	serving, lost := m.awaitSuccessor(signals, a)
	patient, stopWaiting := m.patience(ctx, signals)
	defer stopWaiting()
	// Before anything else changes: what it would say is not the service's state.
	m.notifier.retire()
	m.succeeded.Store(serving != nil)
	m.enter(draining)
	m.obtained.end()
	m.front.Drain()
	m.admin.leave()
	reports.countersNow()
	closeDoor := m.door.Leave
	if errors.Is(lost, errLost) {
		// Nobody else accepts: clients shall be refused, not left waiting.
		closeDoor = func() error { return m.door.Close(ctx) }
	}
	if err := closeDoor(); err != nil {
		m.log.Warn("leave door", "error", err)
	}
	m.awaitAccepted(ctx)
	m.held.release()
	if serving != nil {
		reports.recordsNow()
		m.log.Info("handed over; finishing the requests that are here", "new_pid", serving.PID, "generation", serving.Generation,
			"requests_in_flight", m.front.InFlight(), "drain_timeout", m.current.Load().Shutdown.DrainTimeout.String())
	}
	failpoint.Hit("old-draining")
	cut := m.finish(ctx, patient)
	m.front.Close()
	m.awaitWord()
	for _, pool := range m.pools.all() {
		pool.Close()
	}
	m.sup.Leave()
	m.log.Info("this generation has ended", "generation", m.inherit.generation(), "duration", since(start).String(), "requests_cut", cut)
	return lost
}

// patience lasts until a signal to end comes that is not passed on.
func (m *master) patience(ctx context.Context, signals *signals) (context.Context, func()) {
	hurried := make(chan struct{})
	stop := make(chan struct{})
	m.jobs.Go(func() {
		select {
		case <-signals.end:
			close(hurried)
		case <-signals.hurry: // the first one was passed on
			close(hurried)
		case <-stop:
		}
	})
	patient, end := until(context.WithoutCancel(ctx), hurried)
	return patient, func() {
		close(stop)
		end()
	}
}

// awaitSuccessor waits until the new generation serves; until then this one
// accepts as ever, since somebody must. A signal to end that comes before is
// meant for both: a service manager, say, does not know yet who is the master.
func (m *master) awaitSuccessor(signals *signals, a *attempt) (*servingMessage, error) {
	limit := time.NewTimer(m.cfg.UpgradeTimeout.Std())
	defer limit.Stop()
	for {
		if s := a.serving; s != nil {
			a.settle(&upgradeResult{
				PID: s.PID, Generation: s.Generation, Version: s.Version,
				Adopted: a.observed, Seconds: time.Since(a.began).Seconds(),
			}, nil)
			return s, nil
		}
		select {
		case got := <-a.link.incoming:
			a.hear(got)
		case <-a.link.ended:
			return nil, m.lostSuccessor(a, errLost)
		case <-limit.C:
			return nil, m.lostSuccessor(a, errors.New("the new generation has taken over and does not serve: it hangs; end it and start another"))
		case sig := <-signals.end:
			m.passOnEnd(a, sig.String())
		case <-signals.hurry:
			a.settle(nil, errEnding)
			return nil, nil //nolint:nilnil // two signals to end are neither
		}
	}
}

// passOnEnd has the new generation end, as soon as it serves.
func (m *master) passOnEnd(a *attempt, reason string) {
	m.leaving()
	m.log.Info("told to end in the middle of an upgrade: so is the new generation", "reason", reason)
	if err := a.link.send(message{End: true}); err != nil {
		m.log.Warn("the new generation cannot be told to end", "error", err)
	}
}

func (m *master) lostSuccessor(a *attempt, err error) error {
	m.log.Error("upgrade failed after its point of no return; this master finishes its requests and ends", "error", err)
	a.settle(nil, err)
	return err
}

// goodbyeTime is how long before the limit the clients of WebSockets are asked to go.
const goodbyeTime = 2 * time.Second

// finish lets requests finish, and cuts what is left at the limit.
func (m *master) finish(ctx, patient context.Context) (cut int) {
	limit := m.current.Load().Shutdown.DrainTimeout.Std()
	limited, cancel := context.WithTimeout(patient, limit)
	defer cancel()
	goodbye := time.AfterFunc(max(limit-goodbyeTime, limit/2), m.dismiss)
	defer goodbye.Stop()
	if m.front.CloseIdle(limited, m.current.Load().Shutdown.IdleGrace.Std()) == nil {
		return 0
	}
	if cut = m.front.Cut(exchange.ErrShutdown); cut == 0 {
		return 0
	}
	m.metrics.dropped.Add(float64(cut))
	m.log.Warn("requests cut: they did not finish in time", "requests", cut, "drain_timeout", m.current.Load().Shutdown.DrainTimeout.String())
	ctx, cancelWait := context.WithTimeout(context.WithoutCancel(ctx), cutPatience)
	defer cancelWait()
	_ = m.front.WaitIdle(ctx) // Close, which follows, ends what is left
	return cut
}

// reports tell the next generation what this one has to do and has counted.
type reports struct {
	m        *master
	link     *link
	stop     chan struct{}
	done     chan struct{}
	counters chan chan struct{}
	// records are closed when the next generation may be told what was recorded.
	records     chan struct{}
	recordsOnce sync.Once
	recorded    *recorder.Handover
	prompts     promptsHandover
	allTold     bool
}

func (m *master) beginReports(l *link) *reports {
	r := &reports{m: m, link: l, stop: make(chan struct{}), done: make(chan struct{}), counters: make(chan chan struct{}), records: make(chan struct{}), recorded: m.recorder.Handover(), prompts: promptsHandover{pools: m.pools.all()}}
	go r.run()
	return r
}

// run sends counts when they have changed. Counters are sent for the first time
// when countersNow says so: before that the admin listener here answers scrapes,
// and the two could contradict each other.
func (r *reports) run() {
	defer close(r.done)
	every := time.NewTicker(reportEvery)
	defer every.Stop()
	var last *inFlightMessage
	counting, recording := false, false
	records := r.records
	for tick := 1; ; tick++ {
		now := r.m.inFlight()
		if last == nil || !now.equal(last) {
			if r.link.send(message{InFlight: now}) != nil {
				r.drainRequests()
				return
			}
			last = now
		}
		if counting && tick%countersEvery == 0 {
			r.sendCounters()
		}
		if recording && !r.sendPrompts() {
			r.sendRecords(recordsPatience)
		}
		select {
		case <-every.C:
		case sent := <-r.counters:
			counting = true
			r.sendCounters()
			close(sent)
		case <-records:
			records, recording = nil, true
		case <-r.stop:
			r.sendAllRecords()
			r.sendCounters()
			_ = r.link.send(message{Bye: true})
			return
		}
	}
}

// drainRequests answers those who wait, when nobody listens any more.
func (r *reports) drainRequests() {
	for {
		select {
		case sent := <-r.counters:
			close(sent)
		case <-r.stop:
			return
		}
	}
}

func (r *reports) sendCounters() {
	encoded, err := r.m.carried.snapshot()
	if err != nil {
		r.m.log.Warn("counters are not passed on to the new generation", "error", err)
		return
	}
	if err := r.link.send(message{Metrics: encoded}); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		r.m.log.Debug("the new generation does not listen any more", "error", err)
	}
}

// sendRecords tells some of what is news, and says whether there is more.
func (r *reports) sendRecords(patience time.Duration) (more bool) {
	news, more := r.recorded.Next(recordsSize, patience)
	all := !more && !r.allTold
	if len(news) == 0 && !all {
		return more
	}
	r.allTold = r.allTold || all
	if err := r.link.send(message{Recorded: &recordedMessage{Exchanges: news, All: all}}); err != nil {
		r.m.log.Debug("the new generation does not listen any more", "error", err)
		return false
	}
	return more
}

// sendAllRecords tells the rest, as far as there is time for it, if anybody
// serves who could be asked for it.
func (r *reports) sendAllRecords() {
	select {
	case <-r.records:
	default:
		return
	}
	for r.sendPrompts() { // as fast as it is read: some megabytes
	}
	for limit := time.Now().Add(recordsLimit); r.sendRecords(recordsPatience); {
		if time.Now().After(limit) {
			r.m.log.Warn("not all recorded requests were told to the new generation: there was no time", "limit", recordsLimit.String())
			return
		}
	}
}

// recordsNow lets what was recorded be told from now on: before that it would
// take time from the promotion.
func (r *reports) recordsNow() { r.recordsOnce.Do(func() { close(r.records) }) }

// countersNow sends the counters and returns when that is done.
func (r *reports) countersNow() {
	sent := make(chan struct{})
	r.counters <- sent
	<-sent
}

// end sends all a last time.
func (r *reports) end() {
	close(r.stop)
	<-r.done
}

// inFlight is what this generation has to do now.
func (m *master) inFlight() *inFlightMessage {
	now := &inFlightMessage{Requests: m.front.InFlight(), Upstreams: map[string]map[string]int{}}
	for name, pool := range m.pools.byName() {
		counts := map[string]int{}
		for _, member := range pool.Stats().Members {
			if own := member.InFlight - member.Elsewhere; own > 0 {
				counts[member.Name] = own
			}
		}
		if len(counts) > 0 {
			now.Upstreams[name] = counts
		}
	}
	return now
}

func (a *inFlightMessage) equal(b *inFlightMessage) bool {
	return a.Requests == b.Requests && maps.EqualFunc(a.Upstreams, b.Upstreams, maps.Equal[map[string]int, map[string]int])
}
