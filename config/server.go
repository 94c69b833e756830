package config

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"stoker/internal/certs"
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
	// TLS is spoken with it, and its certificate verified: against the system's
	// authorities, or those in the file TLSCA.
	TLS   bool   `toml:"tls"`
	TLSCA string `toml:"tls_ca"`
	// TLSServerName is whom the certificate has to be for; empty: the address's host.
	TLSServerName string `toml:"tls_server_name"`
	// TLSCert and TLSKey are files of PEM with what we show it; empty: nothing.
	TLSCert string `toml:"tls_cert"`
	TLSKey  string `toml:"tls_key"`
	// TLSInsecureSkipVerify believes any certificate.
	TLSInsecureSkipVerify bool `toml:"tls_insecure_skip_verify"`
}

// VerifiedName is whom the server's certificate has to be for.
func (s *Server) VerifiedName() string {
	return cmp.Or(s.TLSServerName, s.Host())
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

// validateServerTLS checks what the text tells of a server's TLS.
func (v *validator) validateServerTLS(key func(string) string, s *Server) {
	if !s.TLS {
		for _, k := range []struct {
			name string
			set  bool
		}{
			{"tls_ca", s.TLSCA != ""},
			{"tls_server_name", s.TLSServerName != ""},
			{"tls_cert", s.TLSCert != ""},
			{"tls_key", s.TLSKey != ""},
			{"tls_insecure_skip_verify", s.TLSInsecureSkipVerify},
		} {
			if k.set {
				v.report(key(k.name), "is of no use without TLS: write tls = true too")
			}
		}
		return
	}
	switch {
	case s.TLSInsecureSkipVerify && s.TLSCA != "":
		v.report(key("tls_insecure_skip_verify"), "makes tls_ca useless: leave one of them out")
	case !s.TLSInsecureSkipVerify && s.TLSServerName == "" && strings.HasPrefix(s.Address, "unix:"):
		v.report(key("tls_server_name"), "is missing: a socket has no name that a certificate could be for")
	}
	switch {
	case s.TLSCert != "" && s.TLSKey == "":
		v.report(key("tls_key"), "is missing: name the file of the private key of tls_cert")
	case s.TLSCert == "" && s.TLSKey != "":
		v.report(key("tls_cert"), "is missing: name the file of the certificate of tls_key")
	}
}

// validateServersTLSHost reads the files that servers' TLS needs.
func (v *validator) validateServersTLSHost() {
	for i := range v.config.Pools {
		servers := v.poolKey(i, "servers")
		for j, s := range v.config.Pools[i].Servers {
			key := indexPath(servers, j)
			if s.TLSCA != "" && !v.isFaulty(key+".tls_ca") {
				if _, err := certs.LoadAuthorities(s.TLSCA); err != nil {
					v.report(key+".tls_ca", err.Error())
				}
			}
			if s.TLSCert == "" || s.TLSKey == "" {
				continue
			}
			if _, err := certs.Load(certs.Files{Cert: s.TLSCert, Key: s.TLSKey}); err != nil {
				v.report(key+".tls_cert", err.Error())
			}
		}
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
