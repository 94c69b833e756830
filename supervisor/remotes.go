package supervisor

import (
	"context"
	"sync"

	"stoker/config"
	"stoker/upstream"
)

// remote is one remote server's position in a pool. A server object holds for
// as long as its settings do; what changes them ends its goroutine and puts
// another in its place, which goes on with what was known.
type remote struct {
	s      *Supervisor
	pool   *poolWorkers
	member *upstream.Member
	// changing is held while one server follows another.
	changing sync.Mutex

	// The rest is guarded by Supervisor.mu.

	server *server
	seat   seat
	// held: an operator keeps it out of the pool.
	held bool
}

// newRemote makes a member for a server, which is not probed yet.
func (s *Supervisor) newRemote(p *poolWorkers, at seat) *remote {
	c := at.Server
	if c.TLS && c.TLSInsecureSkipVerify {
		s.log.Warn("a server's certificate is not verified: whoever is in between can read and change everything", "pool", p.name, "server", c.Name)
	}
	m := p.upstream.Add(c.Name, c.Weight)
	m.SetTier(at.tier)
	m.ResetPeer(upstream.Peer{Address: c.Address, Secure: serverTLS(p.config, c), HTTP2: p.config.Protocol == config.HTTP2})
	return &remote{s: s, pool: p, member: m, seat: at, server: newServer(p.config, c, m, s.log, s.metrics.probeFailed(p.name, c.Name))}
}

// start begins to probe. The supervisor's lock is held.
func (r *remote) start(ctx context.Context) {
	if r.s.ending || !r.s.started.Load() {
		return
	}
	var mine context.Context
	server := r.server
	mine, server.cancel = context.WithCancel(ctx)
	r.s.running.Go(func() {
		defer close(server.done)
		server.run(mine)
	})
}

// halt ends the probing, so that nobody else writes the member's state.
func (r *remote) halt() {
	r.s.mu.Lock()
	server := r.server
	r.s.mu.Unlock()
	if server.cancel == nil {
		return
	}
	server.cancel()
	<-server.done
}

// change goes on with other settings; held is what an operator wants.
func (r *remote) change(p *config.Pool, at seat, held bool) {
	c := at.Server
	r.changing.Lock()
	defer r.changing.Unlock()
	r.halt()
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	before := r.server.State()
	r.held, r.seat = held, at
	r.server = newServer(p, c, r.member, r.s.log, r.s.metrics.probeFailed(r.pool.name, c.Name))
	r.member.SetWeight(c.Weight)
	r.member.SetTier(at.tier)
	switch {
	case c.Down:
	case held:
		r.server.state.Store(ServerDrained)
	case before == ServerReady || before == ServerUnhealthy:
		r.server.state.Store(before)
	}
	r.member.SetExpected(r.server.State() == ServerUnknown)
	if r.server.State() != ServerReady {
		r.member.SetReady(false)
		if p.Drain == drainStop && (held || c.Down) {
			r.member.Cut()
		}
		if p.Drain == drainMigrate && (held || c.Down) {
			r.member.Move()
		}
	}
	r.start(r.s.ctx)
}

// hold takes the server out of the pool, or lets it in again once it is well.
func (r *remote) hold(held bool) {
	r.s.mu.Lock()
	p, at := r.server.pool, r.seat
	r.s.mu.Unlock()
	r.change(p, at, held)
}

// holdBefore keeps a server out that has not begun yet. The lock is held.
func (r *remote) holdBefore() {
	if !r.seat.Down {
		r.held = true
		r.server.state.Store(ServerDrained)
	}
}

// leave takes the server out for good; its requests may finish.
func (r *remote) leave() {
	r.changing.Lock()
	defer r.changing.Unlock()
	r.halt()
	r.pool.upstream.Remove(r.member)
	r.s.metrics.forget(r.pool.name, r.member.Name())
}
