package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"stoker/config"
	"stoker/supervisor"
)

// Operators change what runs by POST to the admin socket: /drain, /resume,
// /restart, /stop, /scale, /reload, /upgrade and /shutdown, each with an order as JSON.
// The answer comes when it is done. The TCP listener takes none of them:
// whoever reaches a port is not yet an operator, whoever may open the socket is.

// order is what a command asks.
type order struct {
	// Name of a pool, worker or server.
	Name string `json:"name,omitempty"`
	// Timeout of a drain ("45s"); empty: the pool's drain_timeout.
	Timeout string `json:"timeout,omitempty"`
	// Migrate has streams that can go on elsewhere do so at a drain, whatever the
	// pool's policy.
	Migrate bool `json:"migrate,omitempty"`
	// Workers of a pool, for scale.
	Workers int `json:"workers,omitempty"`
	// DryRun: say what would be done.
	DryRun bool `json:"dry_run,omitempty"`
}

// outcome is the answer to every order.
type outcome struct {
	// Message says in one line how it went.
	Message string `json:"message"`
	// Error is why it did not go as asked; empty when it did.
	Error  string             `json:"error,omitempty"`
	Report *supervisor.Report `json:"report,omitempty"`
	// Plan is what a reload changes.
	Plan *config.Plan `json:"plan,omitempty"`
	// Upgrade is who serves now.
	Upgrade *upgradeResult `json:"upgrade,omitempty"`
	// HandedOver: the next generation takes orders, and shall be given this one.
	HandedOver bool `json:"handed_over,omitempty"`
	// refused: the order made no sense. It is the answer's status.
	refused bool
}

// errOrder marks an order that makes no sense.
var errOrder = errors.New("bad order")

// handleControl adds the orders to the admin socket's answers.
func handleControl(mux *http.ServeMux, m *master) {
	for verb, do := range map[string]func(context.Context, order) (*outcome, error){
		"drain":   m.drainOrder,
		"stop":    m.stopOrder,
		"resume":  m.resumeOrder,
		"restart": m.restartOrder,
		"scale":   m.scaleOrder,
		"reload":  m.reloadOrder,
	} {
		mux.HandleFunc("POST /"+verb, func(w http.ResponseWriter, r *http.Request) {
			// An operator who goes away has given the order all the same.
			m.obey(context.WithoutCancel(r.Context()), w, r, m.apartFromUpgrades(do))
		})
	}
	mux.HandleFunc("POST /upgrade", func(w http.ResponseWriter, r *http.Request) {
		m.obey(context.WithoutCancel(r.Context()), w, r, m.upgradeOrder)
	})
	mux.HandleFunc("POST /shutdown", func(w http.ResponseWriter, r *http.Request) {
		if m.gate.passed() && fromSocket(r) {
			m.leaving() // the next generation cannot ask for patience before it serves
		}
		m.obey(context.WithoutCancel(r.Context()), w, r, m.shutdownOrder)
	})
}

// obey reads an order, carries it out and answers.
func (m *master) obey(ctx context.Context, w http.ResponseWriter, r *http.Request, do func(context.Context, order) (*outcome, error)) {
	if !fromSocket(r) {
		writeJSON(w, http.StatusForbidden, outcome{Error: "orders are taken on the admin socket in the run directory only"})
		return
	}
	var o order
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&o); err != nil && !errors.Is(err, io.EOF) {
		writeJSON(w, http.StatusBadRequest, outcome{Error: "read order: " + err.Error()})
		return
	}
	if m.gate.passed() {
		writeJSON(w, http.StatusConflict, outcome{Error: errHandedOver.Error(), HandedOver: true})
		return
	}
	if m.now() != serving {
		writeJSON(w, http.StatusConflict, outcome{Error: "the master is " + m.now().String()})
		return
	}
	done, err := do(ctx, o)
	var unknown *supervisor.UnknownNameError
	var problems config.Problems
	switch {
	case err == nil && done.Error == "":
		writeJSON(w, http.StatusOK, done)
	case err == nil:
		writeJSON(w, http.StatusConflict, done)
	case errors.Is(err, errHandedOver):
		writeJSON(w, http.StatusConflict, outcome{Error: err.Error(), HandedOver: true})
	case errors.As(err, &unknown):
		writeJSON(w, http.StatusNotFound, outcome{Error: err.Error()})
	case errors.Is(err, errOrder), errors.As(err, &problems):
		writeJSON(w, http.StatusBadRequest, outcome{Error: err.Error()})
	default:
		writeJSON(w, http.StatusConflict, outcome{Error: err.Error()})
	}
}

// apartFromUpgrades carries out an order while no upgrade goes on.
func (m *master) apartFromUpgrades(do func(context.Context, order) (*outcome, error)) func(context.Context, order) (*outcome, error) {
	return func(ctx context.Context, o order) (*outcome, error) {
		if err := m.gate.enter(ctx); err != nil {
			return nil, err
		}
		defer m.gate.leave()
		return do(ctx, o)
	}
}

// socketKey marks requests that came over the admin socket.
type socketKey struct{}

