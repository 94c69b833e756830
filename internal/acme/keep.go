package acme

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"time"
)

// pause is how long a domain is left alone after what no further try would mend
// by itself, such as a full disk. The library's own pauses are for all else.
const pause = 10 * time.Minute

// keep sees that there is a certificate for domain, and that it is a good one,
// until ctx ends. When it is due later, the library's own clock finds it.
func (m *Manager) keep(ctx context.Context, domain string) {
	for ctx.Err() == nil {
		nudged := m.whenNudged()
		err := m.haveUntil(ctx, nudged, domain)
		switch {
		case errors.Is(err, context.Canceled): // nudged, or the end
			continue
		case err == nil:
			select {
			case <-ctx.Done():
			case <-nudged:
			}
			continue
		}
		m.log.Error("a certificate cannot be kept", "domain", domain, "error", err, "again_in", pause.String())
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-nudged:
		case <-wait.C:
		}
		wait.Stop()
	}
}

// haveUntil is have, canceled by a nudge.
func (m *Manager) haveUntil(ctx context.Context, nudged <-chan struct{}, domain string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-nudged:
			cancel()
		case <-over:
		}
	}()
	err := m.have(ctx, domain)
	close(over)
	<-done
	if err != nil && ctx.Err() != nil {
		return context.Canceled // whatever the library makes of it
	}
	return err
}

// have loads, obtains or renews, as is needed, and tries on until it has.
func (m *Manager) have(ctx context.Context, domain string) error {
	cert, ok := m.held(domain)
	if !ok {
		err := m.load(ctx, domain)
		if errors.Is(err, fs.ErrNotExist) {
			// Not in the background, whatever the name says: it is the one that never
			// asks questions on the terminal, and tries again.
			if err = m.magic.ObtainCertAsync(ctx, domain); err == nil {
				err = m.load(ctx, domain)
			}
		}
		if err != nil {
			return err
		}
		cert, _ = m.held(domain)
	}
	if cert.Leaf == nil || !cert.NeedsRenewal(m.magic) {
		return nil
	}
	if err := m.magic.RenewCertAsync(ctx, domain, false); err != nil {
		return err
	}
	if err := m.load(ctx, domain); err != nil {
		return err
	}
	for _, other := range m.cache.AllMatchingCertificates(domain) {
		if other.Hash() != cert.Hash() {
			m.cache.Remove([]string{cert.Hash()}) // else either might be shown
			break
		}
	}
	return nil
}

// load shows what is in the storage.
func (m *Manager) load(ctx context.Context, domain string) error {
	_, err := m.magic.CacheManagedCertificate(ctx, domain)
	return err
}

// What the library tells that is heeded.
const (
	eventObtained = "cert_obtained"
	eventFailed   = "cert_failed"
	eventRevoked  = "cert_ocsp_revoked"
)

// heeded says whether an event is worth telling. It is asked in handshakes too.
func heeded(event string) bool {
	return event == eventObtained || event == eventFailed || event == eventRevoked
}

// heard says what has become of an order.
func (m *Manager) heard(ctx context.Context, event string, data map[string]any) error {
	domain, _ := data["identifier"].(string)
	renewal, _ := data["renewal"].(bool)
	switch event {
	case eventObtained:
		m.ordered(true)
		file, _ := data["certificate_path"].(string)
		what := "certificate obtained"
		if renewal {
			what = "certificate renewed"
		}
		m.log.Info(what, "domain", domain, "until", m.untilOf(ctx, file))
	case eventRevoked:
		m.log.Warn("a certificate was revoked by its authority, and is replaced", "domains", data["subjects"])
	case eventFailed:
		if ctx.Err() == nil { // else a nudge or the end, no failure
			m.ordered(false)
			m.complain(domain, data["error"])
		}
	}
	return nil
}

// complain says what an order has failed of.
func (m *Manager) complain(domain string, reason any) {
	if old, ok := m.held(domain); ok {
		m.log.Warn("a certificate could not be renewed: the one from before is shown on, and it is tried again",
			"domain", domain, "until", old.Leaf.NotAfter.UTC().Format(time.RFC3339), "directory", m.settings.Directory, "error", reason)
		return
	}
	m.log.Error("no certificate could be obtained: it is tried again, less and less often, and at once by a reload",
		"domain", domain, "directory", m.settings.Directory, "error", reason)
}

// untilOf is for how long a stored certificate is good; empty: not known.
func (m *Manager) untilOf(ctx context.Context, file string) string {
	data, err := m.magic.Storage.Load(ctx, file)
	if err != nil {
		return ""
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return ""
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return ""
	}
	return cert.NotAfter.UTC().Format(time.RFC3339)
}
