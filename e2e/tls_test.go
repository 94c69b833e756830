//go:build e2e

package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// secure is a TLS listener's side of a test.
type secure struct {
	address string
	config  string // of the master
	cert    string // files
	key     string
	until   time.Time // of certificates from now on; zero: for a month
	names   []string  // that certificates carry, beside localhost
}

func newSecure(t *testing.T) *secure {
	t.Helper()
	dir := t.TempDir()
	s := &secure{address: freeAddress(t), cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	s.renew(t, 1)
	s.config = fmt.Sprintf("listen_tls = [%q]\n[[tls.certificates]]\ncert = %q\nkey = %q\n", s.address, s.cert, s.key)
	return s
}

// renew puts another certificate, of that serial number, in the place of the last.
func (s *secure) renew(t *testing.T, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	until := s.until
	if until.IsZero() {
		until = time.Now().Add(30 * 24 * time.Hour)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), DNSNames: append([]string{"localhost"}, s.names...), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-365 * 24 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{s.cert: {Type: "CERTIFICATE", Bytes: der}, s.key: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(path+"~", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+"~", path); err != nil {
			t.Fatal(err)
		}
	}
}

// client speaks HTTP/1.1 or HTTP/2. It trusts anybody: whom it meets is looked at.
func (s *secure) client(t *testing.T, http2 bool) *http.Client {
	t.Helper()
	p := new(http.Protocols)
	p.SetHTTP1(!http2)
	p.SetHTTP2(http2)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, Protocols: p, MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: patience}
}

func (s *secure) url(path string) string { return "https://" + s.address + path }

