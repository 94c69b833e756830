package supervisor

import (
	"context"
	"slices"
	"sync"
)

// resize adds and removes posts until there are as many as the pool's
// configuration says: new ones get the lowest free indices and are started at
// once; the highest are drained, ended and forgotten.
func (s *Supervisor) resize(ctx context.Context, p *poolWorkers) []MemberReport {
	s.mu.Lock()
	want := p.config.Workers
	if p.config.Remote() {
		want = 0
	}
	var added []*post
	// What could not be ended is leaving for good: its index is not used again.
	live := slices.DeleteFunc(slices.Clone(p.posts), func(q *post) bool { return q.leaving })
	surplus := live[min(want, len(live)):]
	for index := 0; len(live)+len(added) < want; index++ {
		if !slices.ContainsFunc(p.posts, func(q *post) bool { return q.index == index }) {
			added = append(added, s.addPost(p, index))
		}
	}
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
