package certs

import (
	"crypto/tls"
	"errors"
	"testing"
)

// elsewhere has one certificate, for a.test and for who speaks "other".
type elsewhere struct{ pair *Pair }

var errElsewhere = errors.New("not at all")

func (e elsewhere) Find(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	switch {
	case hello.ServerName == "bad.test":
		return nil, errElsewhere
	case hello.ServerName == "a.test" || hello.SupportedProtos != nil && hello.SupportedProtos[0] == "other":
		return &e.pair.Certificate, nil
	}
	return nil, nil
}

func (e elsewhere) Protocols() []string { return []string{"other"} }

func TestCertificatesFromElsewhere(t *testing.T) {
	dir := t.TempDir()
	pair, err := Load(made{hosts: []string{"a.test"}}.write(t, dir, "elsewhere"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, Settings{}, Options{})
	s.Use(elsewhere{pair})
	if got := shown(t, s, "a.test"); got != "elsewhere" {
		t.Errorf("without files %s is shown", got)
	}
	for _, name := range []string{"b.test", "bad.test"} {
		if _, err := shake(t, s, &tls.Config{ServerName: name}); err == nil {
			t.Errorf("something for %s", name)
		}
	}
	ca := made{hosts: []string{"ca"}}.write(t, dir, "ca")
	staged, err := Stage(Settings{
		Certificates: []Files{made{hosts: []string{"first.test"}}.write(t, dir, "first"), made{hosts: []string{"*.test"}}.write(t, dir, "wild")},
		ClientCA:     ca.Cert, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Adopt(staged)
	state, err := shake(t, s, &tls.Config{ServerName: "b.test", NextProtos: []string{"other"}})
	if err != nil || state.NegotiatedProtocol != "other" {
		t.Errorf("another protocol: %v", err)
	}
	if _, err := shake(t, s, &tls.Config{ServerName: "a.test", NextProtos: []string{"other", "h2"}}); err == nil {
		t.Error("a client gets by without a certificate")
	}
	staged.settings.ClientAuth, staged.authorities = tls.NoClientCert, nil
	s.Adopt(staged)
	for name, want := range map[string]string{"a.test": "elsewhere", "b.test": "wild", "first.test": "first", "": "first"} {
		if got := shown(t, s, name); got != want {
			t.Errorf("%q gets %s, want %s", name, got, want)
		}
	}
	s.Use(nil)
	if got := shown(t, s, "a.test"); got != "wild" {
		t.Errorf("without it %s is shown", got)
	}
}
