package main

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/balancer/recorder"
	"stoker/config"
	"stoker/internal/crash"
	"stoker/supervisor"
)

// postmortem writes a crash report of every death. A worker's goroutine tells
// it and goes on at once: what takes time, and the disk, which may be full,
// read-only or hang, have a goroutine of their own and make no restart wait.
type postmortem struct {
	store      *crash.Store
	generation int
	recorder   *recorder.Recorder // nil: suspects are not known
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
		store:      &crash.Store{Dir: m.cfg.CrashDir(), Keep: c.Keep, Size: int64(c.SizeMiB) << 20},
		generation: m.inherit.generation(),
		recorder:   m.recorder,
		pools:      func() []supervisor.PoolStatus { return m.sup.Status() },
		log:        m.log.Named("crashes"),
		metrics:    newCrashMetrics(r),
	}
}

// begin starts to write what hear is told.
func (p *postmortem) begin() {
	p.deaths, p.done = make(chan death, deathQueue), make(chan struct{})
	go func() {
		defer close(p.done)
		if err := p.store.Check(); err != nil {
			p.log.Warn("crash reports will not be written", "error", err, "advice", "name another state_dir")
		}
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
	if !d.Watched {
		p.metrics.died(&d) // else its owner has counted it
	}
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
		ID: d.id, Version: version, Generation: p.generation, Death: d.Death,
		Pool: p.poolState(d.Pool), Suspects: p.recorder.Suspects(d.Worker, d.Moment()),
		Recorded: p.recorder != nil,
	}
	p.metrics.suspects.WithLabelValues(d.Pool).Add(float64(len(r.Suspects)))
	if d.Watched && len(r.Suspects) == 0 {
		return // nothing that the owner's report lacks
	}
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
	command := "stoker crashes " + id
	if m.cfg.RunDir != config.DefaultRunDir() {
		command += " --run-dir " + m.cfg.RunDir
	}
	return []any{"see", command}
}

// heldOutput is how long an engine has to live for its output to be logged, if the
// one before it has died: longer than the imports after which most fail.
const heldOutput = 5 * time.Second

// holdOutput is heldOutput where there are reports that have the output instead.
func holdOutput(cfg *config.Config) time.Duration {
	if cfg.Crashes.Keep == 0 {
		return 0
	}
	return heldOutput
}

// linkState lets whoever knows the run directory find the state directory.
func linkState(cfg *config.Config) error {
	link := cfg.StateLink()
	if cfg.StateDir == cfg.RunDir {
		return ignoreAbsent(os.Remove(link))
	}
	temp := link + ".new"
	if err := ignoreAbsent(os.Remove(temp)); err != nil {
		return err
	}
	if err := os.Symlink(cfg.StateDir, temp); err != nil {
		return err
	}
	return os.Rename(temp, link)
}

func ignoreAbsent(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Deaths that this generation has seen from its requests alone: how long it
// waits for the word of them, and how often it looks.
const (
	witnessLimit = time.Second
	witnessEvery = 20 * time.Millisecond
)

// awaitWord gives those who watch engines the time to hear of a death whose
// requests have just broken off: with them this generation's work is done, and a
// moment later nobody here would hear of it.
func (m *master) awaitWord() {
	for limit := time.Now().Add(witnessLimit); time.Now().Before(limit) && m.doubtful(); {
		time.Sleep(witnessEvery)
	}
}

// doubtful says whether an engine that is watched has just failed requests.
func (m *master) doubtful() bool {
	for _, pool := range m.sup.Status() {
		for i := range pool.Workers {
			w := &pool.Workers[i]
			if w.State == supervisor.Watching && len(m.recorder.Suspects(w.Name, time.Now())) > 0 {
				return true
			}
		}
	}
	return false
}
