package resolve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"stoker/internal/resolve/dnstest"
)

func written(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func ips(a Addresses) string {
	words := make([]string, len(a.IPs))
	for i, ip := range a.IPs {
		words[i] = ip.String()
	}
	return strings.Join(words, " ")
}

func TestAddresses(t *testing.T) {
	const host = "engines.internal"
	tests := []struct {
		name    string
		prepare func(s *dnstest.Server)
		want    string
		ttl     time.Duration
		partial bool
		err     error // errors.New: any
	}{
		{
			"both families, in order, each once", func(s *dnstest.Server) {
				s.Set(host, dns.TypeA, host+". 30 IN A 10.0.0.2", host+". 40 IN A 10.0.0.1", host+". 40 IN A 10.0.0.2")
				s.Set(host, dns.TypeAAAA, host+". 20 IN AAAA fd00::1")
			}, "10.0.0.1 10.0.0.2 fd00::1", 20 * time.Second, false, nil,
		},
		{
			"an alias whose end comes with it", func(s *dnstest.Server) {
				s.Set(host, dns.TypeA, host+". 5 IN CNAME b.internal.", "b.internal. 30 IN A 10.0.0.3", "other.internal. 1 IN A 10.9.9.9")
			}, "10.0.0.3", 5 * time.Second, false, nil,
		},
		{
			"an alias whose end must be asked for", func(s *dnstest.Server) {
				s.Set(host, dns.TypeA, host+". 30 IN CNAME b.internal.")
				s.Set("b.internal", dns.TypeA, "b.internal. 7 IN A 10.0.0.4")
			}, "10.0.0.4", 7 * time.Second, false, nil,
		},
		{
			"aliases in a circle", func(s *dnstest.Server) {
				for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
					s.Set(host, kind, host+". 30 IN CNAME b.internal.")
					s.Set("b.internal", kind, "b.internal. 7 IN CNAME "+host+".")
				}
			}, "", 0, false, errors.New("CNAMEs"),
		},
		{
			"one question fails", func(s *dnstest.Server) {
				s.Set(host, dns.TypeA, host+". 30 IN A 10.0.0.1")
				s.FailOne(host, dns.TypeAAAA, dns.RcodeServerFailure)
			}, "10.0.0.1", 30 * time.Second, true, nil,
		},
		{
			"cut short", func(s *dnstest.Server) {
				var many []string
				for i := range 100 {
					many = append(many, fmt.Sprintf("%s. 30 IN A 10.0.1.%d", host, i))
				}
				s.Set(host, dns.TypeA, many...)
				s.Truncate()
			}, "100 of them", 30 * time.Second, false, nil,
		},
		{"no such name", func(*dnstest.Server) {}, "", 0, false, ErrNotFound},
		{"nothing of that kind", func(s *dnstest.Server) { s.Set(host, dns.TypeTXT) }, "", 0, false, ErrNotFound},
		{"the server fails", func(s *dnstest.Server) { s.Fail(dns.RcodeServerFailure) }, "", 0, false, errors.New("SERVFAIL")},
		{"the server refuses", func(s *dnstest.Server) { s.Fail(dns.RcodeRefused) }, "", 0, false, errors.New("REFUSED")},
		{"nothing holds for no time", func(s *dnstest.Server) { s.Set(host, dns.TypeA, host+". 0 IN A 10.0.0.1") }, "10.0.0.1", 0, false, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := dnstest.Start(t)
			tt.prepare(s)
			got, err := (&Resolver{Server: s.Address}).Addresses(t.Context(), host)
			if tt.err != nil {
				if err == nil || !errors.Is(err, tt.err) && !strings.Contains(err.Error(), tt.err.Error()) {
					t.Errorf("got %v, %v, want %v", got, err, tt.err)
				}
				return
			}
			text := ips(got)
			if len(got.IPs) > 10 {
				text = fmt.Sprint(len(got.IPs), " of them")
				if s.OverTCP() == 0 {
					t.Error("not asked over TCP")
				}
			}
			if err != nil || text != tt.want || got.TTL != tt.ttl || got.Partial != tt.partial {
				t.Errorf("got %q for %v, partial %v, %v; want %q for %v, partial %v", text, got.TTL, got.Partial, err, tt.want, tt.ttl, tt.partial)
			}
		})
	}
}

