package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"stoker/internal/acme/acmetest"
)

// patience is for what takes milliseconds on an idle machine.
const patience = time.Minute

// log is what was said.
type log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) count(words string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), words)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// doors are listeners as a master has them, which answer by whoever is asked now.
type doors struct {
	plain, secure net.Listener
	mu            sync.Mutex
	manager       *Manager
}

func (d *doors) now() *Manager {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.manager
}

func (d *doors) use(m *Manager) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.manager = m
}

func open(t *testing.T) *doors {
	t.Helper()
	d := &doors{}
	for _, l := range []*net.Listener{&d.plain, &d.secure} {
		var err error
		if *l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	config := &tls.Config{NextProtos: []string{"http/1.1", Protocol}, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		cert, err := d.now().Find(hello)
		if cert == nil && err == nil {
			err = fmt.Errorf("nothing for %s", hello.ServerName)
		}
		return cert, err
	}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, ok := d.now().Answer(r.Host, r.URL.RequestURI())
		if !ok || !IsQuestion(r.Method, r.URL.Path) {
			w.WriteHeader(http.StatusNotFound)
		}
		_, _ = w.Write(body)
	})
	quiet := hclog.NewNullLogger().StandardLogger(nil)
	for _, l := range []net.Listener{d.plain, tls.NewListener(d.secure, config)} {
		server := &http.Server{Handler: handler, ErrorLog: quiet}
		done := make(chan struct{})
		go func() { defer close(done); _ = server.Serve(l) }()
		t.Cleanup(func() { _ = server.Close(); <-done })
	}
	return d
}

func port(l net.Listener) int { return l.Addr().(*net.TCPAddr).Port }

func roots(t *testing.T, file string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	return pool
}

