package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"stoker/internal/certs"
)

// validateTLS checks all of TLS that the text tells.
func (v *validator) validateTLS() {
	c := v.config
	t := &c.TLS
	v.duration("tls.handshake_timeout", t.HandshakeTimeout, briefest)
	v.oneOf("tls.client_auth", t.ClientAuth, ClientAuthOff, ClientAuthRequest, ClientAuthRequire)
	v.duration("tls.hsts", t.HSTS, 0)
	v.number("tls.redirect_port", t.RedirectPort, 0, 65535)
	switch {
	case t.ClientAuth != ClientAuthOff && t.ClientCA == "":
		v.report("tls.client_ca", fmt.Sprintf("is missing: with client_auth = %q name the file of the authorities that may vouch for clients", t.ClientAuth))
	case t.ClientAuth == ClientAuthOff && t.ClientCA != "":
		v.report("tls.client_ca", `is of no use while no client is asked for a certificate: write client_auth = "require" (or "request") too`)
	}
	for i := range t.Certificates {
		v.validateCertificate(indexPath("tls.certificates", i), &t.Certificates[i])
	}
	v.validateACME()
	switch {
	case v.isFaulty("listen_tls") || v.isFaulty("tls.certificates") || v.isFaulty("tls.acme.domains"):
	case len(c.ListenTLS) > 0 && len(t.Certificates) == 0 && !t.ACME.Enabled():
		v.report("listen_tls", "needs a certificate: write [[tls.certificates]] with its cert and key, or [tls.acme] with domains")
	case len(c.ListenTLS) == 0 && len(t.Certificates) > 0:
		v.report(indexPath("tls.certificates", 0), `nothing listens with TLS: write listen_tls = [":8443"]`)
	case len(c.ListenTLS) == 0 && t.RedirectHTTPS:
		v.report("tls.redirect_https", `nothing listens with TLS: write listen_tls = [":8443"]`)
	case t.RedirectHTTPS && c.HTTPSPort() == 0:
		v.report("tls.redirect_https", "no listener of listen_tls has a port that clients could be sent to: write redirect_port")
	}
}

// validateACME checks what an authority is asked for, and that it can reach us.
func (v *validator) validateACME() {
	c := v.config
	a := &c.TLS.ACME
	v.duration("tls.acme.check_interval", a.CheckInterval, Duration(100*time.Millisecond))
	for i, kind := range a.Challenges {
		v.oneOf(indexPath("tls.acme.challenges", i), kind, ChallengeHTTP, ChallengeTLS)
	}
	switch u, err := url.Parse(a.Directory); {
	case err != nil || u.Host == "" || u.User != nil:
		v.report("tls.acme.directory", fmt.Sprintf("%s is not a URL: write the one of the authority's directory, such as %s", quoteTOML(shorten(a.Directory)), quoteTOML(Default().TLS.ACME.Directory)))
	case u.Scheme != "https":
		v.report("tls.acme.directory", "must begin with https://: ACME is spoken over TLS alone")
	}
	if a.Email != "" && !strings.Contains(strings.Trim(a.Email, "@"), "@") {
		v.report("tls.acme.email", fmt.Sprintf("%s is not an address of mail: write NAME@DOMAIN, or leave it out", quoteTOML(shorten(a.Email))))
	}
	if !a.Enabled() {
		for _, key := range []string{"agree_terms", "email", "directory", "ca", "challenges", "check_interval"} {
			if v.written("tls.acme." + key) {
				v.report("tls.acme."+key, `is of no use without domains: write domains = ["api.example.com"] too`)
			}
		}
		return
	}
	for i, domain := range a.Domains {
		v.validateDomain(indexPath("tls.acme.domains", i), domain, a.Domains[:i])
	}
	if !a.AgreeTerms {
		v.report("tls.acme.agree_terms", "must be true: the authority wants its terms of service agreed to before it gives certificates; read them, then write agree_terms = true")
	}
	v.validateChallenges()
}

func (v *validator) validateDomain(key, domain string, before []string) {
	_, notIP := netip.ParseAddr(domain)
	switch err := checkHostName(domain); {
	case domain == "":
		v.report(key, `is empty: write a name such as "api.example.com"`)
	case strings.Contains(domain, "*"):
		v.report(key, fmt.Sprintf("%s: wildcards need a challenge by DNS, which stoker does not do: name each host, or have another program renew [[tls.certificates]]", quoteTOML(shorten(domain))))
	case notIP == nil:
		v.report(key, fmt.Sprintf("%s is an address: certificates are obtained for names alone", quoteTOML(shorten(domain))))
	case err != nil:
		v.report(key, err.Error())
	case domain != plainHost(domain):
		v.report(key, fmt.Sprintf("%s: write %s", quoteTOML(shorten(domain)), quoteTOML(plainHost(domain))))
	case slices.Contains(before, domain):
		v.report(key, fmt.Sprintf("%s is written twice", quoteTOML(shorten(domain))))
	}
}