func TestServices(t *testing.T) {
	const name = "_http._tcp.engines.internal"
	s := dnstest.Start(t)
	r := &Resolver{Server: s.Address}
	s.Set(name, dns.TypeSRV, name+". 30 IN SRV 10 5 8000 B.internal.", name+". 30 IN SRV 20 0 8001 c.internal.", name+". 12 IN SRV 10 1 8000 a.internal.")
	got, err := r.Services(t.Context(), name)
	want := "[{a.internal 8000 10 1} {b.internal 8000 10 5} {c.internal 8001 20 0}]"
	if err != nil || fmt.Sprint(got.List) != want || got.TTL != 12*time.Second {
		t.Errorf("got %v, %v; want %s", got, err, want)
	}
	s.Set(name, dns.TypeSRV, name+". 30 IN SRV 0 0 0 .")
	if _, err := r.Services(t.Context(), name); !errors.Is(err, ErrNotFound) {
		t.Errorf("a service that is not offered: %v", err)
	}
}

func TestHostsFileAndLiteralAddresses(t *testing.T) {
	r := &Resolver{
		Hosts:      written(t, "hosts", "127.0.0.1 localhost\n10.0.0.9\tNode9 node9.internal # 10.0.0.8 node9\nbad node9\nfd00::9 node9\n10.0.0.9 node9\n"),
		ResolvConf: "/nonexistent",
	}
	got, err := r.Addresses(t.Context(), "node9")
	if err != nil || ips(got) != "10.0.0.9 fd00::9" || got.TTL != HostsTTL {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Addresses(t.Context(), "10.1.2.3"); err != nil || ips(got) != "10.1.2.3" {
		t.Errorf("got %v, %v", got, err)
	}
	if got, err := r.Addresses(t.Context(), "node10"); err == nil {
		t.Errorf("without resolv.conf: %v", got)
	}
}

// TestSearchList goes by a resolv.conf's list, at a server on a port of its own.
func TestSearchList(t *testing.T) {
	s := dnstest.Start(t)
	s.Set("engines.rack.internal", dns.TypeA, "engines.rack.internal. 30 IN A 10.0.0.1")
	s.Set("engines.row.internal", dns.TypeA, "engines.row.internal. 30 IN A 10.0.0.2")
	servers, err := dns.ClientConfigFromReader(strings.NewReader("search hall.internal rack.internal row.internal\noptions ndots:1 timeout:1 attempts:1\n"))
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(s.Address)
	servers.Servers, servers.Port = []string{host}, port
	ask := func(name string) (string, error) {
		var r Resolver
		found, err := r.search(t.Context(), servers, name)
		return ips(found), err
	}
	if got, err := ask("engines"); err != nil || got != "10.0.0.1" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ask("engines.row.internal"); err != nil || got != "10.0.0.2" {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ask("engines."); !errors.Is(err, ErrNotFound) {
		t.Errorf("a full name was completed: %q, %v", got, err)
	}
	// No answer for the first of the list is no reason to believe the second.
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA} {
		s.FailOne("engines.hall.internal", kind, dns.RcodeServerFailure)
	}
	if got, err := ask("engines"); err == nil {
		t.Errorf("got %q although the first server of the list did not answer", got)
	}
	// A second server is asked where the first does not answer.
	servers.Servers = []string{"127.0.0.2", host}
	if got, err := ask("engines.row.internal"); err != nil || got != "10.0.0.2" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestGivesUpWithTheContext(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := (&Resolver{Server: silent.LocalAddr().String()}).Addresses(ctx, "engines.internal"); err == nil {
		t.Error("an answer from nobody")
	}
}