// dial makes a bare connection.
func (s *secure) dial(t *testing.T, config *tls.Config) *tls.Conn {
	t.Helper()
	config.InsecureSkipVerify, config.ServerName = true, "localhost"
	c, err := tls.Dial("tcp", s.address, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// serial is that of the certificate that is shown now.
func (s *secure) serial(t *testing.T) int64 {
	t.Helper()
	c := s.dial(t, &tls.Config{})
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func get(c *http.Client, url string) error {
	r, err := c.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// TestTLSSwapAndUpgradeUnderLoad: certificates are swapped, reloads done and
// masters upgraded while clients of both versions go on. No request fails, and a
// client that comes again after an upgrade is known. WebSockets outlast swaps and
// reloads; by upgrades they are asked to go, in the end, and nothing else befalls them.
func TestTLSSwapAndUpgradeUnderLoad(t *testing.T) {
	works(t)
	s := newSecure(t)
	u := startUpgradable(t, "shutdown.drain_timeout = \"2s\"\n"+s.config)
	var over atomic.Bool
	var answered atomic.Int64
	seen, talked := newTally(), newTally()
	talk := crowd(4, func(_, _ int) bool {
		talked.add(s.converse(t, &over))
		return !over.Load()
	})
	clients := []*http.Client{s.client(t, false), s.client(t, true), s.client(t, false), s.client(t, true)}
	clients[2].Transport.(*http.Transport).DisableKeepAlives = true
	load := crowd(8, func(client, _ int) bool {
		what, said := "ok", ""
		if err := get(clients[client%len(clients)], s.url("/work?ms=2")); err != nil {
			what, said = "failed", err.Error()
		}
		answered.Add(1)
		seen.add(what, said)
		return !over.Load()
	})
	cache := tls.NewLRUClientSessionCache(1)
	resumed := func() bool {
		c := s.dial(t, &tls.Config{ClientSessionCache: cache})
		fmt.Fprint(c, "GET /work HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("a whole answer ends with %v", err)
		}
		return c.ConnectionState().DidResume
	}
	resumed()
	for i := range int64(3) {
		before := talked.count("asked to go")
		s.renew(t, i+2)
		if out, err := exec.Command(u.path, "reload", "--run-dir", u.runDir).CombinedOutput(); err != nil {
			t.Fatalf("reload: %v: %s", err, out)
		}
		if got := s.serial(t); got != i+2 {
			t.Errorf("certificate %d is shown, want %d", got, i+2)
		}
		if i == 0 && talked.count("asked to go") > before {
			t.Error("a WebSocket has not outlasted a reload")
		}
		u.mustUpgrade()
		if !resumed() {
			t.Error("a client is not known after an upgrade")
		}
	}
	s.renew(t, 99)
	u.eventually("the changed files are read without being asked", func() bool { return s.serial(t) == 99 })
	u.eventually("the old generation asks its WebSockets to go", func() bool { return talked.count("asked to go") >= 4 })
	over.Store(true)
	load.Wait()
	talk.Wait()
	if wrong := seen.except("ok"); wrong != "" {
		t.Errorf("of %d answers: %s", answered.Load(), wrong)
	}
	if wrong := talked.except("ok", "asked to go"); wrong != "" {
		t.Errorf("WebSockets: %s", wrong)
	}
	u.untouched()
	t.Logf("%d answers, %d WebSockets", answered.Load(), talked.count("ok")+talked.count("asked to go"))
}

// TestTLSAnswers: what is seen of answers without TLS is seen with it too.
func TestTLSAnswers(t *testing.T) {
	s := newSecure(t)
	m := start(t, s.config+fakePool(1)).allReady()

	t.Run("no event is held back", func(t *testing.T) {
		r, err := s.client(t, false).Get(s.url("/events"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		in := bufio.NewReader(r.Body)
		for i := range 3 {
			if line, err := in.ReadString('\n'); err != nil {
				t.Fatalf("event %d: %q, %v", i, line, err)
			}
			if blank, err := in.ReadString('\n'); err != nil || strings.TrimSpace(blank) != "" {
				t.Fatalf("event %d is followed by %q, %v", i, blank, err)
			}
			if err := get(s.client(t, true), s.url("/next")); err != nil { // the engine sends no event before
				t.Fatal(err)
			}
		}
	})
	t.Run("a broken answer looks broken", func(t *testing.T) {
		for _, http2 := range []bool{false, true} {
			r, err := s.client(t, http2).Get(s.url("/break"))
			if err == nil {
				_, err = io.ReadAll(r.Body)
				r.Body.Close()
			}
			if err == nil {
				t.Errorf("HTTP/2 %v: half an answer looks whole", http2)
			}
		}
		c := s.dial(t, &tls.Config{})
		fmt.Fprint(c, "GET /break HTTP/1.0\r\n\r\n") // whose body ends where the connection does
		if _, err := io.ReadAll(c); err == nil {
			t.Error("HTTP/1.0: half an answer ends in peace")
		}
	})
	t.Run("a client that leaves is seen while the engine is silent", func(t *testing.T) {
		c := s.dial(t, &tls.Config{})
		fmt.Fprint(c, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n")
		m.eventually("the engine has the request", func() bool { return m.metric("stoker_requests_in_flight", `worker="p-0"`) == 1 })
		c.Close()
		m.eventually("the request has ended", func() bool { return m.metric("stoker_requests_in_flight", `worker="p-0"`) == 0 })
	})
	t.Run("who cannot be served", func(t *testing.T) {
		if c, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}); err == nil {
			c.Close()
			t.Error("TLS 1.1 was agreed upon")
		}
		r, err := http.Get("http://" + s.address + "/")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode != http.StatusBadRequest {
			t.Errorf("plain HTTP gets %s", r.Status)
		}
		m.eventually("both are counted", func() bool {
			return m.metric("stoker_tls_handshakes_total", `result="version"`) == 1 && m.metric("stoker_tls_handshakes_total", `result="plain_http"`) == 1
		})
	})
	t.Run("h2load", func(t *testing.T) {
		out, err := exec.Command(tool(t, "h2load", "apt-get install nghttp2-client"), "-n", "2000", "-c", "4", "-m", "10", s.url("/work")).CombinedOutput()
		if n := number(out, `(\d+) 2xx`); err != nil || n != 2000 {
			t.Errorf("%d of 2000 answers were 2xx, %v: %s", n, err, out)
		}
	})
	t.Run("a bad certificate changes nothing", func(t *testing.T) {
		text, err := os.ReadFile(s.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.key, []byte("no key"), 0o600); err != nil {
			t.Fatal(err)
		}
		m.signal(syscall.SIGHUP)
		m.eventually("the refusal is logged", func() bool { return strings.Contains(m.logText(), "tls.certificates[0].key") })
		if got := s.serial(t); got != 1 {
			t.Errorf("certificate %d", got)
		}
		if err := os.WriteFile(s.key, text, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	m.stop()
}
