package main

import (
	"context"
	"crypto/x509"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/acme"
	"stoker/internal/certs"
	"stoker/internal/door"
	"stoker/internal/http1"
)

// obtained are the certificates that an authority gives us by itself. Only the
// generation that serves orders any.
type obtained struct {
	// manager is nil where the configuration names no domains.
	manager atomic.Pointer[acme.Manager]

	mu           sync.Mutex
	begun, ended bool
}

// set goes on with manager, which may be nil or the one that there is.
func (o *obtained) set(manager *acme.Manager) {
	o.mu.Lock()
	defer o.mu.Unlock()
	old := o.manager.Swap(manager)
	switch {
	case old == manager && manager != nil:
		manager.Nudge() // an operator who reloads may have mended what it waits for
		return
	case manager != nil && o.begun && !o.ended:
		manager.Begin()
	}
	if old != nil {
		old.Close()
	}
}

// begin lets certificates be ordered.
func (o *obtained) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.begun = true
	if manager := o.manager.Load(); manager != nil && !o.ended {
		manager.Begin()
	}
}

// end lets none be ordered any more: whoever follows does that. It must come
// before the door closes, at which the authority would ask.
func (o *obtained) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	if manager := o.manager.Load(); manager != nil {
		manager.Close()
	}
}

// held are the certificates that there are.
func (o *obtained) held() []acme.Held {
	if manager := o.manager.Load(); manager != nil {
		return manager.Held()
	}
	return nil
}

// authorityRoots reads who vouches for the authority's server; nil: the system's.
func authorityRoots(cfg *config.Config) (*x509.CertPool, error) {
	if !cfg.TLS.ACME.Enabled() || cfg.TLS.ACME.CA == "" {
		return nil, nil
	}
	return certs.LoadAuthorities(cfg.TLS.ACME.CA)
}

// obtainedBy is the manager for a configuration, with what is in its storage: the
// one that there is, where it says the same.
func (m *master) obtainedBy(ctx context.Context, cfg *config.Config, roots *x509.CertPool, listeners ...map[string]*door.Listener) *acme.Manager {
	a := &cfg.TLS.ACME
	if !a.Enabled() {
		return nil
	}
	at := func(challenge string) string {
		for _, l := range listeners {
			if l := l[cfg.Asked(challenge)]; l != nil {
				return l.Addr().String()
			}
		}
		return ""
	}
	s := acme.Settings{
		Directory: a.Directory, Email: a.Email, Domains: a.Domains, Roots: roots, Storage: filepath.Join(cfg.StateDir, "acme"),
		HTTP: at(config.ChallengeHTTP), TLS: at(config.ChallengeTLS), Check: a.CheckInterval.Std(),
	}
	if now := m.obtained.manager.Load(); now != nil && now.Settings().Same(&s) {
		return now
	}
	return acme.New(ctx, s, acme.Options{Log: m.log.Named("acme"), Ordered: m.tlsMetrics.ordered})
}

// adoptObtained shows what manager has from now on; nil: there is none.
func (m *master) adoptObtained(manager *acme.Manager) {
	if manager == nil {
		m.certs.Use(nil)
	} else {
		m.certs.Use(manager)
	}
	m.obtained.set(manager)
}

// witness answers the authority's question whether a domain is ours, ahead of
// routes, keys and redirects: it has no key, and speaks plain HTTP.
type witness struct{ m *master }

func (w witness) answers(x *exchange.Exchange) bool {
	manager := w.m.obtained.manager.Load()
	return manager != nil && acme.IsQuestion(x.Request.Method, x.Request.Target) && testify(manager, x) // an engine may have an authority of its own
}

// testify answers x if it is manager's to answer.
func testify(manager *acme.Manager, x *exchange.Exchange) bool {
	body, ok := manager.Answer(x.Request.Authority, x.Request.Target)
	if !ok {
		return false
	}
	x.Record.Own = true
	fields := http1.Fields{{Name: "Content-Type", Value: "text/plain"}, {Name: "Cache-Control", Value: "no-store"}}
	if err := send(x, http.StatusOK, fields, body); err != nil {
		x.Sink.Break(err)
	}
	return true
}
