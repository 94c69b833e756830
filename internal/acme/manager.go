package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/zap"
)

// Settings say which certificates are kept, and by whose hand.
type Settings struct {
	// Directory is the authority's, a URL.
	Directory string
	// Email is where the authority can reach us; empty: nowhere.
	Email string
	// Domains each get a certificate.
	Domains []string
	// Roots vouch for the authority's own server; nil: the system's do.
	Roots *x509.CertPool
	// Storage is the directory of keys, certificates and accounts. Nobody but its
	// owner can read what is put there.
	Storage string
	// HTTP and TLS are the addresses, HOST:PORT, of listeners where the authority's
	// questions arrive (http-01 and tls-alpn-01); empty: that kind is not offered.
	HTTP, TLS string
	// Check is how often it is looked whether a certificate is due.
	Check time.Duration

	// window is how much of its time a certificate is due before its end; 0: a
	// third. Tests have no month.
	window float64
}

// Same says whether who keeps one keeps the other.
func (s *Settings) Same(other *Settings) bool {
	roots := s.Roots == other.Roots || s.Roots != nil && other.Roots != nil && s.Roots.Equal(other.Roots)
	return roots && s.Directory == other.Directory && s.Email == other.Email && slices.Equal(s.Domains, other.Domains) &&
		s.Storage == other.Storage && s.HTTP == other.HTTP && s.TLS == other.TLS && s.Check == other.Check
}

// Options are what a manager is made with.
type Options struct {
	Log hclog.Logger
	// Ordered, where not nil, is told how each order of a certificate has ended.
	Ordered func(ok bool)
}

// Manager keeps certificates. Its methods may be called by anybody at any time.
type Manager struct {
	settings Settings
	log      hclog.Logger
	ordered  func(ok bool)

	magic   *certmagic.Config
	cache   *certmagic.Cache
	library *zap.Logger
	// issuers are all ways to the one authority.
	issuers []*certmagic.ACMEIssuer

	end     context.CancelFunc
	running sync.WaitGroup
	closed  sync.Once

	mu sync.Mutex
	// nudged is closed and replaced when whoever waits shall try at once.
	nudged chan struct{}
}

// loading bounds what is read before New returns: with a certificate's file may
// come a question to its authority's OCSP server.
const loading = 5 * time.Second

// New makes a manager that shows what is in its storage. It orders nothing before
// Begin.
func New(ctx context.Context, settings Settings, o Options) *Manager {
	m := &Manager{settings: settings, log: o.Log, ordered: o.Ordered, library: libraryLog(o.Log), nudged: make(chan struct{})}
	if m.ordered == nil {
		m.ordered = func(bool) {}
	}
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.magic, nil },
		RenewCheckInterval: settings.Check,
		Logger:             m.library,
	})
	m.magic = certmagic.New(m.cache, certmagic.Config{
		Storage:            &certmagic.FileStorage{Path: settings.Storage},
		RenewalWindowRatio: settings.window,
		OnEvent:            m.heard,
		ShouldEmitFunc:     heeded,
		Logger:             m.library,
	})
	m.issuers = m.newIssuers()
	m.magic.Issuers = make([]certmagic.Issuer, len(m.issuers))
	for i, issuer := range m.issuers {
		m.magic.Issuers[i] = issuer
	}
	within(loading, func() {
		for _, domain := range settings.Domains {
			_ = m.load(ctx, domain) // whoever keeps it finds that again, and says so
		}
	})
	return m
}

// Settings are what it was made with.
func (m *Manager) Settings() *Settings { return &m.settings }

// Begin orders what is missing or due, from now on until Close.
func (m *Manager) Begin() {
	ctx, cancel := context.WithCancel(context.Background())
	m.end = cancel
	for _, domain := range m.settings.Domains {
		m.running.Go(func() { m.keep(ctx, domain) })
	}
}

// Nudge makes whoever waits before the next try go at once: somebody may have
// mended what kept it from succeeding.
func (m *Manager) Nudge() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.nudged)
	m.nudged = make(chan struct{})
}

func (m *Manager) whenNudged() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nudged
}

// Close ends all orders. What it has is shown on. It must not be called while
// Begin is.
func (m *Manager) Close() {
	m.closed.Do(func() {
		if m.end != nil {
			m.end()
		}
		if !within(stopping, func() { m.running.Wait(); m.cache.Stop() }) {
			m.log.Debug("an authority is being asked something; not waiting for the answer")
		}
		// A renewal that the library had begun has just been canceled and may not have
		// let go yet: the next process would wait until its lock is stale.
		certmagic.CleanUpOwnLocks(context.Background(), m.library)
	})
}

// stopping bounds what an end waits for.
const stopping = time.Second

// within does what may have to wait for an authority's servers, and says whether
// it was done in time: the library asks about OCSP without a limit, and nothing
// interrupts that. Neither a start nor an end shall wait for it.
func within(limit time.Duration, do func()) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	wait := time.NewTimer(limit)
	defer wait.Stop()
	select {
	case <-done:
		return true
	case <-wait.C:
		return false
	}
}

// Held is a certificate that there is.
type Held struct {
	Domain string
	Until  time.Time
}

// Held are all certificates, in the order of the domains.
func (m *Manager) Held() []Held {
	var all []Held
	for _, domain := range m.settings.Domains {
		if cert, ok := m.held(domain); ok {
			all = append(all, Held{domain, cert.Leaf.NotAfter})
		}
	}
	return all
}

// held is the certificate of a domain.
func (m *Manager) held(domain string) (certmagic.Certificate, bool) {
	for _, cert := range m.cache.AllMatchingCertificates(domain) {
		if cert.Leaf != nil && slices.Contains(cert.Names, domain) {
			return cert, true
		}
	}
	return certmagic.Certificate{}, false
}

// Find is what to show to a client: the answer to the authority's question, or the
// certificate for the name that it asks for. Nil: there is none.
func (m *Manager) Find(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if isQuestion(hello) {
		return m.magic.GetCertificate(hello)
	}
	if !m.knows(hello.ServerName) {
		return nil, nil
	}
	if _, ok := m.held(plain(hello.ServerName)); !ok {
		return nil, nil
	}
	return m.magic.GetCertificate(hello)
}
