package supervisor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// # What operators ask for
//
// A wish of an operator belongs to the post, not to the worker: it outlasts
// exits, probes, rolling changes and reloads, and shows in Status.
//
//	operation  a worker's post                                a remote server
//	drain      held; the worker is asked to drain and stop;   held: out of the pool, not
//	           nothing starts here until resume or restart    probed; its requests finish
//	stop       the same without letting requests finish       the same, without waiting
//	resume     not held any more; the next worker begins      probed again, let in when well
//	           once the last one has ended, and gets ready
//	restart    one post after another: drain, stop, next      let in again
//	           worker, ready, before the next post's turn
//
// The worker's goroutine alone acts; an operation asks it and waits for what
// it publishes. Two operations on one post need no order between them: the
// later one's wish is in held, and each start looks at that under the lock.

// target is what a name means: a pool's posts and servers, or one of them.
type target struct {
	pool    *poolWorkers
	posts   []*post
	remotes []*remote
	names   []*dnsName // all of whose addresses are meant, later ones too
}

// find resolves the name of a pool, a worker or a server.
func (s *Supervisor) find(name string) (target, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make([]string, 0, len(s.pools))
	for _, p := range s.pools {
		if p.name == name {
			return target{p, p.posts, p.remote, p.names}, nil
		}
		known = append(known, p.name)
	}
	for _, p := range s.pools {
		for _, q := range p.posts {
			if q.name == name {
				return target{pool: p, posts: []*post{q}}, nil
			}
			known = append(known, q.name)
		}
		for _, n := range p.names {
			if n.config.Name == name {
				t := target{pool: p, names: []*dnsName{n}}
				for _, r := range p.remote {
					if r.seat.name == n {
						t.remotes = append(t.remotes, r)
					}
				}
				return t, nil
			}
			known = append(known, n.config.Name)
		}
		for _, r := range p.remote {
			if r.server.config.Name == name {
				return target{pool: p, remotes: []*remote{r}}, nil
			}
			known = append(known, r.server.config.Name)
		}
	}
	return target{}, &UnknownNameError{Name: name, Known: known}
}

// Drain takes a worker, a server or all of a pool out, lets the requests there
// finish for limit at most (0: the pool's drain_timeout), or go on elsewhere where
// they can and migrate, or the pool's policy, wants it, and ends engines as
// pools.stop says. They stay so until Resume or Restart. It returns when that
// is done; the error is an *UnknownNameError, anything else is in the report.
func (s *Supervisor) Drain(ctx context.Context, name string, limit time.Duration, migrate bool) (*Report, error) {
	return s.hold(ctx, name, request{wish: wishStop, drain: true, limit: limit, migrate: migrate})
}

// StopNow is Drain without letting requests finish.
func (s *Supervisor) StopNow(ctx context.Context, name string) (*Report, error) {
	return s.hold(ctx, name, request{wish: wishStop})
}

func (s *Supervisor) hold(ctx context.Context, name string, r request) (*Report, error) {
	t, err := s.find(name)
	if err != nil {
		return nil, err
	}
	s.log.Info("stopped by an operator until resumed", "name", name, "drain", r.drain)
	s.mu.Lock()
	for _, q := range t.posts {
		q.held = true
	}
	for _, n := range t.names {
		n.held = true
	}
	s.mu.Unlock()
	s.saveHeld()
	report := s.together(t,
		func(q *post) MemberReport { return s.endWorker(ctx, q, r) },
		func(m *remote) MemberReport { return m.drain(ctx, r) })
	s.saveHeld() // servers are held only now
	return report, nil
}

// together does the same to all of a target at once.
func (s *Supervisor) together(t target, one func(*post) MemberReport, other func(*remote) MemberReport) *Report {
	began := time.Now()
	report := &Report{Members: make([]MemberReport, len(t.posts)+len(t.remotes))}
	var all sync.WaitGroup
	for i, q := range t.posts {
		all.Go(func() { report.Members[i] = one(q) })
	}
	for i, r := range t.remotes {
		all.Go(func() { report.Members[len(t.posts)+i] = other(r) })
	}
	all.Wait()
	report.Seconds = time.Since(began).Seconds()
	return report
}

// endWorker asks a post's worker to stop and waits for its end.
func (s *Supervisor) endWorker(ctx context.Context, q *post, r request) MemberReport {
	s.mu.Lock()
	w := q.worker
	s.mu.Unlock()
	if w == nil {
		return MemberReport{Pool: q.pool.name, Name: q.name, State: string(Stopped), Text: "nothing was running"}
	}
	began, ran := time.Now(), w.published.Load().pid != 0
	w.asked.Store(true)
	w.ask(ctx, r)
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	m := q.report(w)
	m.stopped(w.published.Load(), ran, time.Since(began))
	return m
}

