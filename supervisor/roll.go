package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// A rolling change replaces the workers of some posts, one at a time: the next
// is drained only when the last one's successor is ready. The first successor
// that does not become ready ends it: what is left keeps its old engine, since
// a version that fails once will most likely fail everywhere.

// patienceTries is how many engines of one worker may end before it counts as
// not becoming ready. One may be bad luck: a port taken, memory not free yet.
const patienceTries = 2

// startMargin is what a start may take besides start_timeout.
const startMargin = 30 * time.Second

// errSuperseded: a newer reload takes over.
var errSuperseded = errors.New("superseded by a newer reload, which goes on with it")

// roll replaces the workers of posts, those first that do not serve anyway.
func (s *Supervisor) roll(ctx context.Context, posts []*post) []MemberReport {
	var reports []MemberReport
	for i, q := range s.idleFirst(posts) {
		if err := context.Cause(ctx); err != nil {
			return append(reports, s.kept(s.idleFirst(posts)[i:], err)...)
		}
		m := s.replace(ctx, q)
		reports = append(reports, m)
		if m.Error == "" {
			continue
		}
		rest := posts[:0:0]
		for _, other := range posts {
			if !slices.ContainsFunc(reports, func(done MemberReport) bool { return done.Name == other.name }) {
				rest = append(rest, other)
			}
		}
		if len(rest) > 0 {
			s.log.Error("rolling change stopped: the rest keep their engines as they were", "worker", q.name, "error", m.Error, "kept", names(rest))
		}
		return append(reports, s.kept(rest, fmt.Errorf("%s did not become ready", q.name))...)
	}
	return reports
}

// kept reports on posts that a rolling change did not come to.
func (s *Supervisor) kept(posts []*post, why error) []MemberReport {
	var reports []MemberReport
	for _, q := range posts {
		s.mu.Lock()
		w := q.worker
		s.mu.Unlock()
		m := q.report(w)
		m.Text, m.Error = "kept as it was", "not replaced: "+why.Error()
		reports = append(reports, m)
	}
	return reports
}

// idleFirst puts posts whose worker does not serve before the others.
func (s *Supervisor) idleFirst(posts []*post) []*post {
	s.mu.Lock()
	defer s.mu.Unlock()
	sorted := slices.Clone(posts)
	serves := func(q *post) int {
		if q.worker != nil && q.worker.published.Load().state == Ready {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(sorted, func(a, b *post) int { return serves(a) - serves(b) })
	return sorted
}

// replace drains and ends a post's worker, and has the next one ready.
func (s *Supervisor) replace(ctx context.Context, q *post) MemberReport {
	s.mu.Lock()
	held, before := q.held, q.worker
	s.mu.Unlock()
	if held {
		m := q.report(before)
		m.Text = "left alone: an operator has stopped it"
		return m
	}
	// Not by ctx: once its end has begun, the next one must follow.
	ended := s.endWorker(context.WithoutCancel(ctx), q, request{wish: wishStop, drain: true})
	if ended.Error != "" {
		return ended
	}
	m := s.beginWorker(ctx, q)
	m.DrainSeconds, m.RequestsCut, m.Exit = ended.DrainSeconds, ended.RequestsCut, ended.Exit
	if ended.Exit != nil {
		m.Text = ended.Text + "; " + m.Text
	}
	return m
}

// beginWorker starts the next worker of a post, or finds one there, and waits
// until it is ready.
func (s *Supervisor) beginWorker(ctx context.Context, q *post) MemberReport {
	began := time.Now()
	m := MemberReport{Pool: q.pool.name, Name: q.name, State: string(Stopped)}
	if err := s.takeDevices(ctx, q); err != nil {
		m.Text, m.Error = "not started", err.Error()
		return m
	}
	s.mu.Lock()
	w, err := s.engage(q)
	s.mu.Unlock()
	switch {
	case errors.Is(err, errHeld):
		m.Text = "left alone: an operator has stopped it"
		return m
	case err != nil:
		m.Text, m.Error = "not started", err.Error()
		return m
	}
	err = s.awaitReady(ctx, q, w)
	m = q.report(w)
	if err != nil {
		m.Text, m.Error = "not ready", err.Error()
		return m
	}
	m.Text = fmt.Sprintf("ready after %s, pid %d", readable(time.Since(began)), m.PID)
	if q.isHeld(s) {
		m.Text = "left alone: an operator has stopped it"
	}
	return m
}

// isHeld reports whether an operator has stopped the post.
func (q *post) isHeld(s *Supervisor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return q.held
}

// awaitReady waits until w is ready, or says why it is not going to be.
func (s *Supervisor) awaitReady(ctx context.Context, q *post, w *worker) error {
	limit := time.NewTimer(q.pool.startTimeout(s) + startMargin)
	defer limit.Stop()
	for {
		facts := w.published.Load()
		switch {
		case facts.state == Ready:
			return nil
		case facts.state.terminal() && q.isHeld(s):
			return nil
		case facts.state == Stopped:
			return errors.New("it was stopped meanwhile")
		case facts.state.terminal():
			return fmt.Errorf("it is %s: %s", facts.state, facts.why.text)
		case facts.state == Backoff && facts.failures >= patienceTries:
			return fmt.Errorf("%d engines ended before one was ready, the last one: %s; it is tried again and again", facts.failures, facts.why.text)
		}
		select {
		case <-facts.changed:
		case <-limit.C:
			return fmt.Errorf("it is still %s; see its output in the log", facts.state)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// startTimeout is the pool's present one.
func (p *poolWorkers) startTimeout(s *Supervisor) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return p.config.StartTimeout.Std()
}
