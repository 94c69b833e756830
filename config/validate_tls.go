package config

import (
	"errors"
	"fmt"
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
	switch {
	case v.isFaulty("listen_tls") || v.isFaulty("tls.certificates"):
	case len(c.ListenTLS) > 0 && len(t.Certificates) == 0:
		v.report("listen_tls", "needs a certificate: write [[tls.certificates]] with its cert and key")
	case len(c.ListenTLS) == 0 && len(t.Certificates) > 0:
		v.report(indexPath("tls.certificates", 0), `nothing listens with TLS: write listen_tls = [":8443"]`)
	case len(c.ListenTLS) == 0 && t.RedirectHTTPS:
		v.report("tls.redirect_https", `nothing listens with TLS: write listen_tls = [":8443"]`)
	case t.RedirectHTTPS && c.HTTPSPort() == 0:
		v.report("tls.redirect_https", "no listener of listen_tls has a port that clients could be sent to: write redirect_port")
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
	for i := range c.TLS.Certificates {
		cert := &c.TLS.Certificates[i]
		cert.Cert, cert.Key = absolute(base, cert.Cert), absolute(base, cert.Key)
	}
}
