package main

import (
	"context"
	"errors"
	"time"

	"stoker/exchange"
)

// shutdown ends everything, in the one order in which nobody is left on the
// doorstep: say so, close the door, let requests finish, end all engines at
// once, leave. Each step has a bound; a failing step does not keep the later
// ones from running. It returns errForced if requests were cut, or engines or
// anything that they had started killed, or not even that helped.
func (m *master) shutdown(ctx context.Context, signals *signals, reason string) error {
	start := time.Now()
	// The caller's context may be over already: that is one reason to be here.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.current.Load().Shutdown.HardLimit.Std())
	defer cancel()
	patient, stopWaiting := until(ctx, signals.hurry)
	defer stopWaiting()
	gentle, beRough := until(ctx, signals.kill)
	defer beRough()

	// From here on readiness is 503; an outside balancer may need a moment to see it.
	m.enter(draining)
	m.notifier.stopping()
	m.leaving()
	if err := markStop(m.cfg); err != nil {
		m.log.Warn("should this master be killed now, its engines live until orphan_timeout", "error", err)
	}
	m.metrics.shutdownBegan(start)
	m.log.Info("shutting down", "reason", reason, "requests_in_flight", m.front.InFlight(), "drain_timeout", m.current.Load().Shutdown.DrainTimeout.String())
	sleep(patient, m.current.Load().Shutdown.Delay.Std())

	m.obtained.end()
	// Before the door closes: who comes in while it does is told to come once only.
	m.front.Drain()
	if err := m.door.Close(ctx); err != nil {
		m.log.Warn("close door", "error", err)
	}
	m.awaitAccepted(ctx)
	m.cutImpatient()
	m.dismiss()
	dropped := m.drain(ctx, patient)
	m.elder.outlast(patient)

	m.enter(stopping)
	for _, pool := range m.pools.all() {
		pool.Close()
	}
	report := m.sup.Stop(gentle)
	m.scaled.forget()

	if len(report.Forced) > 0 {
		m.log.Warn("engines killed: they, or what they had started, did not end in time", "workers", report.Forced)
	}
	m.front.Close()
	m.log.Info("shutdown complete", "duration", since(start).String(), "requests_dropped", dropped, "engines_killed", len(report.Forced))
	m.admin.close()
	if dropped > 0 || len(report.Forced) > 0 || len(report.Stuck) > 0 {
		return errForced
	}
	return nil
}

// awaitAccepted waits until the front knows all whom a closed door has let in. That
// takes no time; a listener that could not be closed keeps nobody waiting for long.
func (m *master) awaitAccepted(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := m.front.WaitAccepted(ctx); err != nil {
		m.log.Warn("a listener still accepts; who has just come may see a reset", "error", err)
	}
}

// cutImpatient cuts the requests of the pools whose drain policy is not to
// wait. That is as their operator wants it, so it makes no end a forced one.
func (m *master) cutImpatient() {
	cfg, dropped := m.current.Load(), 0
	for _, pool := range m.pools.all() {
		if p := cfg.Pool(pool.Name()); p != nil && p.Drain == "stop" {
			pool.Close() // or those who wait would take the places of those who are cut
			dropped += pool.Cut()
		}
	}
	if dropped > 0 {
		m.metrics.dropped.Add(float64(dropped))
		m.log.Info("requests cut, as drain = stop wants", "requests", dropped)
	}
}

// dismiss asks the clients of WebSockets to go: they end none by themselves.
func (m *master) dismiss() {
	n := 0
	for _, pool := range m.pools.all() {
		n += pool.Dismiss(exchange.ErrShutdown)
	}
	if n > 0 {
		m.log.Info("clients of WebSockets are asked to go", "websockets", n)
	}
}

// cutPatience is how long cut requests may take to tell their clients.
const cutPatience = time.Second

// drain waits until every connection has gone, or patience has, and cuts the
// requests that are left. Idle connections get one last chance meanwhile. It
// returns how many requests were cut.
func (m *master) drain(ctx, patient context.Context) int {
	limited, cancel := context.WithTimeout(patient, m.current.Load().Shutdown.DrainTimeout.Std())
	defer cancel()
	if m.front.CloseIdle(limited, m.current.Load().Shutdown.IdleGrace.Std()) == nil {
		return 0
	}
	dropped := m.front.Cut(exchange.ErrShutdown)
	if dropped == 0 {
		return 0
	}
	m.metrics.dropped.Add(float64(dropped))
	m.log.Warn("requests cut: they did not finish in time", "requests", dropped,
		"hurried", errors.Is(context.Cause(patient), errHurried), "drain_timeout", m.current.Load().Shutdown.DrainTimeout.String())
	ctx, cancel = context.WithTimeout(ctx, cutPatience)
	defer cancel()
	if err := m.front.WaitIdle(ctx); err != nil {
		m.log.Warn("cut requests still hold their connections; they are closed", "error", err)
	}
	return dropped
}

// errHurried: a further signal ended a wait.
var errHurried = errors.New("hurried by a signal")

// until derives a context that also ends, with errHurried, when c is closed.
func until(ctx context.Context, c <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-c:
			cancel(errHurried)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
	}
}

// sleep waits for d, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
