//go:build e2e

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"stoker/internal/acme/acmetest"
)

func portOf(t *testing.T, address string) int {
	t.Helper()
	_, digits, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// believed says whether the authority vouches for what a client gets for a name.
func believed(t *testing.T, s *secure, authority *acmetest.Server, name string) error {
	t.Helper()
	data, err := os.ReadFile(authority.Root)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(data)
	c, err := tls.Dial("tcp", s.address, &tls.Config{ServerName: name, RootCAs: roots})
	if err != nil {
		return err
	}
	return c.Close()
}

// TestACME: certificates are obtained by either challenge, past redirects, keys
// and client certificates; with the authority down nothing is lost; generations
// and masters after a crash show what others have obtained, and order nothing.
func TestACME(t *testing.T) {
	s := newSecure(t)
	u := startUpgradable(t, s.config)
	authority := acmetest.Start(t, acmetest.Options{Domains: []string{"a.test", "b.test"}, HTTP: portOf(t, u.address), TLS: portOf(t, s.address)})
	reload := func() {
		t.Helper()
		if out, err := exec.Command(u.path, "reload", "--run-dir", u.runDir).CombinedOutput(); err != nil {
			t.Fatalf("reload: %v: %s", err, out)
		}
	}
	acme := func(domains, challenge string) string {
		return fmt.Sprintf("[tls.acme]\ndomains = [%s]\nagree_terms = true\ndirectory = %q\nca = %q\nchallenges = [%q]\n",
			domains, authority.Directory, authority.Roots, challenge)
	}

	authority.Down(true)
	first := acme(`"a.test"`, "http-01")
	u.editConfig("[[tls.certificates]]", "[access]\nkeys_file = \"keys\"\n[tls]\nredirect_https = true\n"+first+"[[tls.certificates]]")
	if out, err := exec.Command(u.path, "key", "add", "alice", "--file", strings.Replace(u.config, "stoker.toml", "keys", 1)).CombinedOutput(); err != nil {
		t.Fatalf("key: %v: %s", err, out)
	}
	reload()
	u.eventually("a failure that is said", func() bool {
		return strings.Contains(u.logText(), "no certificate could be obtained") && u.metric("stoker_tls_acme_orders_total", `result="failed"`) > 0
	})
	if got := s.serial(t); got != 1 {
		t.Errorf("without an authority %d is shown, and not the file", got)
	}
	asIs := &http.Client{Timeout: patience, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	r, err := asIs.Get(u.url("/.well-known/acme-challenge/of-an-engine"))
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusPermanentRedirect {
		t.Errorf("somebody else's question is answered with %s", r.Status)
	}

	authority.Down(false)
	reload()
	u.eventually("a certificate by http-01", func() bool {
		return believed(t, s, authority, "a.test") == nil
	})
	if u.metric("stoker_tls_certificate_expiry_timestamp_seconds", `certificate="acme:a.test"`) == 0 {
		t.Error("no metric says how long it is good")
	}

	u.editConfig(first, acme(`"a.test", "b.test"`, "tls-alpn-01"))
	u.editConfig("[tls]\n", fmt.Sprintf("[tls]\nclient_auth = \"require\"\nclient_ca = %q\n", s.cert))
	reload()
	u.eventually("a certificate by tls-alpn-01, past client_auth", func() bool {
		return u.metric("stoker_tls_certificate_expiry_timestamp_seconds", `certificate="acme:b.test"`) > 0
	})
	u.editConfig(fmt.Sprintf("client_auth = \"require\"\nclient_ca = %q\n", s.cert), "")
	reload()

	orders := authority.Orders()
	authority.Down(true)
	shown := func(when string) {
		t.Helper()
		for _, name := range []string{"a.test", "b.test"} {
			if err := believed(t, s, authority, name); err != nil {
				t.Errorf("%s, %s: %v", when, name, err)
			}
		}
	}
	shown("before")
	u.mustUpgrade()
	shown("after an upgrade, with the authority down")
	authority.Down(false)
	u.mustUpgrade()
	shown("after another")
	if got := authority.Orders(); got != orders {
		t.Errorf("%d certificates ordered by generations that had them", got-orders)
	}
	u.untouched()
}
