// Package acmetest is an ACME authority on loopback: Let's Encrypt's own test
// server, with a DNS in which every domain is this host.
package acmetest

import (
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"stoker/internal/resolve/dnstest"
)

// Options say what the authority is like.
type Options struct {
	// Domains are those that it finds at this host.
	Domains []string
	// HTTP and TLS are the ports at which it asks, in the place of 80 and 443.
	HTTP, TLS int
	// Validity of its certificates; 0: three months.
	Validity time.Duration
}

// Server is an authority.
type Server struct {
	// Directory is its URL.
	Directory string
	// Roots is a file with who vouches for its own server, Root one with who
	// vouches for its certificates.
	Roots, Root string

	down   atomic.Bool
	orders atomic.Int64
}

// Start begins to serve, until the test's end. The test must not be parallel to
// others: the authority is told by the environment not to be slow on purpose.
func Start(tb testing.TB, o Options) *Server {
	tb.Helper()
	tb.Setenv("PEBBLE_VA_NOSLEEP", "1")
	tb.Setenv("PEBBLE_AUTHZREUSE", "0")
	tb.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	names := dnstest.Start(tb)
	for _, domain := range o.Domains {
		names.Set(domain, dns.TypeA, domain+". 1 IN A 127.0.0.1")
	}
	silent := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	authority := ca.New(silent, store, "", "ecdsa", 0, 1, map[string]ca.Profile{
		"default": {Description: "the only one", ValidityPeriod: uint64(o.Validity.Seconds())},
	})
	asks := va.New(silent, o.HTTP, o.TLS, true, names.Address, store)
	front := wfe.New(silent, store, asks, authority, nil, true, false, 1, 1)

	s := &Server{}
	handler := front.Handler()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/order-plz" {
			s.orders.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	tb.Cleanup(server.Close)
	s.Directory = server.URL + wfe.DirectoryPath
	dir := tb.TempDir()
	s.Roots, s.Root = filepath.Join(dir, "server.pem"), filepath.Join(dir, "root.pem")
	write(tb, s.Roots, server.Certificate().Raw)
	write(tb, s.Root, authority.GetRootCert(0).DER)
	return s
}

func write(tb testing.TB, path string, der []byte) {
	tb.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Down lets it answer nothing but 503 from now on, or be well again.
func (s *Server) Down(down bool) { s.down.Store(down) }

// Orders is how many certificates were asked of it.
func (s *Server) Orders() int { return int(s.orders.Load()) }

// Port is a free one, or as good as: nobody holds it.
func Port(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // loopback
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}
