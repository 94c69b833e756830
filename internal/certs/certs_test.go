package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// made is what make is told.
type made struct {
	hosts []string
	until time.Time
	rsa   bool
}

// write puts a certificate and its key below dir, and returns their files.
func (m made) write(t *testing.T, dir, name string) Files {
	t.Helper()
	var key any
	var public any
	if m.rsa {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	} else {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		key, public = k, &k.PublicKey
	}
	if m.until.IsZero() {
		m.until = time.Now().Add(365 * 24 * time.Hour)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: m.hosts,
		NotBefore: time.Now().Add(-400 * 24 * time.Hour), NotAfter: m.until, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f := Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
	put(t, f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	put(t, f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
	return f
}

// put replaces a file as renewers do: by a new one.
func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path+"~", data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoadSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	a := made{hosts: []string{"a.test", "*.b.test"}}.write(t, dir, "a")
	b := made{hosts: []string{"b.test"}}.write(t, dir, "b")
	text := filepath.Join(dir, "notes")
	put(t, text, []byte("no PEM\n"))
	locked := filepath.Join(dir, "locked.key")
	put(t, locked, []byte("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n"))
	cut := filepath.Join(dir, "cut.pem")
	put(t, cut, get(t, a.Cert)[:200])
	huge := filepath.Join(dir, "huge")
	put(t, huge, make([]byte, maxFile+1))
	cases := map[string]struct {
		files Files
		part  Part
		want  string
	}{
		"no certificate file":   {Files{Cert: filepath.Join(dir, "no"), Key: a.Key}, PartCert, "does not exist"},
		"no key file":           {Files{Cert: a.Cert, Key: filepath.Join(dir, "no")}, PartKey, "does not exist"},
		"a directory":           {Files{Cert: dir, Key: a.Key}, PartCert, "is a directory"},
		"too large":             {Files{Cert: huge, Key: a.Key}, PartCert, "larger than 1024 KiB"},
		"key of another":        {Files{Cert: a.Cert, Key: b.Key}, PartKey, "is not that of the certificate in " + a.Cert},
		"swapped":               {Files{Cert: a.Key, Key: a.Cert}, PartCert, "are cert and key swapped?"},
		"no PEM for the cert":   {Files{Cert: text, Key: a.Key}, PartCert, "holds no certificate in PEM"},
		"no PEM for the key":    {Files{Cert: a.Cert, Key: text}, PartKey, "holds no private key in PEM"},
		"key with a passphrase": {Files{Cert: a.Cert, Key: locked}, PartKey, "protected by a passphrase"},
		"half a certificate":    {Files{Cert: cut, Key: a.Key}, PartCert, "cannot be used"},
		"host that it has not":  {Files{Cert: a.Cert, Key: a.Key, Hosts: []string{"c.test"}}, PartHosts, `does not carry "c.test": it carries a.test, *.b.test`},
		"wildcard it has not":   {Files{Cert: a.Cert, Key: a.Key, Hosts: []string{"*.a.test"}}, PartHosts, `does not carry "*.a.test"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Load(tc.files)
			var bad *Error
			if !errors.As(err, &bad) || bad.Part != tc.part || !strings.Contains(bad.Message, tc.want) {
				t.Fatalf("got %v, want part %d with %q", err, tc.part, tc.want)
			}
			if strings.Contains(bad.Message, "PRIVATE KEY-----\n") {
				t.Error("the message holds the file")
			}
		})
	}
	p, err := Load(Files{Cert: a.Cert, Key: a.Key, Hosts: []string{"A.Test.", "x.b.test", "*.b.test"}})
	if err != nil || strings.Join(p.Hosts, " ") != "a.test x.b.test *.b.test" {
		t.Errorf("hosts %v, error %v", p, err)
	}
}

func TestDoubts(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	for name, tc := range map[string]struct {
		made made
		want string
	}{
		"good":    {made{hosts: []string{"a.test"}}, ""},
		"expired": {made{hosts: []string{"a.test"}, until: now.Add(-time.Hour)}, "expired on"},
		"soon":    {made{hosts: []string{"a.test"}, until: now.Add(48 * time.Hour)}, "expires on"},
		"no name": {made{}, "carries no name"},
	} {
		p, err := Load(tc.made.write(t, dir, "x"))
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Doubt(now); !strings.HasPrefix(got, tc.want) || tc.want == "" && got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestTwins(t *testing.T) {
	dir := t.TempDir()
	load := func(m made, name string) *Pair {
		p, err := Load(m.write(t, dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	a := load(made{hosts: []string{"a.test", "b.test"}}, "a")
	if got := a.Twin(load(made{hosts: []string{"B.test"}}, "b")); got != "b.test" {
		t.Errorf("twin %q", got)
	}
	if got := a.Twin(load(made{hosts: []string{"b.test"}, rsa: true}, "c")); got != "" {
		t.Errorf("keys of two kinds are twins: %q", got)
	}
	if _, err := Stage(Settings{Certificates: []Files{a.Files, {Cert: filepath.Join(dir, "b.pem"), Key: filepath.Join(dir, "b.key")}}}); err == nil {
		t.Error("twins were staged")
	}
}

// shake makes one connection to a store, and says what certificate was shown.
func shake(t *testing.T, s *Store, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	here, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	served := make(chan error, 1)
	go func() {
		there, err := l.Accept()
		if err != nil {
			served <- err
			return
		}
		defer there.Close()
		server := tls.Server(there, s.Config())
		if err = server.Handshake(); err == nil {
			_, err = server.Write([]byte("x")) // behind the tickets
		}
		served <- err
	}()
	client.InsecureSkipVerify = true
	c := tls.Client(here, client)
	err = c.Handshake()
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	here.Close()
	return c.ConnectionState(), errors.Join(err, <-served)
}

// shown is the first name of the certificate that a client gets.
func shown(t *testing.T, s *Store, name string) string {
	t.Helper()
	state, err := shake(t, s, &tls.Config{ServerName: name})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return state.PeerCertificates[0].Subject.CommonName
}

func newStore(t *testing.T, settings Settings, o Options) *Store {
	t.Helper()
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	staged, err := Stage(settings)
	if err != nil {
		t.Fatal(err)
	}
	s := New(o)
	s.Adopt(staged)
	return s
}

func TestCertificateByName(t *testing.T) {
	dir := t.TempDir()
	settings := Settings{Certificates: []Files{
		made{hosts: []string{"default.test"}}.write(t, dir, "default"),
		made{hosts: []string{"a.test"}}.write(t, dir, "exact"),
		made{hosts: []string{"*.a.test"}}.write(t, dir, "wild"),
		made{hosts: []string{"x.a.test"}, rsa: true}.write(t, dir, "rsa"),
		made{hosts: []string{"x.a.test"}}.write(t, dir, "ecdsa"),
	}}
	s := newStore(t, settings, Options{})
	for name, want := range map[string]string{
		"a.test": "exact", "A.TEST": "exact", "b.a.test": "wild", "c.b.a.test": "default",
		"": "default", "other.test": "default", "x.a.test": "rsa", "default.test": "default",
	} {
		if got := shown(t, s, name); got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
	only := &tls.Config{ServerName: "x.a.test", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256}}
	state, err := shake(t, s, only)
	if err != nil || state.PeerCertificates[0].Subject.CommonName != "ecdsa" {
		t.Errorf("a client that knows ECDSA alone: %v", err)
	}
	for what, weak := range map[string]*tls.Config{
		"TLS 1.1":             {MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10},
		"without secrecy":     {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}},
		"CBC, as HTTP/2 bans": {MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}},
	} {
		if _, err := shake(t, s, weak); err == nil {
			t.Errorf("%s was agreed upon", what)
		}
	}
}

func TestChangedFilesAreReadAnew(t *testing.T) {
	dir := t.TempDir()
	f := made{hosts: []string{"old.test"}}.write(t, dir, "x")
	var log bytes.Buffer
	var loads []bool
	s := newStore(t, Settings{Certificates: []Files{f}}, Options{
		Log:    hclog.New(&hclog.LoggerOptions{Output: &log}),
		Loaded: func(ok bool) { loads = append(loads, ok) },
	})
	host := func() string {
		state, err := shake(t, s, &tls.Config{})
		if err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].DNSNames[0]
	}
	next := made{hosts: []string{"new.test"}}.write(t, t.TempDir(), "x")

	put(t, f.Cert, get(t, next.Cert)) // half-way: the key is still the old one
	s.Look()
	if host() != "old.test" || log.Len() > 0 || len(loads) > 0 {
		t.Errorf("half-way: shows %s, loads %v, log %s", host(), loads, &log)
	}
	for range 3 {
		s.Look()
	}
	if said := strings.Count(log.String(), "cannot be used"); said != 1 || len(loads) != 1 {
		t.Errorf("a pair that stays bad is reported %d times, loads %v:\n%s", said, loads, &log)
	}
	put(t, f.Key, get(t, next.Key))
	s.Look()
	s.Look()
	if host() != "new.test" || strings.Count(log.String(), "read anew") != 1 || len(loads) != 2 || !loads[1] {
		t.Errorf("shows %s, loads %v:\n%s", host(), loads, &log)
	}
	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	s.Look()
	if host() != "new.test" {
		t.Error("a file that is gone takes the certificate with it")
	}
}

func TestClientCertificates(t *testing.T) {
	dir := t.TempDir()
	files := made{hosts: []string{"a.test"}}.write(t, dir, "server")
	ours := made{hosts: []string{"client"}}.write(t, dir, "ours")
	theirs := made{hosts: []string{"client"}}.write(t, dir, "theirs")
	config := func(f *Files) *tls.Config {
		if f == nil {
			return &tls.Config{}
		}
		pair, err := Load(*f)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair.Certificate, nil }}
	}
	for _, tc := range []struct {
		auth               tls.ClientAuthType
		none, ours, theirs bool
	}{
		{tls.VerifyClientCertIfGiven, true, true, false},
		{tls.RequireAndVerifyClientCert, false, true, false},
	} {
		s := newStore(t, Settings{Certificates: []Files{files}, ClientCA: ours.Cert, ClientAuth: tc.auth}, Options{})
		for who, c := range map[string]struct {
			files *Files
			want  bool
		}{"none": {nil, tc.none}, "ours": {&ours, tc.ours}, "theirs": {&theirs, tc.theirs}} {
			if _, err := shake(t, s, config(c.files)); (err == nil) != c.want {
				t.Errorf("%v, %s: %v", tc.auth, who, err)
			}
		}
	}
}

// resumes says whether a client that has been at one store is known at another.
func resumes(t *testing.T, first, then *Store) bool {
	t.Helper()
	cache := tls.NewLRUClientSessionCache(1)
	if _, err := shake(t, first, &tls.Config{ServerName: "a.test", ClientSessionCache: cache}); err != nil {
		t.Fatal(err)
	}
	state, err := shake(t, then, &tls.Config{ServerName: "a.test", ClientSessionCache: cache})
	if err != nil {
		t.Fatal(err)
	}
	return state.DidResume
}

func TestTicketsAreHandedOver(t *testing.T) {
	dir := t.TempDir()
	settings := Settings{Certificates: []Files{made{hosts: []string{"a.test"}}.write(t, dir, "a")}}
	first := newStore(t, settings, Options{})
	if !resumes(t, first, first) {
		t.Fatal("tickets are of no use")
	}
	if resumes(t, first, newStore(t, settings, Options{})) {
		t.Error("two stores know each other's tickets")
	}
	if !resumes(t, first, newStore(t, settings, Options{Tickets: first.Tickets()})) {
		t.Error("tickets are not known where their keys went")
	}
	bad := Tickets{Since: time.Now().Add(time.Hour), Keys: [][32]byte{{}}}
	if len(New(Options{Tickets: bad}).Tickets().Keys) != 1 || New(Options{Tickets: bad}).Tickets().Keys[0] == bad.Keys[0] {
		t.Error("keys of the future were believed")
	}
	// Whoever vouches for clients has changed: a ticket of before must not let one in.
	ca := made{hosts: []string{"ca"}}.write(t, dir, "ca")
	staged, err := Stage(Settings{Certificates: settings.Certificates, ClientCA: ca.Cert, ClientAuth: tls.VerifyClientCertIfGiven})
	if err != nil {
		t.Fatal(err)
	}
	before := first.Tickets()
	first.Adopt(staged)
	if first.Tickets().Keys[0] == before.Keys[0] {
		t.Error("tickets outlive those who vouched")
	}
}

func TestTicketsAreRotated(t *testing.T) {
	f := made{hosts: []string{"a.test"}}.write(t, t.TempDir(), "a")
	synctest.Test(t, func(t *testing.T) {
		s := newStore(t, Settings{Certificates: []Files{f}}, Options{})
		go s.Watch(t.Context())
		began := s.Tickets()
		time.Sleep(ticketTime - time.Minute)
		if s.Tickets().Keys[0] != began.Keys[0] {
			t.Error("rotated too early")
		}
		time.Sleep(2 * time.Minute)
		day := s.Tickets()
		if len(day.Keys) != 2 || day.Keys[0] == began.Keys[0] || day.Keys[1] != began.Keys[0] {
			t.Errorf("after a day: %d keys", len(day.Keys))
		}
		time.Sleep(ticketTime)
		if later := s.Tickets(); len(later.Keys) != ticketKeys || later.Keys[1] != day.Keys[0] {
			t.Errorf("after two days: %d keys", len(later.Keys))
		}
	})
}

func TestNothingToShow(t *testing.T) {
	s := New(Options{Log: hclog.NewNullLogger()})
	if _, err := shake(t, s, &tls.Config{}); err == nil {
		t.Error("a handshake without a certificate")
	}
	s.Look()
}
