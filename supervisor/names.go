package supervisor

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"stoker/config"
	"stoker/internal/resolve"
)

// # Servers by name
//
// A server whose address is a name in DNS is as many members as the name has
// addresses; those of an SRV name have ports, weights and priorities of their
// own. A goroutine for each name asks again when the answer's time is over:
//
//	an address is new          a member, probed like any other
//	an address is not there    its member leaves; its requests finish
//	half an answer             what is new comes, nobody leaves
//	no answer, or "no such     what was there stays, for as long as that takes:
//	name"                      the probes know better who can serve. Said once,
//	                           and once when it is over; asked again after 1 s,
//	                           then twice that, up to min(1 min, max_interval)
//
// What operators have drained stays so when an address goes and comes back, and
// a name that was drained whole lets none of its later addresses in.

// resolver is what a name is looked up with.
type resolver interface {
	Addresses(ctx context.Context, host string) (resolve.Addresses, error)
	Services(ctx context.Context, name string) (resolve.Services, error)
}

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
	// lookUpTimeout bounds one look-up, all servers and search domains together.
	lookUpTimeout = 15 * time.Second
	// maxShare is the largest weight that a member gets of an SRV record's.
	maxShare = 1000
)

// dnsName is a server of the configuration that is given by name.
type dnsName struct {
	s    *Supervisor
	pool *poolWorkers

	// The rest is guarded by Supervisor.mu.

	config config.Server
	places []spot
	// trouble is why the latest question has no answer; empty: it has.
	trouble string
	// held: an operator wants none of its addresses in the pool. away are
	// those that were drained one by one when they went.
	held bool
	away map[string]bool
	// cancel ends watch; nil before it began.
	cancel context.CancelFunc
}

// spot is one address of a name.
type spot struct {
	host   string // whose it is
	at     netip.AddrPort
	weight int // an SRV record's; 0: the configuration's
	tier   int
}

// seat is one member that a pool shall have.
type seat struct {
	config.Server
	tier int
	name *dnsName // that it comes from; nil: it stands in the configuration
}

// sameEnd says whether the seats are one member, reached in the same way.
func (s *seat) sameEnd(other *seat) bool {
	return s.Name == other.Name && s.Address == other.Address && s.TLS == other.TLS && s.TLSCA == other.TLSCA &&
		s.TLSServerName == other.TLSServerName && s.TLSCert == other.TLSCert && s.TLSKey == other.TLSKey &&
		s.TLSInsecureSkipVerify == other.TLSInsecureSkipVerify
}

// same says whether the seats differ in nothing that a server would notice.
func (s *seat) same(other *seat) bool {
	return s.Server == other.Server && s.tier == other.tier
}

// tierOf says how late a server's turn is.
func tierOf(c config.Server) int {
	if c.Backup {
		return 1
	}
	return 0
}

// seats are the members that the configuration and DNS want. The lock is held.
func (p *poolWorkers) seats() []seat {
	var all []seat
	for _, c := range p.config.Servers {
		n := p.nameOf(c)
		if n == nil {
			all = append(all, seat{Server: c, tier: tierOf(c)})
			continue
		}
		for _, at := range n.places {
			s := n.seat(at)
			if !slices.ContainsFunc(all, func(other seat) bool { return other.Name == s.Name }) {
				all = append(all, s)
			}
		}
	}
	return all
}

// nameOf finds what watches a server's name; nil: it has none, or is down.
func (p *poolWorkers) nameOf(c config.Server) *dnsName {
	for _, n := range p.names {
		if n.config.Name == c.Name && n.config.Address == c.Address && n.config.SRV == c.SRV {
			return n
		}
	}
	return nil
}

// seat is the member for one of the name's addresses: "engines.internal/10.0.0.1:8000".
func (n *dnsName) seat(at spot) seat {
	c := n.config
	label := at.host
	if c.Name != c.Address && c.Name != c.SRV {
		label = c.Name
	}
	c.Name, c.Address, c.SRV = label+"/"+at.at.String(), at.at.String(), ""
	if c.TLSServerName == "" {
		c.TLSServerName = at.host
	}
	if at.weight > 0 {
		c.Weight = at.weight
	}
	return seat{Server: c, tier: tierOf(c) + at.tier, name: n}
}

// keepNames brings the names that are watched to what the configuration says.
// The supervisor's lock is held.
func (p *poolWorkers) keepNames() {
	old := p.names
	var now []*dnsName
	for _, c := range p.config.Servers {
		if !c.Named() || c.Down {
			continue
		}
		n := p.nameOf(c)
		if n == nil {
			n = &dnsName{s: p.s, pool: p, config: c, away: map[string]bool{}}
		}
		n.config = c
		now = append(now, n)
	}
	p.names = now
	for _, n := range old {
		if !slices.Contains(now, n) {
			n.stop()
		}
	}
}

// start begins to ask, or begins anew with another resolver. The supervisor's lock is held.
func (n *dnsName) start() {
	if n.s.ending || !n.s.started.Load() {
		return
	}
	n.stop()
	c := n.s.config.Resolver
	lookUp := n.s.lookUp(c)
	server := n.config
	var mine context.Context
	mine, n.cancel = context.WithCancel(n.s.ctx)
	n.s.running.Go(func() { n.watch(mine, lookUp, server, c) })
}

// stop ends the watch. Its goroutine may go on for a moment, and changes nothing any more.
func (n *dnsName) stop() {
	if n.cancel != nil {
		n.cancel()
		n.cancel = nil
	}
}

