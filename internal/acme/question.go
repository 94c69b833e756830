package acme

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/certmagic"
)

// The authority asks in one of two ways whether a domain is ours: by HTTP, for a
// path, or by a handshake of TLS, for this protocol (RFC 8737).
const (
	questionPath = "/.well-known/acme-challenge/"
	// Protocol is what such a handshake agrees upon. Nothing follows it.
	Protocol = "acme-tls/1"
)

// newIssuers makes one for all kinds of questions, or one for each: the library
// would listen by itself where it finds that nobody does, so it must be told the
// very addresses of our listeners, and takes but one host.
func (m *Manager) newIssuers() []*certmagic.ACMEIssuer {
	s := &m.settings
	issuer := func(http, tls bool) *certmagic.ACMEIssuer {
		template := certmagic.ACMEIssuer{
			CA: s.Directory, Email: s.Email, Agreed: true, TrustedRoots: s.Roots, Logger: m.library,
			DisableHTTPChallenge: !http, DisableTLSALPNChallenge: !tls,
		}
		if http {
			template.ListenHost, template.AltHTTPPort = hostPort(s.HTTP)
		}
		if tls {
			template.ListenHost, template.AltTLSALPNPort = hostPort(s.TLS)
		}
		return certmagic.NewACMEIssuer(m.magic, template)
	}
	one, _ := hostPort(s.HTTP)
	two, _ := hostPort(s.TLS)
	if s.HTTP == "" || s.TLS == "" || one == two {
		return []*certmagic.ACMEIssuer{issuer(s.HTTP != "", s.TLS != "")}
	}
	return []*certmagic.ACMEIssuer{issuer(false, true), issuer(true, false)}
}

// hostPort takes apart an address of a listener.
func hostPort(address string) (host string, port int) {
	host, digits, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0
	}
	port, _ = strconv.Atoi(digits) // a listener's own is a number
	return host, port
}

// isQuestion says whether a handshake is the authority's.
func isQuestion(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == Protocol
}

// Protocols are what a listener has to agree upon besides what it speaks.
func (m *Manager) Protocols() []string {
	if m.settings.TLS == "" {
		return nil
	}
	return []string{Protocol}
}

// IsQuestion says whether a request may be the authority's.
func IsQuestion(method, target string) bool {
	return method == http.MethodGet && strings.HasPrefix(target, questionPath)
}

// Answer is what a request of the authority is answered; false: there is nothing
// to say, as it may be somebody else's question.
func (m *Manager) Answer(host, target string) (body []byte, ok bool) {
	if m.settings.HTTP == "" || !m.knows(withoutPort(host)) {
		return nil, false // files are looked for by that name
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, false
	}
	r := &http.Request{Method: http.MethodGet, URL: u, RequestURI: target, Host: host, Header: http.Header{}}
	var w written
	for _, issuer := range m.issuers {
		if issuer.HandleHTTPChallenge(&w, r) {
			return w.body, true
		}
	}
	return nil, false
}

func withoutPort(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// knows says whether a domain is one of ours.
func (m *Manager) knows(name string) bool { return slices.Contains(m.settings.Domains, plain(name)) }

func plain(name string) string { return strings.TrimSuffix(strings.ToLower(name), ".") }

// written is a response in memory.
type written struct {
	head http.Header
	body []byte
}

// Header implements http.ResponseWriter.
func (w *written) Header() http.Header {
	if w.head == nil {
		w.head = http.Header{}
	}
	return w.head
}

// Write implements http.ResponseWriter.
func (w *written) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}

// WriteHeader implements http.ResponseWriter.
func (w *written) WriteHeader(int) {}