// validateChallenges sees that the authority's question has where to arrive.
func (v *validator) validateChallenges() {
	c := v.config
	if len(c.ListenTLS) == 0 {
		v.report("tls.acme.domains", `nothing listens with TLS: write listen_tls = [":443"]`)
		return
	}
	for i, kind := range c.TLS.ACME.Challenges {
		if listen := map[string]string{ChallengeHTTP: "listen", ChallengeTLS: "listen_tls"}[kind]; listen != "" && c.Asked(kind) == "" {
			v.report(indexPath("tls.acme.challenges", i), fmt.Sprintf("%q is asked for by TCP, and no address of %s is for that: write one, or leave it out", kind, listen))
		}
	}
	if len(c.TLS.ACME.Challenges) == 0 {
		v.report("tls.acme.challenges", `leave the authority no way to ask: name "tls-alpn-01" or "http-01", and a listener for it that is no unix socket`)
	}
}

func (v *validator) validateCertificate(key string, c *Certificate) {
	if c.Cert == "" {
		v.report(key+".cert", "is missing: name the file of the certificate, in PEM")
	}
	if c.Key == "" {
		v.report(key+".key", "is missing: name the file of the certificate's private key, in PEM")
	}
	for i, host := range c.Hosts {
		name := strings.TrimPrefix(host, "*.")
		switch err := checkHostName(name); {
		case name == "":
			v.report(indexPath(key+".hosts", i), `is empty: write a name such as "api.example.com"`)
		case strings.Contains(name, "*"):
			v.report(indexPath(key+".hosts", i), fmt.Sprintf(`%s: a wildcard stands for the first label alone, as in "*.example.com"`, quoteTOML(shorten(host))))
		case err != nil:
			v.report(indexPath(key+".hosts", i), err.Error())
		case slices.Contains(c.Hosts[:i], host):
			v.report(indexPath(key+".hosts", i), fmt.Sprintf("%s is written twice", quoteTOML(shorten(host))))
		}
	}
}

// validateTLSHost reads the certificates.
func (v *validator) validateTLSHost() {
	t := &v.config.TLS
	if t.ClientCA != "" && !v.isFaulty("tls.client_ca") {
		if _, err := certs.LoadAuthorities(t.ClientCA); err != nil {
			v.report("tls.client_ca", err.Error())
		}
	}
	if t.ACME.CA != "" && !v.isFaulty("tls.acme.ca") {
		if _, err := certs.LoadAuthorities(t.ACME.CA); err != nil {
			v.report("tls.acme.ca", err.Error())
		}
	}
	pairs := make([]*certs.Pair, len(t.Certificates))
	for i := range t.Certificates {
		key := indexPath("tls.certificates", i)
		if v.isFaulty(key) || v.isFaulty(key+".cert") || v.isFaulty(key+".key") || v.isFaulty(key+".hosts") {
			continue
		}
		pairs[i] = v.validatePair(key, t.Certificates[i])
		for j := range i {
			if pairs[i] == nil || pairs[j] == nil {
				continue
			}
			if host := pairs[i].Twin(pairs[j]); host != "" {
				v.report(key+".cert", fmt.Sprintf("is for %s, as %s is, with a key of the same kind: leave one of them out, or say with hosts which is for what",
					host, v.origin.at(indexPath("tls.certificates", j)+".cert")))
			}
		}
	}
}

// validatePair reads one certificate; nil: it cannot be used.
func (v *validator) validatePair(key string, c Certificate) *certs.Pair {
	pair, err := certs.Load(certs.Files{Cert: c.Cert, Key: c.Key, Hosts: c.Hosts})
	if err == nil {
		if doubt := pair.Doubt(time.Now()); doubt != "" {
			v.config.warnings = append(v.config.warnings, v.origin.problem(key+".cert", c.Cert+" "+doubt))
		}
		return pair
	}
	part := ".cert"
	if bad := (*certs.Error)(nil); errors.As(err, &bad) {
		part = map[certs.Part]string{certs.PartCert: ".cert", certs.PartKey: ".key", certs.PartHosts: ".hosts"}[bad.Part]
	}
	v.report(key+part, err.Error())
	return nil
}

// completeTLS makes paths absolute. Who names TLS listeners alone wants no other.
func (v *validator) completeTLS(base string) {
	c := v.config
	if len(c.ListenTLS) > 0 && !v.written("listen") {
		c.Listen = nil
	}
	c.TLS.ClientCA = absolute(base, c.TLS.ClientCA)
	c.TLS.ACME.CA = absolute(base, c.TLS.ACME.CA)
	if c.TLS.ACME.Enabled() && !v.written("tls.acme.challenges") {
		c.TLS.ACME.Challenges = slices.DeleteFunc(c.TLS.ACME.Challenges, func(kind string) bool { return c.Asked(kind) == "" })
	}
	for i := range c.TLS.Certificates {
		cert := &c.TLS.Certificates[i]
		cert.Cert, cert.Key = absolute(base, cert.Cert), absolute(base, cert.Key)
	}
}
