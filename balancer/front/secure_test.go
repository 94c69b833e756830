package front

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// certified makes a server's configuration with a certificate of its own.
var certified = sync.OnceValue(func() *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"a.test"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{"h2", "http/1.1"}, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true,
	}
})

// securely is a fixture behind TLS, and what it was told of handshakes.
type securely struct {
	*fixture
	shaken chan Handshake
}

func startTLS(t *testing.T, serve handlerFunc, change func(f *Front)) *securely {
	t.Helper()
	s := &securely{shaken: make(chan Handshake, 100)}
	s.fixture = startAs(t, serve, func(f *Front) {
		f.shaken = func(h Handshake) { s.shaken <- h }
		change(f)
	})
	l := listenOn(t, "tcp", "127.0.0.1:0")
	s.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.ServeAs(l, func() Manner { return Manner{TLS: certified()} }) }()
	t.Cleanup(func() {
		_ = l.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *securely) dialTLS(t *testing.T, protocols ...string) *client {
	t.Helper()
	c := tls.Client(s.dial(t).Conn, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	return newClient(c)
}

func (s *securely) result(t *testing.T) string {
	t.Helper()
	select {
	case h := <-s.shaken:
		return h.Result
	case <-time.After(patience):
		t.Fatal("nothing was told of a handshake")
		return ""
	}
}

// tell answers with the scheme and the body.
func tell(_ context.Context, x *exchange.Exchange) {
	text := []byte(x.Request.Scheme + " ")
	if x.Body != nil {
		body, err := io.ReadAll(x.Body)
		if err != nil {
			x.Sink.Break(err)
			return
		}
		text = append(text, body...)
	}
	_ = x.Sink.Head(&http1.Response{Status: 200}, int64(len(text)))
	_, _ = x.Sink.Write(text)
	_ = x.Sink.End(nil)
}

func TestTLSCarriesBothVersions(t *testing.T) {
	s := startTLS(t, tell, func(f *Front) { f.SetHSTS(time.Hour) })
	large := strings.Repeat("0123456789abcdef", 64<<10)
	for _, version := range []int{1, 2} {
		p := new(http.Protocols)
		p.SetHTTP1(version == 1)
		p.SetHTTP2(version == 2)
		tr := &http.Transport{Protocols: p, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		c := &http.Client{Transport: tr, Timeout: patience}
		for _, body := range []string{"x", large, ""} {
			r, err := c.Post("https://"+s.addr+"/", "text/plain", strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || string(got) != "https "+body || r.ProtoMajor != version || r.Header.Get(fieldHSTS) != "max-age=3600" {
				t.Errorf("HTTP/%d, %d bytes: %d bytes, HTTP/%d, %v, %v", version, len(body), len(got), r.ProtoMajor, r.Header, err)
			}
		}
		tr.CloseIdleConnections()
		if got := s.result(t); got != "ok" {
			t.Errorf("handshake %q", got)
		}
	}
	// In one piece with its close_notify, and two requests at once.
	c := s.dialTLS(t)
	c.send(t, get("/")+get("/"))
	_ = c.Conn.(*tls.Conn).CloseWrite()
	for range 2 {
		if _, body := c.answer(t, "GET"); body != "https " {
			t.Errorf("body %q", body)
		}
	}
	if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v, and not one in peace", err)
	}
}

func TestTLSKeepsToWhatWasAgreed(t *testing.T) {
	s := startTLS(t, tell, func(*Front) {})
	c := s.dialTLS(t, "http/1.1")
	c.send(t, preface)
	if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusBadRequest && r.StatusCode != http.StatusHTTPVersionNotSupported {
		t.Errorf("HTTP/2 where HTTP/1.1 was agreed: %s", r.Status)
	}
	c = s.dialTLS(t, "h2")
	c.send(t, get("/"))
	c.closed(t)
}

func TestTLSHandshakesThatFail(t *testing.T) {
	s := startTLS(t, tell, func(*Front) {})
	hello := "\x16\x03\x01\x02\x00\x01"
	for name, tc := range map[string]struct {
		send func(c *client)
		want string
	}{
		"silent":     {func(*client) {}, "timeout"},
		"half-way":   {func(c *client) { c.send(t, hello) }, "timeout"},
		"gone":       {func(c *client) { c.send(t, hello); c.Close() }, "client_gone"},
		"noise":      {func(c *client) { c.send(t, "SSH-2.0-OpenSSH\r\n") }, "not_tls"},
		"plain HTTP": {func(c *client) { c.send(t, get("/")) }, "plain_http"},
		"old": {func(c *client) {
			_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}).Handshake()
		}, "version"},
		"distrust": {func(c *client) {
			_ = tls.Client(c, &tls.Config{ServerName: "b.test", MaxVersion: tls.VersionTLS12}).Handshake()
		}, "refused_by_client"},
	} {
		t.Run(name, func(t *testing.T) {
			l := DefaultLimits()
			if tc.want == "timeout" {
				l.Handshake = 500 * time.Millisecond
			}
			s.SetLimits(l)
			c := s.dial(t)
			tc.send(c)
			if got := s.result(t); got != tc.want {
				t.Errorf("result %q, want %q", got, tc.want)
			}
			if name == "plain HTTP" {
				if r, body := c.answer(t, "GET"); r.StatusCode != http.StatusBadRequest || !strings.Contains(body, "plain_http_on_tls") {
					t.Errorf("answer %s %s", r.Status, body)
				}
			}
		})
	}
	s.Drain()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.CloseIdle(ctx, 0); err != nil {
		t.Errorf("connections are left: %v", err)
	}
}

// TestTLSEndsInPeaceOnlyAfterAll: close_notify says that all was sent.
func TestTLSEndsInPeaceOnlyAfterAll(t *testing.T) {
	s := startTLS(t, func(_ context.Context, x *exchange.Exchange) {
		_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
		_, _ = x.Sink.Write([]byte("half"))
		if x.Request.Target == "/broken" {
			x.Sink.Break(errors.New("died"))
			return
		}
		_ = x.Sink.End(nil)
	}, func(*Front) {})
	for _, tc := range []struct {
		target string
		whole  bool
	}{{"/", true}, {"/broken", false}} {
		for _, proto := range []string{"1.0", "1.1"} {
			c := s.dial(t)
			raw := &counted{Conn: c.Conn}
			secured := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
			fmt.Fprintf(secured, "GET %s HTTP/%s\r\nHost: a\r\nConnection: close\r\n\r\n", tc.target, proto)
			_, _ = io.ReadAll(bufio.NewReader(secured))
			if raw.farewell() != tc.whole {
				t.Errorf("HTTP/%s %s: close_notify %v, want %v", proto, tc.target, raw.farewell(), tc.whole)
			}
		}
	}
}

// counted sees the last record of a connection.
type counted struct {
	net.Conn
	seen []byte
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.seen = append(c.seen, p[:n]...)
	return n, err
}

// farewell says whether the last record is an alert (21).
func (c *counted) farewell() bool {
	last := byte(0)
	for rest := c.seen; len(rest) >= 5; {
		size := 5 + int(rest[3])<<8 + int(rest[4])
		last = rest[0]
		rest = rest[min(size, len(rest)):]
	}
	return last == 21
}

// TestTLSClosesWithoutWaiting: a farewell waits for no client that reads nothing.
func TestTLSClosesWithoutWaiting(t *testing.T) {
	s := startTLS(t, func(_ context.Context, x *exchange.Exchange) {
		_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
		for {
			if _, err := x.Sink.Write(make([]byte, 64<<10)); err != nil {
				x.Sink.Break(err)
				return
			}
		}
	}, func(f *Front) {
		l := DefaultLimits()
		l.Write = 100 * time.Millisecond
		f.SetLimits(l)
	})
	c := s.dialTLS(t)
	c.send(t, get("/"))
	select {
	case r := <-s.records:
		if !errors.Is(r.Err, os.ErrDeadlineExceeded) && r.Err != nil {
			t.Errorf("error %v", r.Err)
		}
	case <-time.After(patience):
		t.Fatal("a client that reads nothing holds the request")
	}
}
