package supervisor

import "time"

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
	// PID is the engine's first process, 0 when none runs.
	PID int `json:"pid"`
	// KeeperPID is the process that owns the engine, 0 when none runs.
	KeeperPID int `json:"keeper_pid"`
	// Address is where the engine listens ("unix:/PATH" or "127.0.0.1:PORT"), empty when none runs.
	Address  string `json:"address"`
	InFlight int    `json:"in_flight"`
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
	Weight   int         `json:"weight"`
}

// Status is a snapshot of all pools, in the order of the configuration. It
// informs; nothing may be decided from it but by the workers themselves.
func (s *Supervisor) Status() []PoolStatus {
	pools := make([]PoolStatus, 0, len(s.pools))
	for _, p := range s.pools {
		status := PoolStatus{
			Name:    p.name,
			Workers: make([]WorkerStatus, 0, len(p.workers)),
			Servers: make([]ServerStatus, 0, len(p.servers)),
		}
		for _, w := range p.workers {
			status.Workers = append(status.Workers, w.status())
		}
		for _, server := range p.servers {
			status.Servers = append(status.Servers, ServerStatus{
				Name: server.config.Name, Address: server.config.Address, State: server.State(),
				InFlight: server.member.InFlight(), Weight: server.config.Weight,
			})
		}
		pools = append(pools, status)
	}
	return pools
}

func (w *worker) status() WorkerStatus {
	facts := w.published.Load()
	return WorkerStatus{
		Name: w.name, State: facts.state, PID: facts.pid, KeeperPID: facts.keeperPID, Address: facts.address,
		InFlight: w.member.InFlight(), Restarts: facts.restarts, Since: facts.since, LastExit: facts.lastExit,
	}
}

// Ready counts the workers and servers that are in a pool, and all that the
// configuration wants there: servers marked down are not among them.
func (s *Supervisor) Ready() (ready, total int) {
	for _, p := range s.pools {
		for _, w := range p.workers {
			total++
			if w.published.Load().state == Ready {
				ready++
			}
		}
		for _, server := range p.servers {
			switch server.State() {
			case ServerReady:
				ready++
				total++
			case ServerUnknown, ServerUnhealthy:
				total++
			case ServerDown:
			}
		}
	}
	return ready, total
}
