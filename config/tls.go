package config

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// TLS says how the listeners of ListenTLS are secured.
type TLS struct {
	// HandshakeTimeout is how long a client may take until its first request can begin.
	HandshakeTimeout Duration `toml:"handshake_timeout"`
	// ClientAuth is "off", "request" (a client's certificate, where it has one,
	// must be good) or "require".
	ClientAuth string `toml:"client_auth"`
	// ClientCA is a file of PEM with the authorities that may vouch for clients.
	ClientCA string `toml:"client_ca"`
	// RedirectHTTPS answers what comes in plain HTTP with where it is to be had securely.
	RedirectHTTPS bool `toml:"redirect_https"`
	// RedirectPort is the port that such answers name; 0: the first TLS listener's.
	RedirectPort int `toml:"redirect_port"`
	// HSTS is for how long browsers shall use nothing but HTTPS; 0: nothing is said of it.
	HSTS Duration `toml:"hsts"`
	// Certificates: the first one that is for the name that a client asks for is
	// shown, or else the first one.
	Certificates []Certificate `toml:"certificates"`
	// ACME obtains further ones.
	ACME ACME `toml:"acme"`
}

// ACME says which certificates an authority is asked for by itself.
type ACME struct {
	// Domains each get a certificate; none: there is no such authority.
	Domains []string `toml:"domains"`
	// AgreeTerms: the operator agrees to the authority's terms of service.
	AgreeTerms bool `toml:"agree_terms"`
	// Email is where the authority may reach the operator.
	Email string `toml:"email"`
	// Directory is the authority's URL.
	Directory string `toml:"directory"`
	// CA is a file of PEM with those who vouch for the authority's own server;
	// empty: the system's do.
	CA string `toml:"ca"`
	// Challenges are how the authority may ask whether a domain is ours.
	Challenges []string `toml:"challenges"`
	// CheckInterval is how often it is looked whether a certificate is due.
	CheckInterval Duration `toml:"check_interval"`
}

// Enabled says whether any certificate is obtained.
func (a *ACME) Enabled() bool { return len(a.Domains) > 0 }

// The words of ACME.Challenges.
const (
	ChallengeHTTP = "http-01"
	ChallengeTLS  = "tls-alpn-01"
)

// Asked is the first listener at which a challenge of that kind can arrive;
// empty: there is none, or the kind is not wanted.
func (c *Config) Asked(challenge string) string {
	if !slices.Contains(c.TLS.ACME.Challenges, challenge) {
		return ""
	}
	listen := c.Listen
	if challenge == ChallengeTLS {
		listen = c.ListenTLS
	}
	for _, address := range listen {
		if !strings.HasPrefix(address, "unix:") {
			return address
		}
	}
	return ""
}

// Certificate is a certificate with its key.
type Certificate struct {
	// Cert is a file of PEM: the certificate, then those that lead to its authority.
	Cert string `toml:"cert"`
	// Key is a file of PEM: its private key.
	Key string `toml:"key"`
	// Hosts it is shown for; empty: all names that it carries.
	Hosts []string `toml:"hosts"`
}

// The words of TLS.ClientAuth.
const (
	ClientAuthOff     = "off"
	ClientAuthRequest = "request"
	ClientAuthRequire = "require"
)

// Doors are all addresses of the traffic door, those with TLS last.
func (c *Config) Doors() []string { return slices.Concat(c.Listen, c.ListenTLS) }

// Secure says whether the listener of that address has TLS.
func (c *Config) Secure(address string) bool { return slices.Contains(c.ListenTLS, address) }

// HTTPSPort is the port that clients of plain HTTP are sent to; 0: none is known.
func (c *Config) HTTPSPort() int {
	if c.TLS.RedirectPort != 0 {
		return c.TLS.RedirectPort
	}
	for _, address := range c.ListenTLS {
		if strings.HasPrefix(address, "unix:") {
			continue
		}
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if n, err := strconv.Atoi(port); err == nil && n > 0 {
			return n
		}
	}
	return 0
}

// Warnings are what is not wrong and may yet hurt, such as a certificate that
// has expired; only Load and FromCommandLine look for it.
func (c *Config) Warnings() Problems { return c.warnings }
