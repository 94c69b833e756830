package front

import (
	"errors"
	"net/netip"
	"time"
)

// Limits bound what clients may take. The zero value of a number is no bound;
// times but Tunnel must be more than 0.
type Limits struct {
	// Handshake is how long TLS may take before the first request.
	Handshake time.Duration
	// Head is how long a request's head may take, from its first byte.
	Head time.Duration
	// Idle is how long a connection is kept for the next request.
	Idle time.Duration
	// Body is how long some more of a body may take. After that time it must
	// have come by BodyRate bytes per second on the whole.
	Body     time.Duration
	BodyRate int64
	// Write is how long a client may take nothing of what is there for it, or
	// less than WriteRate bytes per second.
	Write     time.Duration
	WriteRate int64

	// Tunnel is how long nothing may pass through one; 0: any time.
	Tunnel time.Duration

	// Conns is how many connections there may be, ConnsPerAddress how many of
	// one address, a /64 in IPv6, but for those of Exempt and unix sockets.
	Conns           int
	ConnsPerAddress int
	Exempt          []netip.Prefix
}

// DefaultLimits are those of a front that is told of none.
func DefaultLimits() Limits {
	return Limits{
		Handshake: 10 * time.Second, Head: 10 * time.Second, Idle: 75 * time.Second, Body: 60 * time.Second, BodyRate: 64,
		Write: 15 * time.Second, WriteRate: 1024,
	}
}

// SetLimits goes by other limits from now on, but for HTTP/2's of Head and
// Idle. Connections that there are stay, however few there may be.
func (f *Front) SetLimits(l Limits) { f.limits.Store(&l) }

// peerOf is what connections are counted by; not valid for one that is exempt.
func (l *Limits) peerOf(client netip.Addr) netip.Addr {
	if !client.IsValid() {
		return client
	}
	for _, p := range l.Exempt {
		if p.Contains(client) {
			return netip.Addr{}
		}
	}
	if client.Is6() {
		p, _ := client.WithZone("").Prefix(64) // of IPv6 there always is one
		return p.Addr()
	}
	return client
}

// errReadsSlowly is a write's error when the client has not taken it in time.
var errReadsSlowly = errors.New("client reads too slowly")

// pace watches how a client takes what is written to it.
type pace struct {
	conn  *conn
	since time.Time     // of the wait, or of the last look
	taken int64         // by then
	left  time.Duration // that it may still be idle
}

// looks is how often in Limits.Write it is looked at what has been taken: what fits
// into a client's buffer counts as taken, and would else buy as much time again.
const looks = 8

// Blocked implements rawconn.Pacer.
func (p *pace) Blocked() {
	limit := p.conn.front.limits.Load().Write
	p.since, p.taken, p.left = time.Now(), p.conn.Taken(), limit
	p.conn.writeBy(p.since.Add(limit / looks))
}

// Stalled implements rawconn.Pacer.
func (p *pace) Stalled() bool {
	if p.conn.hurried.Load() {
		return false
	}
	l := p.conn.front.limits.Load()
	now, taken := time.Now(), p.conn.Taken()
	p.left -= now.Sub(p.since)
	if more := taken - p.taken; more > 0 {
		p.left = min(p.left+p.worth(more, l), l.Write)
	}
	p.since, p.taken = now, taken
	if p.left <= 0 {
		return false
	}
	p.conn.writeBy(now.Add(min(p.left, l.Write/looks)))
	return true
}

// worth is how much time it is worth to have taken n bytes.
func (p *pace) worth(n int64, l *Limits) time.Duration {
	if l.WriteRate == 0 || n >= int64(l.Write.Seconds()+1)*l.WriteRate {
		return l.Write
	}
	return time.Duration(n) * time.Second / time.Duration(l.WriteRate)
}

// Unblocked implements rawconn.Pacer.
func (p *pace) Unblocked() { p.conn.writeBy(time.Time{}) }

// writeBy bounds writes, unless the connection is hurried.
func (c *conn) writeBy(t time.Time) {
	if c.hurried.Load() {
		return
	}
	_ = c.SetWriteDeadline(t) // fails on a closed connection only, as the write will
	if c.hurried.Load() {     // between the two: its deadline has been overwritten
		_ = c.SetWriteDeadline(time.Now().Add(cutGrace))
	}
}
