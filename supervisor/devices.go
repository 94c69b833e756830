package supervisor

import (
	"context"
	"fmt"
	"slices"

	"stoker/config"
)

// takeDevices gives a post the GPUs that its pool's workers get, from those
// that no other post holds, and keeps what it has if that still fits. While
// too few are free it waits for those of workers that are just leaving.
func (s *Supervisor) takeDevices(ctx context.Context, q *post) error {
	for {
		enough, freed := s.tryDevices(q)
		if enough {
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("no GPU is free for %s: %w", q.name, context.Cause(ctx))
		}
	}
}

// tryDevices is takeDevices without the wait; freed is closed when another try makes sense.
func (s *Supervisor) tryDevices(q *post) (enough bool, freed <-chan struct{}) {
	s.mu.Lock()
	p, all := q.pool.config, s.devices
	s.mu.Unlock()
	if p.GPUsPerWorker > 0 && len(p.GPUs) == 0 && all == nil {
		found := visibleDevices() // slow: a driver is asked
		all = &found
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p = q.pool.config
	if p.GPUsPerWorker > 0 && len(p.GPUs) == 0 && s.devices == nil {
		s.devices = all
	}
	free := s.freeDevices(q, p)
	if kept := len(q.gpus) == p.GPUsPerWorker && !slices.ContainsFunc(q.gpus, func(gpu string) bool { return !slices.Contains(free, gpu) }); kept {
		return true, nil
	}
	if len(free) < p.GPUsPerWorker {
		return false, s.freed
	}
	q.gpus = slices.Clone(free[:p.GPUsPerWorker])
	return true, nil
}

// freeDevices are the GPUs that a post may have: by the same rule as
// assignDevices, less those that others hold. The lock is held.
func (s *Supervisor) freeDevices(q *post, p *config.Pool) []string {
	if p.GPUsPerWorker <= 0 {
		return nil
	}
	taken := make(map[string]bool)
	own := len(p.GPUs) > 0
	s.each(func(other *post) {
		if other == q || own && other.pool != q.pool || !own && len(other.pool.config.GPUs) > 0 {
			return
		}
		for _, gpu := range other.gpus {
			taken[gpu] = true
		}
	})
	from := p.GPUs
	if !own {
		from = s.devices.names
		for _, other := range s.pools {
			for _, gpu := range other.config.GPUs {
				taken[gpu] = true
			}
		}
	}
	var free []string
	for _, gpu := range from {
		if !taken[gpu] {
			free = append(free, gpu)
		}
	}
	return free
}

// giveDevices lets others have a post's GPUs. The lock is held.
func (s *Supervisor) giveDevices(q *post) {
	if len(q.gpus) == 0 {
		return
	}
	q.gpus = nil
	close(s.freed)
	s.freed = make(chan struct{})
}
