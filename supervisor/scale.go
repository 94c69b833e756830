package supervisor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"stoker/config"
)

// Scale gives a pool of workers another number of them: new ones get the
// lowest free indices and are started at once; the highest are drained, ended
// and forgotten. c is the validated configuration with that number, which is
// the supervisor's from now on. Its errors change nothing.
func (s *Supervisor) Scale(ctx context.Context, pool string, c *config.Config) (*Report, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	t, err := s.find(pool)
	if err != nil {
		return nil, err
	}
	if t.pool.name != pool || t.pool.config.Remote() {
		return nil, fmt.Errorf("%s is no pool of workers", pool)
	}
	if _, err := assignDevices(c.Pools, visibleDevices); err != nil {
		return nil, err
	}
	at := slices.IndexFunc(c.Pools, func(p config.Pool) bool { return p.Name == pool })
	s.log.Info("scaled by an operator", "pool", pool, "workers", c.Pools[at].Workers)
	began := time.Now()
	ctx, done, err := s.takeTurn(ctx, t.pool)
	if err != nil {
		return nil, err
	}
	defer done()
	s.mu.Lock()
	s.config, t.pool.config = c, &c.Pools[at]
	s.mu.Unlock()
	report := &Report{Members: s.resize(ctx, t.pool)}
	report.Seconds = time.Since(began).Seconds()
	return report, nil
}

// resize adds and removes posts until there are as many as the pool's configuration says.
func (s *Supervisor) resize(ctx context.Context, p *poolWorkers) []MemberReport {
	s.mu.Lock()
	want := p.config.Workers
	if p.config.Remote() {
		want = 0
	}
	var added []*post
	for index := 0; len(p.posts) < want; index++ {
		if !slices.ContainsFunc(p.posts, func(q *post) bool { return q.index == index }) {
			added = append(added, s.addPost(p, index))
		}
	}
	surplus := p.posts[want:]
	s.mu.Unlock()
	reports := s.removeAll(ctx, surplus)
	begun := make([]MemberReport, len(added))
	var all sync.WaitGroup
	for i, q := range added {
		all.Go(func() { begun[i] = s.beginWorker(ctx, q) })
	}
	all.Wait()
	return append(reports, begun...)
}

// removeAll drains, ends and forgets posts, all at once.
func (s *Supervisor) removeAll(ctx context.Context, posts []*post) []MemberReport {
	s.mu.Lock()
	for _, q := range posts {
		q.leaving = true
	}
	s.mu.Unlock()
	reports := make([]MemberReport, len(posts))
	var all sync.WaitGroup
	for i, q := range posts {
		all.Go(func() { reports[i] = s.removeWorker(ctx, q) })
	}
	all.Wait()
	return reports
}

// removeWorker ends a post's worker, and forgets the post if nothing is left of it.
func (s *Supervisor) removeWorker(ctx context.Context, q *post) MemberReport {
	// Not by ctx: a post that is leaving must go to its end.
	m := s.endWorker(context.WithoutCancel(ctx), q, request{wish: wishStop, drain: true})
	if m.Error != "" {
		return m // it stays in sight: its processes are still there
	}
	s.removePost(q)
	m.Text = "removed; " + m.Text
	return m
}
