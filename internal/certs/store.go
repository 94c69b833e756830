package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Settings are what the TLS listeners show and ask for.
type Settings struct {
	// Certificates, the default first: it is shown to who asks for no name, or
	// for one that no certificate is for. None: there is no TLS.
	Certificates []Files
	// ClientCA is a file of PEM with those who may vouch for clients; empty: nobody.
	ClientCA string
	// ClientAuth says what is asked of clients.
	ClientAuth tls.ClientAuthType
}

// suites are those of TLS 1.2 with forward secrecy and authenticated encryption;
// HTTP/2 forbids all others (RFC 9113 appendix A). Those of 1.3 are not chosen.
var suites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// Store shows certificates. Its methods may be called by anybody at any time.
type Store struct {
	log    hclog.Logger
	loaded func(ok bool)
	shows  func([]*Pair)
	now    func() time.Time

	config atomic.Pointer[tls.Config]

	mu      sync.Mutex
	tickets Tickets
	shown   *Staged
	source  Source
	// bad is the print of files that were found bad, said whether they were said
	// to be.
	bad  string
	said bool
}

// Options are what a store is made with.
type Options struct {
	Log hclog.Logger
	// Tickets are those of another process whose clients come to us; the zero
	// value: there is none.
	Tickets Tickets
	// Loaded, where not nil, is told of every reading of changed files.
	Loaded func(ok bool)
	// Shown, where not nil, is told of the certificates that are shown from now on.
	Shown func([]*Pair)
}

// New makes a store that shows nothing yet.
func New(o Options) *Store {
	s := &Store{log: o.Log, loaded: o.Loaded, shows: o.Shown, now: time.Now, tickets: o.Tickets}
	if !s.tickets.good(s.now()) {
		s.tickets = newTickets(s.now())
	}
	s.config.Store(&tls.Config{MinVersion: tls.VersionTLS12})
	return s
}

// Config is how a new connection is secured. Before there was any certificate,
// its handshake fails.
func (s *Store) Config() *tls.Config { return s.config.Load() }

// Tickets are for the process whose clients will be ours. They are secret.
func (s *Store) Tickets() Tickets {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Tickets{Keys: slices.Clone(s.tickets.Keys), Since: s.tickets.Since}
}

// Source has certificates that come from elsewhere than files.
type Source interface {
	// Find returns what to show; nil: it has nothing for that client. It is asked
	// in each handshake, ahead of files that are for other names.
	Find(hello *tls.ClientHelloInfo) (*tls.Certificate, error)
	// Protocols are what handshakes may agree upon besides versions of HTTP, in
	// which no client can be asked for a certificate.
	Protocols() []string
}

// Use asks source too, from now on; nil: none.
func (s *Store) Use(source Source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.source = source
	s.show()
}

// Staged are settings whose files have been read, and are good.
type Staged struct {
	settings    Settings
	pairs       []*Pair
	authorities *x509.CertPool
	print       string
}

// Pairs are the certificates.
func (s *Staged) Pairs() []*Pair { return s.pairs }

// Stage reads all files of the settings. It changes nothing.
func Stage(settings Settings) (*Staged, error) {
	// The print comes first: what changes meanwhile will differ from it.
	staged := &Staged{settings: settings, print: printOf(&settings)}
	var errs []error
	for _, f := range settings.Certificates {
		p, err := Load(f)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, other := range staged.pairs {
			if host := p.Twin(other); host != "" {
				errs = append(errs, fmt.Errorf("%s and %s are both for %s, with keys of one kind", other.Cert, p.Cert, host))
				break
			}
		}
		staged.pairs = append(staged.pairs, p)
	}
	if settings.ClientCA != "" {
		var err error
		if staged.authorities, err = LoadAuthorities(settings.ClientCA); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return staged, nil
}

// Adopt shows what was staged to connections from now on.
func (s *Store) Adopt(staged *Staged) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.adopt(staged)
}

