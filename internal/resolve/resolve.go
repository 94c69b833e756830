package resolve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// HostsTTL is for how long a name of /etc/hosts holds.
	HostsTTL = 5 * time.Second
	// maxAliases is how many CNAMEs are followed; more are a loop.
	maxAliases = 8
	// queryTimeout bounds one question to one server, where resolv.conf says no less.
	queryTimeout = 2 * time.Second
	// maxTTL is the longest that DNS can say.
	maxTTL = time.Duration(1<<31-1) * time.Second
	// udpSize is the largest answer over UDP that passes nearly everywhere whole.
	udpSize = 1232
)

// ErrNotFound is DNS's own answer: the name, or what was asked of it, does not exist.
var ErrNotFound = errors.New("no such name in DNS")

// Resolver asks. The zero value goes by this host's files.
type Resolver struct {
	// Server is "HOST:PORT", instead of resolv.conf and of the hosts file.
	Server string
	// ResolvConf and Hosts are read instead of those in /etc.
	ResolvConf, Hosts string
}

// Addresses is what a name stands for.
type Addresses struct {
	// IPs in order, each once; at least one.
	IPs []netip.Addr
	// TTL is for how long that holds.
	TTL time.Duration
	// Partial: one of the two questions (A, AAAA) was not answered, and there
	// may be more.
	Partial bool
}

// Service is where one of a name's services is.
type Service struct {
	Host string // without the dot at its end
	Port uint16
	// Priority: the lowest is used as long as it serves. Weight is its share
	// among those of the same priority; 0: the least.
	Priority, Weight uint16
}

// Services is what an SRV name stands for.
type Services struct {
	// List by priority, then in a fixed order; at least one.
	List []Service
	TTL  time.Duration
}

// Addresses looks up a host's name. Errors wrap ErrNotFound, or say who did not answer.
func (r *Resolver) Addresses(ctx context.Context, host string) (Addresses, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return Addresses{IPs: []netip.Addr{ip}, TTL: maxTTL}, nil
	}
	if ips := r.inHosts(host); len(ips) > 0 {
		return Addresses{IPs: ips, TTL: HostsTTL}, nil
	}
	servers, err := r.servers()
	if err != nil {
		return Addresses{}, fmt.Errorf("resolve %s: %w", host, err)
	}
	return r.search(ctx, servers, host)
}

// search tries the names that a host's may stand for.
func (r *Resolver) search(ctx context.Context, servers *dns.ClientConfig, host string) (Addresses, error) {
	failure := fmt.Errorf("resolve %s: %w", host, ErrNotFound)
	for _, name := range servers.NameList(host) {
		found, err := r.both(ctx, servers, name)
		if err == nil {
			return found, nil
		}
		// An answer that the name does not exist lets the next of the search
		// list be tried; no answer must not: what is behind it may be another's.
		failure = fmt.Errorf("resolve %s: %w", host, err)
		if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	return Addresses{}, failure
}

// both asks for A and AAAA side by side.
func (r *Resolver) both(ctx context.Context, servers *dns.ClientConfig, name string) (Addresses, error) {
	kinds := [...]uint16{dns.TypeA, dns.TypeAAAA}
	var answers [len(kinds)]answer
	var errs [len(kinds)]error
	var all sync.WaitGroup
	for i, kind := range kinds {
		all.Go(func() { answers[i], errs[i] = r.follow(ctx, servers, name, kind) })
	}
	all.Wait()
	found := Addresses{TTL: maxTTL}
	for i := range kinds {
		if errs[i] != nil {
			found.Partial = found.Partial || !errors.Is(errs[i], ErrNotFound)
			continue
		}
		found.TTL = min(found.TTL, answers[i].ttl)
		for _, record := range answers[i].records {
			if ip, ok := address(record); ok {
				found.IPs = append(found.IPs, ip)
			}
		}
	}
	slices.SortFunc(found.IPs, netip.Addr.Compare)
	found.IPs = slices.Compact(found.IPs)
	switch {
	case len(found.IPs) > 0:
		return found, nil
	case errs[0] != nil && !errors.Is(errs[0], ErrNotFound):
		return Addresses{}, errs[0]
	}
	return Addresses{}, cmp.Or(errs[1], errs[0], ErrNotFound)
}

func address(record dns.RR) (netip.Addr, bool) {
	var ip net.IP
	switch record := record.(type) {
	case *dns.A:
		ip = record.A
	case *dns.AAAA:
		ip = record.AAAA
	}
	addr, ok := netip.AddrFromSlice(ip)
	return addr.Unmap(), ok
}

// Services looks up an SRV name, such as "_http._tcp.engines.internal". That a
// service is said not to be offered (a target of ".") is ErrNotFound.
func (r *Resolver) Services(ctx context.Context, name string) (Services, error) {
	servers, err := r.servers()
	if err != nil {
		return Services{}, err
	}
	failure := fmt.Errorf("resolve %s: %w", name, ErrNotFound)
	for _, full := range servers.NameList(name) {
		got, err := r.follow(ctx, servers, full, dns.TypeSRV)
		if err == nil {
			if list := services(got.records); len(list) > 0 {
				return Services{List: list, TTL: got.ttl}, nil
			}
			continue
		}
		failure = fmt.Errorf("resolve %s: %w", name, err)
		if !errors.Is(err, ErrNotFound) {
			break
		}
	}
	return Services{}, failure
}

func services(records []dns.RR) []Service {
	var list []Service
	for _, record := range records {
		srv, ok := record.(*dns.SRV)
		if ok && srv.Target != "." && srv.Port != 0 {
			list = append(list, Service{
				Host: strings.TrimSuffix(strings.ToLower(srv.Target), "."), Port: srv.Port,
				Priority: srv.Priority, Weight: srv.Weight,
			})
		}
	}
	slices.SortFunc(list, func(a, b Service) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), strings.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Weight, b.Weight))
	})
	return slices.Compact(list)
}

// servers are whom to ask, and how names are completed.
func (r *Resolver) servers() (*dns.ClientConfig, error) {
	if r.Server != "" {
		host, port, err := net.SplitHostPort(r.Server)
		if err != nil {
			return nil, fmt.Errorf("resolver %s: %w", r.Server, err)
		}
		return &dns.ClientConfig{Servers: []string{host}, Port: port, Attempts: 2, Timeout: int(queryTimeout / time.Second)}, nil
	}
	c, err := dns.ClientConfigFromFile(cmp.Or(r.ResolvConf, "/etc/resolv.conf"))
	if err != nil {
		return nil, fmt.Errorf("find out whom to ask: %w", err)
	}
	if len(c.Servers) == 0 {
		c.Servers = []string{"127.0.0.1"} // as resolv.conf(5) has it
	}
	return c, nil
}