// shown is the certificate that a client gets, as far as the authority's root vouches for it.
func shown(d *doors, root *x509.CertPool, name string) (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", d.secure.Addr().String(), &tls.Config{ServerName: name, RootCAs: root})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestObtainsByEachKindOfQuestion(t *testing.T) {
	for kind, tc := range map[string]struct{ http, tls, apart bool }{
		"http-01": {http: true}, "tls-alpn-01": {tls: true}, "both": {http: true, tls: true}, "both, at two hosts": {http: true, tls: true, apart: true},
	} {
		t.Run(kind, func(t *testing.T) {
			d := open(t)
			// Of its own: the library's queue is one for the process, and passes over a name
			// that it has a job for, which a test before may have left.
			kind := strings.NewReplacer(", ", "-", " ", "-").Replace(kind)
			domains := []string{kind + ".a.test", kind + ".b.test"}
			authority := acmetest.Start(t, acmetest.Options{Domains: domains, HTTP: port(d.plain), TLS: port(d.secure)})
			said := &log{}
			s := Settings{
				Directory: authority.Directory, Domains: domains, Roots: roots(t, authority.Roots),
				Storage: filepath.Join(t.TempDir(), "acme"), Check: time.Hour,
			}
			if tc.http {
				s.HTTP = d.plain.Addr().String()
			}
			if tc.apart {
				s.HTTP = fmt.Sprintf("localhost:%d", port(d.plain))
			}
			if tc.tls {
				s.TLS = d.secure.Addr().String()
			}
			m := New(t.Context(), s, Options{Log: hclog.New(&hclog.LoggerOptions{Output: said, Level: hclog.Trace})})
			d.use(m)
			m.Begin()
			defer m.Close()
			root := roots(t, authority.Root)
			for _, domain := range s.Domains {
				eventually(t, "a certificate for "+domain+"\n"+said.String(), func() bool {
					cert, err := shown(d, root, domain)
					return err == nil && cert.VerifyHostname(domain) == nil
				})
			}
			if _, err := shown(d, root, "c.test"); err == nil {
				t.Error("a certificate for a domain that is not ours")
			}
			if held := m.Held(); len(held) != 2 || held[0].Domain != domains[0] || time.Until(held[0].Until) < 24*time.Hour {
				t.Errorf("held %v", held)
			}
			if said.count("[INFO]  certificate obtained: ") != 2 {
				t.Errorf("said:\n%s", said)
			}
			// Nobody but us may read keys.
			err := filepath.WalkDir(s.Storage, func(path string, entry os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				if info, err := entry.Info(); err == nil && info.Mode().Perm()&0o077 != 0 && !strings.HasSuffix(path, ".lock") {
					t.Errorf("%s: %v", path, info.Mode())
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestQuestionsOfOthersAreNotOurs(t *testing.T) {
	m := New(t.Context(), Settings{
		Directory: "https://127.0.0.1:1/", Domains: []string{"a.test"}, Storage: t.TempDir(), HTTP: "127.0.0.1:80", Check: time.Hour,
	}, Options{Log: hclog.NewNullLogger()})
	defer m.Close()
	for _, q := range []struct{ host, target string }{
		{"a.test", questionPath + "token"},
		{"b.test", questionPath + "token"},
		{"a.test", questionPath},
		{"../../etc", questionPath + "x"},
		{"a.test:80", "/.well-known/acme-challenge/../../x"},
		{"", questionPath + "token"},
	} {
		if body, ok := m.Answer(q.host, q.target); ok {
			t.Errorf("%s %s: answered %q", q.host, q.target, body)
		}
	}
	if IsQuestion("POST", questionPath+"x") || IsQuestion("GET", "/v1/models") || !IsQuestion("GET", questionPath+"x") {
		t.Error("what is a question")
	}
}

// A due certificate is renewed; while the authority is down the old one is shown,
// and that is said.
func TestRenews(t *testing.T) {
	d := open(t)
	authority := acmetest.Start(t, acmetest.Options{Domains: []string{"a.test"}, HTTP: port(d.plain), TLS: port(d.secure), Validity: 10 * time.Minute})
	said := &log{}
	var mu sync.Mutex
	ended := map[bool]int{}
	s := Settings{
		Directory: authority.Directory, Email: "ops@a.test", Domains: []string{"a.test"}, Roots: roots(t, authority.Roots),
		Storage: t.TempDir(), TLS: d.secure.Addr().String(), Check: 100 * time.Millisecond,
		window: .995, // due after three seconds
	}
	start := func() *Manager {
		m := New(context.Background(), s, Options{
			Log: hclog.New(&hclog.LoggerOptions{Output: said}),
			Ordered: func(ok bool) {
				mu.Lock()
				defer mu.Unlock()
				ended[ok]++
			},
		})
		d.use(m)
		m.Begin()
		return m
	}
	m := start()
	root := roots(t, authority.Root)
	now := func() string {
		cert, err := shown(d, root, "a.test")
		if err != nil {
			return ""
		}
		return cert.SerialNumber.String()
	}
	const failure = "could not be renewed: the one from before is shown on"
	eventually(t, "a certificate", func() bool { return now() != "" })
	authority.Down(true)
	eventually(t, "a failure that is said", func() bool { return said.count(failure) > 0 })
	last := now()
	// The next generation finds the certificate where this one has left it.
	m.Close()
	before, failures := authority.Orders(), said.count(failure)
	m = start()
	defer func() { m.Close() }()
	eventually(t, "another try", func() bool { return said.count(failure) > failures })
	if got := now(); got == "" || got != last {
		t.Errorf("certificate %s is shown, and was %s", got, last)
	}
	authority.Down(false)
	m.Nudge()
	eventually(t, "a new certificate", func() bool { got := now(); return got != "" && got != last })
	if said.count("certificate renewed") == 0 || authority.Orders() == before {
		t.Errorf("said:\n%s", said)
	}
	mu.Lock()
	defer mu.Unlock()
	if ended[true] < 2 || ended[false] < 2 {
		t.Errorf("orders %v", ended)
	}
}

// Without an authority at the start there is none to show, and that is said;
// whoever has mended it need not wait.
func TestTriesAgain(t *testing.T) {
	d := open(t)
	authority := acmetest.Start(t, acmetest.Options{Domains: []string{"again.test"}, HTTP: port(d.plain), TLS: port(d.secure)})
	authority.Down(true)
	said := &log{}
	m := New(t.Context(), Settings{
		Directory: authority.Directory, Domains: []string{"again.test"}, Roots: roots(t, authority.Roots),
		Storage: t.TempDir(), HTTP: d.plain.Addr().String(), Check: time.Hour,
	}, Options{Log: hclog.New(&hclog.LoggerOptions{Output: said})})
	d.use(m)
	m.Begin()
	defer m.Close()
	eventually(t, "a failure that is said", func() bool { return said.count("no certificate could be obtained") > 0 })
	if _, err := shown(d, roots(t, authority.Root), "again.test"); err == nil || len(m.Held()) > 0 {
		t.Error("a certificate from nowhere")
	}
	authority.Down(false)
	m.Nudge()
	eventually(t, "a certificate", func() bool { return len(m.Held()) == 1 })
	m.Nudge() // and nothing comes of it
}

// Two processes with one storage order one certificate.
func TestTwoShareAStorage(t *testing.T) {
	d := open(t)
	authority := acmetest.Start(t, acmetest.Options{Domains: []string{"shared.test"}, HTTP: port(d.plain), TLS: port(d.secure)})
	s := Settings{
		Directory: authority.Directory, Domains: []string{"shared.test"}, Roots: roots(t, authority.Roots),
		Storage: t.TempDir(), HTTP: d.plain.Addr().String(), Check: time.Hour,
	}
	two := []*Manager{New(t.Context(), s, Options{Log: hclog.NewNullLogger()}), New(t.Context(), s, Options{Log: hclog.NewNullLogger()})}
	d.use(two[1]) // it is asked what the other may have to answer
	for _, m := range two {
		m.Begin()
		defer m.Close()
	}
	for _, m := range two {
		eventually(t, "a certificate", func() bool { return len(m.Held()) == 1 })
	}
	if two[0].Held()[0] != two[1].Held()[0] || authority.Orders() != 1 {
		t.Errorf("%d orders", authority.Orders())
	}
}