func markSocket(ctx context.Context, c net.Conn) context.Context {
	if c.LocalAddr().Network() == "unix" {
		return context.WithValue(ctx, socketKey{}, true)
	}
	return ctx
}

func fromSocket(r *http.Request) bool { return r.Context().Value(socketKey{}) != nil }

func (m *master) drainOrder(ctx context.Context, o order) (*outcome, error) {
	var limit time.Duration
	if o.Timeout != "" {
		var err error
		if limit, err = time.ParseDuration(o.Timeout); err != nil || limit < 0 {
			return nil, fmt.Errorf("%w: timeout %q is no duration such as \"45s\"", errOrder, o.Timeout)
		}
		if limit == 0 {
			return m.stopOrder(ctx, o)
		}
	}
	report, err := m.sup.Drain(ctx, o.Name, limit, o.Migrate)
	return tell("drained", o.Name, report), err
}

func (m *master) stopOrder(ctx context.Context, o order) (*outcome, error) {
	report, err := m.sup.StopNow(ctx, o.Name)
	return tell("stopped", o.Name, report), err
}

func (m *master) resumeOrder(ctx context.Context, o order) (*outcome, error) {
	report, err := m.sup.Resume(ctx, o.Name)
	return tell("resumed", o.Name, report), err
}

func (m *master) restartOrder(ctx context.Context, o order) (*outcome, error) {
	report, err := m.sup.Restart(ctx, o.Name)
	return tell("restarted", o.Name, report), err
}

func (m *master) scaleOrder(ctx context.Context, o order) (*outcome, error) {
	report, err := m.scale(ctx, o.Name, func(int) int { return o.Workers })
	return tell(fmt.Sprintf("scaled to %d:", o.Workers), o.Name, report), err
}

// askEnd asks this master to end, as the signal TERM does.
func (m *master) askEnd() {
	m.leaving() // it may yet have to begin
	m.endOnce.Do(func() { close(m.endAsked) })
}

// shutdownOrder begins the end. The command sees it by itself.
func (m *master) shutdownOrder(context.Context, order) (*outcome, error) {
	m.askEnd()
	return &outcome{Message: "shutting down"}, nil
}

// tell puts a report into one line.
func tell(verb, name string, report *supervisor.Report) *outcome {
	if report == nil {
		return nil
	}
	o := &outcome{Report: report}
	if len(report.Members) == 1 {
		only := report.Members[0]
		o.Message, o.Error = only.Name+": "+only.Text, only.Error
		return o
	}
	failed := report.Failed()
	o.Message = fmt.Sprintf("%s %s: %d of %d in %.1fs", verb, name, len(report.Members)-len(failed), len(report.Members), report.Seconds)
	if len(failed) > 0 {
		o.Error = failed[0].Name + ": " + failed[0].Error
	}
	return o
}

// scale gives a pool the number of workers that follows from the present one.
func (m *master) scale(ctx context.Context, pool string, next func(now int) int) (*supervisor.Report, error) {
	if err := m.resize(pool, next); err != nil {
		return nil, err
	}
	return m.sup.Roll(ctx, pool), nil
}

// resize is the part of scale that takes no time.
func (m *master) resize(pool string, next func(now int) int) error {
	m.changing.Lock()
	defer m.changing.Unlock()
	cfg := m.current.Load()
	p := cfg.Pool(pool)
	switch {
	case p == nil:
		return &supervisor.UnknownNameError{Name: pool, Known: workerPools(cfg)}
	case p.Remote():
		return fmt.Errorf("%w: %s is a pool of servers, which others run", errOrder, pool)
	}
	changed, err := cfg.WithWorkers(pool, next(p.Workers))
	if err != nil {
		return err
	}
	if err := m.sup.Check(changed); err != nil {
		return err
	}
	m.log.Info("scaled", "pool", pool, "workers", changed.Pool(pool).Workers, "before", p.Workers)
	m.current.Store(changed)
	m.scaled.set(pool, p.Workers, changed.Pool(pool).Workers)
	m.sup.Adopt(changed, m.pools.byName())
	return nil
}

// workerPools are the names of the pools that can be scaled.
func workerPools(cfg *config.Config) []string {
	var names []string
	for i := range cfg.Pools {
		if !cfg.Pools[i].Remote() {
			names = append(names, cfg.Pools[i].Name)
		}
	}
	return names
}

// scaleFirst is TTIN and TTOU: one worker more or less in the first pool that has any.
func (m *master) scaleFirst(ctx context.Context, by int) {
	names := workerPools(m.current.Load())
	if len(names) == 0 {
		m.log.Warn("no pool of workers to scale")
		return
	}
	var report *supervisor.Report
	err := m.gate.enter(ctx)
	if err == nil {
		report, err = m.scale(ctx, names[0], func(now int) int { return now + by })
		m.gate.leave()
	}
	if err != nil {
		m.log.Warn("not scaled", "pool", names[0], "error", err)
		return
	}
	done := tell("scaled", names[0], report)
	m.log.Info("scaled by a signal", "pool", names[0], "result", done.Message, "error", done.Error)
}

// adminHandlerFor is what the admin listeners answer.
func adminHandlerFor(m *master) http.Handler {
	mux := adminMux(m)
	handleControl(mux, m)
	return mux
}
