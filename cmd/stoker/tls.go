package main

import (
	"context"
	"crypto/tls"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"stoker/balancer/front"
	"stoker/config"
	"stoker/internal/acme"
	"stoker/internal/certs"
)

// tlsMetrics count handshakes, and show how long certificates are still good.
type tlsMetrics struct {
	handshakes *prometheus.CounterVec
	resumed    prometheus.Counter
	duration   prometheus.Histogram
	reloads    *prometheus.CounterVec
	orders     *prometheus.CounterVec
	expiry     *expiry
}

// newTLSMetrics makes them; held are the certificates that no file of the
// configuration holds.
func newTLSMetrics(r prometheus.Registerer, held func() []acme.Held) *tlsMetrics {
	m := &tlsMetrics{
		handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_tls_handshakes_total",
			Help: "Handshakes with clients, by what became of them.",
		}, []string{"result"}),
		resumed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stoker_tls_handshakes_resumed_total",
			Help: "Handshakes with clients that came again with a session ticket.",
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "stoker_tls_handshake_duration_seconds",
			Help:    "How long good handshakes took, the waits for the client included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}),
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_tls_certificate_reloads_total",
			Help: "Readings of certificates whose files had changed.",
		}, []string{"result"}),
		orders: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_tls_acme_orders_total",
			Help: "Orders of certificates from an ACME authority, by what became of them.",
		}, []string{"result"}),
		expiry: &expiry{held: held, desc: prometheus.NewDesc("stoker_tls_certificate_expiry_timestamp_seconds",
			"When a certificate that is shown expires, in Unix time.", []string{"certificate"}, nil)},
	}
	r.MustRegister(m.handshakes, m.resumed, m.duration, m.reloads, m.orders, m.expiry)
	return m
}

// expiry says when certificates expire, those from files and those that were obtained.
type expiry struct {
	desc  *prometheus.Desc
	files atomic.Pointer[[]*certs.Pair]
	held  func() []acme.Held
}

// Describe implements prometheus.Collector.
func (e *expiry) Describe(to chan<- *prometheus.Desc) { to <- e.desc }

// Collect implements prometheus.Collector.
func (e *expiry) Collect(to chan<- prometheus.Metric) {
	tell := func(certificate string, until time.Time) {
		to <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(until.Unix()), certificate)
	}
	if files := e.files.Load(); files != nil {
		for _, p := range *files {
			tell(p.Cert, p.Leaf.NotAfter)
		}
	}
	for _, h := range e.held() {
		tell("acme:"+h.Domain, h.Until)
	}
}

// shaken is told by the front.
func (m *tlsMetrics) shaken(h front.Handshake) {
	m.handshakes.WithLabelValues(h.Result).Inc()
	if h.Err != nil {
		return
	}
	m.duration.Observe(h.Took.Seconds())
	if h.State.DidResume {
		m.resumed.Inc()
	}
}

// shown is told by the store.
func (m *tlsMetrics) shown(pairs []*certs.Pair) { m.expiry.files.Store(&pairs) }

func (m *tlsMetrics) loaded(ok bool) { m.reloads.WithLabelValues(resultWord(ok)).Inc() }

func (m *tlsMetrics) ordered(ok bool) { m.orders.WithLabelValues(resultWord(ok)).Inc() }

func resultWord(ok bool) string {
	if ok {
		return "ok"
	}
	return "failed"
}

// newCerts shows what the configuration names; the tickets of the generation
// before go on being good.
func newCerts(m *master, metrics *tlsMetrics) (*certs.Store, error) {
	staged, err := certs.Stage(certSettings(m.cfg))
	if err != nil {
		return nil, err
	}
	o := certs.Options{Log: m.log.Named("tls"), Loaded: metrics.loaded, Shown: metrics.shown}
	if passed := m.inherit.hello.Tickets; passed != nil {
		o.Tickets = *passed
	}
	store := certs.New(o)
	store.Adopt(staged)
	return store, nil
}

// certSettings are what a configuration says of certificates.
func certSettings(cfg *config.Config) certs.Settings {
	t := &cfg.TLS
	s := certs.Settings{ClientCA: t.ClientCA, ClientAuth: tls.NoClientCert}
	switch t.ClientAuth {
	case config.ClientAuthRequest:
		s.ClientAuth = tls.VerifyClientCertIfGiven
	case config.ClientAuthRequire:
		s.ClientAuth = tls.RequireAndVerifyClientCert
	}
	for _, c := range t.Certificates {
		s.Certificates = append(s.Certificates, certs.Files{Cert: c.Cert, Key: c.Key, Hosts: c.Hosts})
	}
	return s
}

// tickets are for the next generation, which goes on where this one ends; nil
// where there is no TLS.
func (m *master) tickets() *certs.Tickets {
	if len(m.current.Load().ListenTLS) == 0 {
		return nil
	}
	t := m.certs.Tickets()
	return &t
}

// mannerOf says for each connection to a configured address how it begins: a
// reload may change that while the listener stays. It is asked by one goroutine.
func (m *master) mannerOf(address string) func() front.Manner {
	var by *config.Config
	var manner front.Manner
	secure := false
	return func() front.Manner {
		// One that is not configured any more goes on as it was until its door is closed.
		if cfg := m.current.Load(); cfg != by && slices.Contains(cfg.Doors(), address) {
			by, secure, manner.Proxies = cfg, cfg.Secure(address), nil
			if some, all := cfg.ProxyProtocol.Speaks(address); some {
				manner.Proxies = &front.Proxies{From: cfg.ProxyProtocol.From, Only: all}
			}
		}
		manner.TLS = nil
		if secure {
			manner.TLS = m.certs.Config()
		}
		return manner
	}
}

// watchCerts lets changed certificates be read until stop is called.
func (m *master) watchCerts(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { m.certs.Watch(ctx) })
	return func() {
		cancel()
		watching.Wait()
	}
}

// secured tells the front what a configuration says of answers over TLS.
func (m *master) secured(cfg *config.Config) {
	m.front.SetHSTS(time.Duration(cfg.TLS.HSTS))
}