// adopt is Adopt. s.mu is held.
func (s *Store) adopt(staged *Staged) {
	if s.shown != nil && (s.shown.settings.ClientAuth != staged.settings.ClientAuth ||
		staged.authorities != nil && !staged.authorities.Equal(s.shown.authorities)) {
		// Tickets say that a client was let in, not by whose word.
		s.tickets = newTickets(s.now())
	}
	s.shown, s.bad, s.said = staged, "", false
	s.show()
	if s.shows != nil {
		s.shows(staged.pairs)
	}
	for _, p := range staged.pairs {
		if doubt := p.Doubt(s.now()); doubt != "" {
			s.log.Warn("certificate "+doubt, "certificate", p.Name(), "file", p.Cert)
		}
	}
}

// show makes the configuration of what is there. s.mu is held.
func (s *Store) show() {
	if s.shown == nil || len(s.shown.pairs) == 0 && s.source == nil {
		return // what was shown last serves listeners that are about to close
	}
	names := index(s.shown.pairs)
	names.source = s.source
	config := &tls.Config{
		GetCertificate: names.find,
		NextProtos:     []string{"h2", "http/1.1"},
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites,
		ClientAuth:     s.shown.settings.ClientAuth,
		ClientCAs:      s.shown.authorities,
		// Small records at first would be a system call each; what is to be
		// there soon is small anyway, and flushed.
		DynamicRecordSizingDisabled: true,
	}
	config.SetSessionTicketKeys(s.tickets.Keys)
	if s.source != nil {
		agreeOn(config, s.source.Protocols())
	}
	s.config.Store(config)
}

// agreeOn lets config agree on further protocols; their handshakes are done
// without a client's certificate.
func agreeOn(config *tls.Config, protocols []string) {
	if len(protocols) == 0 {
		return
	}
	config.NextProtos = slices.Concat(config.NextProtos, protocols)
	if config.ClientAuth == tls.NoClientCert {
		return
	}
	other := config.Clone()
	other.ClientAuth, other.ClientCAs, other.NextProtos = tls.NoClientCert, nil, protocols
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) == 1 && slices.Contains(protocols, hello.SupportedProtos[0]) {
			return other, nil
		}
		return nil, nil
	}
}

// errNone: nothing is there to show, for no name.
var errNone = errors.New("there is no certificate yet")

// names finds certificates by the name that a client asks for.
type names struct {
	source      Source
	exact, wild map[string][]*tls.Certificate // wild by what follows "*"
	standard    []*tls.Certificate
}

func index(pairs []*Pair) *names {
	n := &names{exact: map[string][]*tls.Certificate{}, wild: map[string][]*tls.Certificate{}}
	for _, p := range pairs {
		for _, host := range p.Hosts {
			if rest, wild := strings.CutPrefix(host, "*"); wild {
				n.wild[rest] = append(n.wild[rest], &p.Certificate)
			} else {
				n.exact[host] = append(n.exact[host], &p.Certificate)
			}
		}
	}
	if len(pairs) == 0 {
		return n
	}
	// With it go those of the same names and another kind of key.
	first := pairs[0]
	for _, p := range pairs {
		if p == first || slices.Equal(p.Hosts, first.Hosts) {
			n.standard = append(n.standard, &p.Certificate)
		}
	}
	return n
}

// find is crypto/tls's GetCertificate. A name for which there is none gets the
// default: the client's own word for what is wrong is better than ours.
func (n *names) find(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	host := plain(hello.ServerName)
	fitting := n.exact[host]
	if len(fitting) == 0 && n.source != nil {
		if found, err := n.source.Find(hello); found != nil || err != nil {
			return found, err
		}
	}
	if len(fitting) == 0 {
		if dot := strings.IndexByte(host, '.'); dot > 0 {
			fitting = n.wild[host[dot:]]
		}
	}
	if len(fitting) == 0 {
		fitting = n.standard
	}
	if len(fitting) == 0 {
		return nil, errNone
	}
	for _, c := range fitting {
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	return fitting[0], nil
}
