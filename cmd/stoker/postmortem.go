package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/balancer/recorder"
	"stoker/internal/crash"
	"stoker/supervisor"
)

// postmortem writes a crash report of every death. A worker's goroutine tells
// it and goes on at once: what takes time, and the disk, which may be full,
// read-only or hang, have a goroutine of their own and make no restart wait.
type postmortem struct {
	store    *crash.Store
	recorder *recorder.Recorder // nil: suspects are not known
	// pools are asked for how a pool is.
	pools   func() []supervisor.PoolStatus
	log     hclog.Logger
	metrics *crashMetrics

	mu     sync.Mutex
	ended  bool
	deaths chan death
	done   chan struct{}

	// failed are the reports that were not written since the last one that was.
	failed atomic.Int64
}

// death is one, and what its report is called.
type death struct {
	supervisor.Death

	id string
}

const (
	// deathQueue is how many deaths wait for a slow disk.
	deathQueue = 64
	// lastReports is how long the end of the master waits for a disk.
	lastReports = 5 * time.Second
)

func newPostmortem(m *master, r prometheus.Registerer) *postmortem {
	c := &m.cfg.Crashes
	return &postmortem{
		store:    &crash.Store{Dir: m.cfg.CrashDir(), Keep: c.Keep, Size: int64(c.SizeMiB) << 20},
		recorder: m.recorder,
		pools:    func() []supervisor.PoolStatus { return m.sup.Status() },
		log:      m.log.Named("crashes"),
		metrics:  newCrashMetrics(r),
	}
}

// begin starts to write what hear is told.
func (p *postmortem) begin() {
	p.deaths, p.done = make(chan death, deathQueue), make(chan struct{})
	go func() {
		defer close(p.done)
		for d := range p.deaths {
			p.report(&d)
		}
	}()
}

// end waits until what was heard of is written, for as long as a disk that
// works can take.
func (p *postmortem) end() {
	p.mu.Lock()
	p.ended = true
	close(p.deaths)
	p.mu.Unlock()
	patience := time.NewTimer(lastReports)
	defer patience.Stop()
	select {
	case <-p.done:
	case <-patience.C:
		p.log.Error("crash reports are lost: the disk does not answer", "dir", p.store.Dir, "waiting", len(p.deaths))
	}
}

// hear is told of a death, and never blocks.
func (p *postmortem) hear(d supervisor.Death, id string) {
	p.metrics.died(&d)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	select {
	case p.deaths <- death{Death: d, id: id}:
	default:
		p.lose(&d, id, errQueueFull)
	}
}

// errQueueFull: engines die faster than the disk takes their reports.
var errQueueFull = errors.New("too many reports wait for the disk")

// report gathers what is known, and writes it.
func (p *postmortem) report(d *death) {
	r := &crash.Report{
		ID: d.id, Version: version, Death: d.Death,
		Pool: p.poolState(d.Pool), Suspects: p.recorder.Suspects(d.Worker, d.Moment()),
		Recorded: p.recorder != nil,
	}
	p.metrics.suspects.WithLabelValues(d.Pool).Add(float64(len(r.Suspects)))
	if err := p.store.Save(r); err != nil {
		p.lose(&d.Death, d.id, err)
		return
	}
	if failed := p.failed.Swap(0); failed > 0 {
		p.log.Info("crash reports are written again", "not_written", failed)
	}
}

// lose gives up a report. One line tells of all that are lost for the same
// while: engines may die in a loop because of the very disk.
func (p *postmortem) lose(d *supervisor.Death, id string, err error) {
	p.metrics.lost.Inc()
	if p.failed.Add(1) > 1 {
		return
	}
	p.log.Error("crash report not written, nor will be others until this is mended", "worker", d.Worker, "crash", id, "error", err,
		"advice", "see to the disk of "+p.store.Dir+", or name another state_dir")
}

// poolState is a pool's workers as they are now; nil when it is no more.
func (p *postmortem) poolState(name string) json.RawMessage {
	for _, status := range p.pools() {
		if status.Name != name {
			continue
		}
		text, err := json.Marshal(status)
		if err != nil {
			return nil
		}
		return text
	}
	return nil
}

// died is the supervisor's word of a death, in the goroutine of its worker: what
// hears it must not block. The id is the crash report's, whether or not one will
// be written; what is returned stands in the line that is logged of the death.
func (m *master) died(d supervisor.Death) []any {
	id := crash.ID(&d)
	for _, hear := range m.mourners {
		hear(d, id)
	}
	if m.postmortem.store.Keep == 0 {
		return nil
	}
	return []any{"see", fmt.Sprintf("stoker crashes %s", id)}
}
