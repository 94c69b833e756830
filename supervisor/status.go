package supervisor

import (
	"time"

	"stoker/upstream"
)

// PoolStatus is how a pool's upstreams are at one moment.
type PoolStatus struct {
	Name    string         `json:"name"`
	Workers []WorkerStatus `json:"workers"`
	Servers []ServerStatus `json:"servers"`
}

// WorkerStatus is how one worker is.
type WorkerStatus struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Wish is "run", or "stop" when an operator has drained or stopped it: it
	// stays so until it is resumed.
	Wish string `json:"wish"`
	// PID is the engine's first process, 0 when none runs.
	PID int `json:"pid"`
	// KeeperPID is the process that owns the engine, 0 when none runs.
	KeeperPID int `json:"keeper_pid"`
	// Address is where the engine listens ("unix:/PATH" or "127.0.0.1:PORT"), empty when none runs.
	Address  string `json:"address"`
	InFlight int    `json:"in_flight"`
	// Breaker keeps requests from a worker on which they fail in a row.
	Breaker upstream.BreakerState `json:"breaker"`
	// Health is how a ready worker is judged; null for the others.
	Health *Health `json:"health"`
	// Load is what its engine says of its own; absent while nothing is known.
	Load *Load `json:"load,omitempty"`
	// Restarts since this master began.
	Restarts int `json:"restarts"`
	// Since when the worker is in State.
	Since time.Time `json:"since"`
	// LastExit is how the engine before ended; null when none has.
	LastExit *ExitStatus `json:"last_exit"`
}

// ServerStatus is how one remote server is.
type ServerStatus struct {
	Name     string      `json:"name"`
	Address  string      `json:"address"`
	State    ServerState `json:"state"`
	InFlight int         `json:"in_flight"`
	// Breaker keeps requests from a server on which they fail in a row.
	Breaker upstream.BreakerState `json:"breaker"`
	// Health is how it is judged; null before it is probed, and if it is not.
	Health *Health `json:"health"`
	// Load is what its engine says of its own; absent while nothing is known.
	Load   *Load `json:"load,omitempty"`
	Weight int   `json:"weight"`
	// Tier is 0 for a server that serves first; another serves only while none of a lower tier can.
	Tier int `json:"tier"`
	// Wish is "run", or "stop" when an operator has drained it.
	Wish string `json:"wish"`
}

// Load is what an engine says of its own load.
type Load struct {
	// Pressure is under or over, by the thresholds of the configuration.
	Pressure string `json:"pressure"`
	// Waiting requests and the share of the KV cache in use, 0 to 1; null where
	// the engine does not say.
	Waiting    *float64 `json:"waiting"`
	CacheUsage *float64 `json:"cache_usage"`
}

// loadOf is nil while nothing is known.
func loadOf(m member) *Load {
	l := m.Load()
	if l.Pressure == upstream.PressureUnknown {
		return nil
	}
	known := &Load{Pressure: l.Pressure.String()}
	if l.Waiting >= 0 {
		known.Waiting = &l.Waiting
	}
	if l.CacheUsage >= 0 {
		known.CacheUsage = &l.CacheUsage
	}
	return known
}

// Status is a snapshot of all pools, in the order of the configuration. It
// informs; nothing may be decided from it but by the workers themselves.
func (s *Supervisor) Status() []PoolStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	pools := make([]PoolStatus, 0, len(s.pools))
	for _, p := range s.pools {
		status := PoolStatus{
			Name:    p.name,
			Workers: make([]WorkerStatus, 0, len(p.posts)),
			Servers: make([]ServerStatus, 0, len(p.remote)),
		}
		for _, q := range p.posts {
			status.Workers = append(status.Workers, q.status())
		}
		for _, r := range p.remote {
			status.Servers = append(status.Servers, ServerStatus{
				Name: r.server.config.Name, Address: r.server.config.Address, State: r.server.State(),
				InFlight: r.member.InFlight(), Breaker: r.member.Breaker(), Health: r.server.judged.Load(), Load: loadOf(r.member), Weight: r.server.config.Weight, Tier: r.seat.tier, Wish: wishText(r.held),
			})
		}
		for _, n := range p.names {
			if len(n.places) == 0 {
				status.Servers = append(status.Servers, n.status())
			}
		}
		pools = append(pools, status)
	}
	return pools
}

// status of a post; the supervisor's lock is held.
func (q *post) status() WorkerStatus {
	status := WorkerStatus{Name: q.name, State: Stopped, Wish: wishText(q.held || q.leaving), InFlight: q.member.InFlight(), Breaker: q.member.Breaker()}
	if q.worker == nil {
		return status // it waits for devices
	}
	facts := q.worker.published.Load()
	status.State, status.PID, status.KeeperPID, status.Address = facts.state, facts.pid, facts.keeperPID, facts.address
	status.Health, status.Load = q.worker.judged.Load(), loadOf(q.member)
	status.Restarts, status.Since, status.LastExit = facts.restarts, facts.since, facts.lastExit
	return status
}

func wishText(held bool) string {
	if held {
		return "stop"
	}
	return "run"
}

// Ready counts the workers and servers that are in a pool, and all that shall
// be there: servers marked down, and what an operator has stopped, are not
// among them.
func (s *Supervisor) Ready() (ready, total int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.pools {
		for _, q := range p.posts {
			serves := q.worker != nil && q.worker.published.Load().state.serves()
			if serves {
				ready++
			}
			if serves || !q.held && !q.leaving {
				total++
			}
		}
		for _, r := range p.remote {
			switch r.server.State() {
			case ServerReady:
				ready++
				total++
			case ServerUnknown, ServerUnhealthy:
				total++
			case ServerDown, ServerDrained, ServerUnresolved:
			}
		}
		for _, n := range p.names {
			if len(n.places) == 0 && !n.held {
				total++
			}
		}
	}
	return ready, total
}