// Resume lets a worker, a server or all of a pool run and serve again, and
// returns when they are ready or are found not to become so.
func (s *Supervisor) Resume(ctx context.Context, name string) (*Report, error) {
	t, err := s.find(name)
	if err != nil {
		return nil, err
	}
	s.log.Info("resumed by an operator", "name", name)
	s.release(t)
	defer s.saveHeld()
	return s.together(t,
		func(q *post) MemberReport {
			s.awaitEnd(ctx, q)
			return s.beginWorker(ctx, q)
		},
		func(r *remote) MemberReport { return r.resume() }), nil
}

// release takes back what operators have said of a target.
func (s *Supervisor) release(t target) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, q := range t.posts {
		q.held = false
	}
	for _, n := range t.names {
		n.held = false
		clear(n.away)
	}
	for _, r := range t.remotes {
		if n := r.seat.name; n != nil {
			delete(n.away, r.seat.Name)
		}
	}
}

// awaitEnd waits for a worker that has been asked to stop; another goes on.
func (s *Supervisor) awaitEnd(ctx context.Context, q *post) {
	s.mu.Lock()
	w := q.worker
	s.mu.Unlock()
	if w == nil || !w.asked.Load() {
		return
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
}

// Restart replaces the engine of a worker, or of every worker of a pool one by
// one: the next is drained when the last is ready again. It stops at the first
// that does not become ready. Servers are let in again.
func (s *Supervisor) Restart(ctx context.Context, name string) (*Report, error) {
	t, err := s.find(name)
	if err != nil {
		return nil, err
	}
	s.log.Info("restarted by an operator", "name", name)
	if name != t.pool.name {
		s.release(t)
	}
	defer s.saveHeld()
	began := time.Now()
	report := s.together(target{remotes: t.remotes}, nil, func(r *remote) MemberReport { return r.resume() })
	if len(t.posts) > 0 {
		ctx, done, err := s.takeTurn(ctx, t.pool)
		if err != nil {
			report.Members = append(report.Members, MemberReport{Pool: t.pool.name, Name: name, Error: err.Error(), Text: "not restarted"})
		} else {
			report.Members = append(report.Members, s.change(ctx, t.pool, t.posts)...)
			done()
		}
	}
	report.Seconds = time.Since(began).Seconds()
	return report, nil
}

// takeTurn waits until no other rolling change of the pool goes on. The
// context that it returns ends when a reload supersedes this one.
func (s *Supervisor) takeTurn(ctx context.Context, p *poolWorkers) (context.Context, func(), error) {
	select {
	case p.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	case <-s.ctx.Done():
		return nil, nil, errEnding
	}
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(s.ctx, func() { cancel(errEnding) })
	s.mu.Lock()
	p.supersede = cancel
	s.mu.Unlock()
	return ctx, func() {
		s.mu.Lock()
		p.supersede = nil
		s.mu.Unlock()
		unhook()
		cancel(nil)
		<-p.busy
	}, nil
}

// drain takes the server out and waits for its requests.
func (r *remote) drain(ctx context.Context, ask request) MemberReport {
	r.hold(true)
	r.s.mu.Lock()
	server := r.server
	r.s.mu.Unlock()
	m := MemberReport{Pool: r.pool.name, Name: server.config.Name, State: string(server.State()), Text: "out of the pool"}
	if !ask.drain {
		return m
	}
	limit := ask.limit
	if limit == 0 {
		limit = server.pool.DrainTimeout.Std()
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	r.member.Dismiss()
	if ask.migrate {
		r.member.Move()
	}
	err := r.member.WaitIdle(ctx)
	m.DrainSeconds = time.Since(began).Seconds()
	if left := r.member.InFlight(); err != nil && left > 0 {
		m.Error = fmt.Sprintf("%d requests still run on it after %s; they go on", left, readable(limit))
		return m
	}
	m.Text += fmt.Sprintf(", idle after %s", readable(time.Since(began)))
	return m
}

// resume lets the server in again, once it answers its probes.
func (r *remote) resume() MemberReport {
	r.hold(false)
	r.s.mu.Lock()
	server := r.server
	r.s.mu.Unlock()
	m := MemberReport{Pool: r.pool.name, Name: server.config.Name, State: string(server.State()), Text: "probed; serves when it is well"}
	if server.config.Down {
		m.Text, m.Error = "stays out", "the configuration says down = true: change that and reload"
	}
	return m
}

// names of posts, for the log.
func names(posts []*post) string {
	list := make([]string, len(posts))
	for i, q := range posts {
		list[i] = q.name
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}
