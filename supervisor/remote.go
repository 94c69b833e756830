package supervisor

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
)

// ServerState is how a remote server is.
type ServerState string

// The states of a remote server.
const (
	// ServerUnknown: not probed often enough yet. Not in the pool.
	ServerUnknown ServerState = "unknown"
	// ServerUnresolved: its name has no address yet. Nothing of it is in the pool.
	ServerUnresolved ServerState = "unresolved"
	// ServerReady: in the pool.
	ServerReady ServerState = "ready"
	// ServerUnhealthy: out of the pool until its probes are good again.
	ServerUnhealthy ServerState = "unhealthy"
	// ServerDown: the configuration keeps it out. It is not probed.
	ServerDown ServerState = "down"
	// ServerDrained: an operator keeps it out. It is not probed.
	ServerDrained ServerState = "drained"
)

// server is a remote upstream that others run: nothing to start or stop, only
// to ask how it is. One goroutine owns its state.
type server struct {
	config config.Server
	pool   *config.Pool
	log    hclog.Logger
	member member
	checks *checks
	failed func(kind, reason string) // counts failed probes
	judged atomic.Pointer[Health]

	state atomic.Value // ServerState; written by run alone

	cancel context.CancelFunc // ends run; nil before it began
	done   chan struct{}      // closed when run has ended
}

func newServer(p *config.Pool, c config.Server, m member, log hclog.Logger, failed func(kind, reason string)) *server {
	s := &server{
		config: c, pool: p, log: log, member: m, checks: newServerChecks(p, c), failed: failed, done: make(chan struct{}),
	}
	s.state.Store(ServerUnknown)
	if c.Down {
		s.state.Store(ServerDown)
	}
	return s
}

// State may be read by anybody.
func (s *server) State() ServerState { return s.state.Load().(ServerState) }

// run probes until ctx ends. A server that is not known yet is asked as quickly as
// an engine that loads, so that a master that has just started serves at once.
func (s *server) run(ctx context.Context) {
	if state := s.State(); state == ServerDown || state == ServerDrained {
		return
	}
	v := newVigil(s.pool.Health, s.member, s.checks)
	v.failure, v.tell = s.failed, s.judged.Store
	v.warn = func(err error) {
		s.log.Warn("a canary was refused, so that a silent server cannot be told from a hung one: check pools.health.canary, unless the server was full",
			"pool", s.pool.Name, "server", s.config.Name, "error", err)
	}
	defer v.end()
	pause := firstPause
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		kicked := false
		select {
		case <-ctx.Done():
			return
		case <-s.member.Kick():
			kicked = !v.isQuestioned() // else it is out of the pool: see upstream.Member.Refused
		case <-tick.C:
		}
		found := v.hear(v.prepare()(ctx))
		if found == well && v.stalled() {
			v.call()
			if found = v.hearCanary(v.canary(ctx)); found == unclear {
				found = well
			}
		}
		if ctx.Err() != nil {
			return
		}
		switch found {
		case well:
			s.enter(ServerReady, "", kicked)
		case sick, hung:
			s.enter(ServerUnhealthy, v.judge.complaint(), kicked)
		case unclear:
		}
		next := v.pause()
		if s.State() == ServerUnknown {
			next, pause = pause, longer(pause, min(lastPause, next))
		}
		tick.Reset(next)
	}
}

// enter sets the state, the pool and the log. again lets a ready one in once more.
func (s *server) enter(to ServerState, why string, again bool) {
	from := s.State()
	if from == to && !again {
		return
	}
	s.state.Store(to)
	s.member.SetExpected(false) // whether it will come back nobody knows
	s.member.SetReady(to == ServerReady)
	switch {
	case from == to:
	case to == ServerReady:
		s.log.Info("server ready", "pool", s.pool.Name, "server", s.config.Name, "address", s.config.Address)
	default:
		s.log.Warn("server unhealthy: out of the pool until it answers its probes", "pool", s.pool.Name,
			"server", s.config.Name, "address", s.config.Address, "cause", why)
	}
}