// watch asks until ctx ends.
func (n *dnsName) watch(ctx context.Context, r resolver, c config.Server, o config.Resolver) {
	retry := firstRetry
	for {
		found, ttl, partial, err := n.ask(ctx, r, c)
		if ctx.Err() != nil {
			return
		}
		wait := min(max(ttl, o.MinInterval.Std()), o.MaxInterval.Std())
		if err == nil {
			retry = firstRetry
			n.found(ctx, found, partial)
		} else {
			wait = min(retry, o.MaxInterval.Std())
			retry = min(2*retry, lastRetry)
			n.failed(ctx, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// ask looks the name up once.
func (n *dnsName) ask(ctx context.Context, r resolver, c config.Server) (found []spot, ttl time.Duration, partial bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookUpTimeout)
	defer cancel()
	if c.SRV != "" {
		return askServices(ctx, r, c.SRV)
	}
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil {
		return nil, 0, false, err //nolint:wrapcheck // it names the address
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, 0, false, err //nolint:wrapcheck // it names the port
	}
	a, err := r.Addresses(ctx, host)
	if err != nil {
		return nil, 0, false, err //nolint:wrapcheck // it names the name
	}
	for _, ip := range a.IPs {
		found = append(found, spot{host: host, at: netip.AddrPortFrom(ip, uint16(number))})
	}
	return found, a.TTL, a.Partial, nil
}

// askServices looks up an SRV name, and each host that it leads to. Hosts that
// have no answer just now make the whole partial; one has to have.
func askServices(ctx context.Context, r resolver, srv string) (found []spot, ttl time.Duration, partial bool, err error) {
	services, err := r.Services(ctx, srv)
	if err != nil {
		return nil, 0, false, err //nolint:wrapcheck // it names the name
	}
	ttl = services.TTL
	heaviest := slices.MaxFunc(services.List, func(a, b resolve.Service) int { return int(a.Weight) - int(b.Weight) }).Weight
	var priorities []uint16
	var failure error
	for _, service := range services.List {
		if !slices.Contains(priorities, service.Priority) {
			priorities = append(priorities, service.Priority) // they come in their order
		}
		a, err := r.Addresses(ctx, service.Host)
		if err != nil {
			failure, partial = err, true
			continue
		}
		ttl, partial = min(ttl, a.TTL), partial || a.Partial
		for _, ip := range a.IPs {
			found = append(found, spot{
				host: service.Host, at: netip.AddrPortFrom(ip, service.Port),
				weight: share(service.Weight, heaviest), tier: len(priorities) - 1,
			})
		}
	}
	if len(found) == 0 {
		return nil, 0, false, failure
	}
	return found, ttl, partial, nil
}

// share is an SRV record's weight (0 to 65535) as a member's (1 to maxShare).
func share(weight, heaviest uint16) int {
	if heaviest <= maxShare {
		return max(1, int(weight))
	}
	return max(1, int(weight)*maxShare/int(heaviest))
}

// failed notes that there is no answer, and says so once.
func (n *dnsName) failed(ctx context.Context, err error) {
	n.s.mu.Lock()
	defer n.s.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	first := n.trouble == ""
	n.trouble = err.Error()
	switch {
	case !first:
	case len(n.places) == 0:
		n.s.log.Warn("a server's name cannot be resolved: none of it is in the pool, and it is asked again until it can", "pool", n.pool.name,
			"server", n.config.Name, "error", err)
	default:
		n.s.log.Warn("a server's name cannot be resolved any more: its addresses stay as they were", "pool", n.pool.name,
			"server", n.config.Name, "addresses", len(n.places), "error", err)
	}
}

// found takes an answer: new addresses come in, those that are not there any more leave.
func (n *dnsName) found(ctx context.Context, places []spot, partial bool) {
	n.s.applying.Lock() // else a reload could bring the same servers to something else
	defer n.s.applying.Unlock()
	n.s.mu.Lock()
	if ctx.Err() != nil || n.pool.removed || n.s.ending {
		n.s.mu.Unlock()
		return
	}
	if partial {
		places = withOthers(places, n.places)
	}
	recovered := n.trouble != ""
	before := n.places
	n.places, n.trouble = places, ""
	added, removed := missing(places, before), missing(before, places)
	switch {
	case len(added)+len(removed) > 0:
		n.s.log.Info("a server's name was resolved", "pool", n.pool.name, "server", n.config.Name,
			"addresses", len(places), "added", added, "removed", removed)
	case recovered:
		n.s.log.Info("a server's name is resolved again", "pool", n.pool.name, "server", n.config.Name, "addresses", len(places))
	}
	var changes []func()
	if !slices.Equal(before, places) {
		changes = n.pool.changedServers()
	}
	n.s.mu.Unlock()
	together(changes)
}

// withOthers adds to places those of before whose address is not among them.
func withOthers(places, before []spot) []spot {
	all := slices.Clone(places)
	for _, old := range before {
		if !slices.ContainsFunc(places, func(p spot) bool { return p.at == old.at && p.host == old.host }) {
			all = append(all, old)
		}
	}
	return all
}

// missing are the addresses of places that others do not have.
func missing(places, others []spot) []string {
	var out []string
	for _, p := range places {
		if !slices.ContainsFunc(others, func(other spot) bool { return p.at == other.at && p.host == other.host }) {
			out = append(out, p.at.String())
		}
	}
	return out
}

// status is how a name is of which there is no member.
func (n *dnsName) status() ServerStatus {
	s := ServerStatus{
		Name: n.config.Name, Address: n.config.Address, State: ServerUnresolved, Weight: n.config.Weight,
		Tier: tierOf(n.config), Wish: wishText(n.held), Breaker: "closed",
	}
	if n.trouble != "" {
		s.Health = &Health{State: "silent", Reason: n.trouble}
	}
	return s
}
