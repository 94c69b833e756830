package config

import (
	"maps"
	"slices"
)

// SameEngine reports whether engines that p has started are what q would
// start: the same command with the same environment, directory, user and
// devices, spoken to in the same protocol. All else that a pool says can be changed while its engines run.
func (p *Pool) SameEngine(q *Pool) bool {
	return slices.Equal(p.Command, q.Command) && maps.Equal(p.Env, q.Env) &&
		p.Dir == q.Dir && p.User == q.User && p.Protocol == q.Protocol &&
		p.GPUsPerWorker == q.GPUsPerWorker && sameDevices(p.dealt(), q.dealt())
}

// sameDevices compares what both deal out: where one has more workers, those
// that both have keep what they have.
func sameDevices(a, b []string) bool {
	both := min(len(a), len(b))
	return slices.Equal(a[:both], b[:both])
}

// dealt are the devices of the pool's own list that its workers get; what the
// list has beyond them is spare.
func (p *Pool) dealt() []string {
	return p.GPUs[:min(len(p.GPUs), p.Workers*p.GPUsPerWorker)]
}

// WithEngineOf is p, but for what engines are started with, which is q's: how
// a worker goes on that has an engine of q until its turn in a rolling change.
func (p *Pool) WithEngineOf(q *Pool) *Pool {
	mixed := *p
	mixed.Protocol = q.Protocol
	mixed.Command, mixed.Env, mixed.Dir, mixed.User = q.Command, q.Env, q.Dir, q.User
	mixed.GPUsPerWorker, mixed.GPUs, mixed.Workers = q.GPUsPerWorker, q.GPUs, q.Workers
	return &mixed
}

// WithWorkers is the configuration with another number of workers in one pool,
// validated. The error is Problems.
func (c *Config) WithWorkers(pool string, workers int) (*Config, error) {
	changed := *c
	changed.Pools = slices.Clone(c.Pools)
	for i := range changed.Pools {
		if changed.Pools[i].Name == pool {
			changed.Pools[i].Workers = workers
		}
	}
	v := newValidator(&changed, origin{flags: map[string]string{}}, nil)
	v.validate()
	if err := v.problems.err(); err != nil {
		return nil, err
	}
	return &changed, nil
}
