package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// Resolver says how the names of servers are looked up.
type Resolver struct {
	// Address of a DNS server, "HOST:PORT"; empty: as /etc/resolv.conf says.
	Address string `toml:"address"`
	// MinInterval and MaxInterval bound how long an answer is believed, whatever it says itself.
	MinInterval Duration `toml:"min_interval"`
	MaxInterval Duration `toml:"max_interval"`
}

// Server is a remote upstream, or several behind a name in DNS.
type Server struct {
	// Address is "HOST:PORT" or "unix:/PATH".
	Address string `toml:"address"`
	// SRV, instead of Address, is a name whose SRV records say hosts and ports.
	SRV string `toml:"srv"`
	// Name in status, logs and metrics; default Address or SRV.
	Name   string `toml:"name"`
	Weight int    `toml:"weight"`
	// Down takes it out of the pool without taking it out of the file.
	Down bool `toml:"down"`
	// Backup gets requests only while no server that is none can serve.
	Backup bool `toml:"backup"`
}

// Host is the address's, empty for a unix socket.
func (s *Server) Host() string {
	if strings.HasPrefix(s.Address, "unix:") {
		return ""
	}
	host, _, _ := net.SplitHostPort(s.Address)
	return host
}

// Named says whether DNS is asked which servers these are. "localhost" is no
// name: it is this host whatever DNS says.
func (s *Server) Named() bool {
	if s.SRV != "" {
		return true
	}
	host := s.Host()
	if _, err := netip.ParseAddr(host); err == nil || host == "" {
		return false
	}
	return !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost")
}

// origin is what the server was given by.
func (s *Server) origin() string { return cmp.Or(s.Address, s.SRV) }

func (v *validator) validateResolver() {
	r := v.config.Resolver
	if r.Address != "" {
		if err := checkAddress(r.Address, dialing); err != nil {
			v.report("resolver.address", err.Error())
		} else if host, _, _ := net.SplitHostPort(r.Address); host == "" {
			v.report("resolver.address", fmt.Sprintf("%q is no DNS server: write HOST:PORT, such as \"127.0.0.1:53\"", r.Address))
		}
	}
	v.duration("resolver.min_interval", r.MinInterval, shortest)
	if v.duration("resolver.max_interval", r.MaxInterval, shortest) && r.MaxInterval < r.MinInterval {
		v.report("resolver.max_interval", fmt.Sprintf("%s is less than min_interval, %s", r.MaxInterval, r.MinInterval))
	}
}

// validateServerOrigin checks where a server is said to be.
func (v *validator) validateServerOrigin(key func(string) string, s *Server) {
	if s.SRV == "" {
		v.validateServerAddress(key("address"), s.Address)
		return
	}
	if s.Address != "" {
		v.report(key("srv"), "stands beside address: one of them says where the server is, leave the other out")
		return
	}
	if err := checkHostName(s.SRV); err != nil || !strings.Contains(s.SRV, ".") {
		v.report(key("srv"), fmt.Sprintf("%q is no SRV name: write one such as \"_http._tcp.engines.internal\"", shorten(s.SRV)))
	}
	if s.Weight != 1 {
		v.report(key("weight"), "is what the SRV records say: leave it out")
	}
}
