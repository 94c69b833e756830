package supervisor

import (
	"crypto/tls"
	"fmt"

	"stoker/config"
	"stoker/internal/certs"
)

// sessions is how many TLS sessions a server's connections can resume.
const sessions = 16

// serverTLS is how a server is spoken to in TLS; nil: it is not. Files are read
// here, so they are read anew for each server that comes. Where they cannot be
// read no handshake succeeds, and the probes say why: never is a connection
// less secure than was asked for.
func serverTLS(p *config.Pool, c config.Server) *tls.Config {
	if !c.TLS {
		return nil
	}
	protocol := config.HTTP1 // its name in the handshake
	if p.Protocol == config.HTTP2 {
		protocol = config.HTTP2
	}
	t := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: c.VerifiedName(), NextProtos: []string{protocol},
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
		InsecureSkipVerify: c.TLSInsecureSkipVerify, //nolint:gosec // G402: only where the configuration says it in so many words; it is warned about
	}
	var failure error
	if c.TLSCA != "" {
		if t.RootCAs, failure = certs.LoadAuthorities(c.TLSCA); failure != nil {
			return refuseAll(t, fmt.Errorf("tls_ca: %w", failure))
		}
	}
	if c.TLSCert != "" {
		pair, err := certs.Load(certs.Files{Cert: c.TLSCert, Key: c.TLSKey})
		if err != nil {
			return refuseAll(t, fmt.Errorf("tls_cert: %w", err))
		}
		t.Certificates = []tls.Certificate{pair.Certificate}
	}
	return t
}

// refuseAll lets every handshake fail.
func refuseAll(t *tls.Config, why error) *tls.Config {
	t.ClientSessionCache = nil
	t.VerifyConnection = func(tls.ConnectionState) error { return why }
	return t
}
