package upstream

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// securedServer is a real one, with a certificate for example.com.
func securedServer(t *testing.T, handle http.HandlerFunc) (s *httptest.Server, trust *tls.Config) {
	t.Helper()
	s = httptest.NewUnstartedServer(handle)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s, &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "example.com", NextProtos: []string{"http/1.1"}}
}

func securedTransport(t *testing.T, s *httptest.Server, c *tls.Config) *Transport {
	t.Helper()
	tr := newPeerTransport(Peer{Address: s.Listener.Addr().String(), Secure: c}, TransportOptions{ConnectTimeout: 5 * time.Second})
	t.Cleanup(tr.Close)
	return tr
}

func TestTLSCarriesWhatPlainDoes(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	var conns sync.Map // addresses of the client
	s, trust := securedServer(t, func(w http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		body, _ := io.ReadAll(r.Body)
		switch r.URL.Path {
		case "/large":
			w.Header().Set("Content-Length", fmt.Sprint(len(large)))
			w.Write(large)
		case "/events":
			for i := range 20 {
				fmt.Fprintf(w, "data: %d\n\n", i)
				w.(http.Flusher).Flush()
				time.Sleep(time.Millisecond)
			}
		default:
			fmt.Fprintf(w, "%d bytes over TLS %v", len(body), r.TLS != nil)
		}
	})
	tr := securedTransport(t, s, trust)
	var events strings.Builder
	for i := range 20 {
		fmt.Fprintf(&events, "data: %d\n\n", i)
	}
	for _, tt := range []struct{ path, body, want string }{
		{"/", "", "0 bytes over TLS true"},
		{"/", "small", "5 bytes over TLS true"},
		{"/", string(large), fmt.Sprintf("%d bytes over TLS true", len(large))},
		{"/large", "", string(large)},
		{"/events", "", events.String()},
		{"/", "", "0 bytes over TLS true"},
	} {
		x := &exchange.Exchange{Request: http1.Request{Method: "POST", Target: tt.path, Authority: "h"}, Length: int64(len(tt.body)), Body: strings.NewReader(tt.body)}
		got := newNotes(t)
		if err := tr.Do(t.Context(), x, got); err != nil {
			t.Fatalf("%s: %v", tt.path, err)
		}
		if got.body.String() != tt.want {
			t.Errorf("%s: %d bytes, want %d", tt.path, got.body.Len(), len(tt.want))
		}
	}
	n := 0
	conns.Range(func(any, any) bool { n++; return true })
	if n > 1 {
		t.Errorf("%d connections for one exchange after another", n)
	}
}

func TestTLSVerifies(t *testing.T) {
	s, trust := securedServer(t, func(http.ResponseWriter, *http.Request) { t.Error("a request came through") })
	other := trust.Clone()
	other.ServerName = "other.test"
	stranger := trust.Clone()
	stranger.RootCAs = x509.NewCertPool()
	for what, c := range map[string]*tls.Config{"another name": other, "another authority": stranger} {
		x := &exchange.Exchange{Request: http1.Request{Method: "GET", Target: "/", Authority: "h"}}
		err := securedTransport(t, s, c).Do(t.Context(), x, newNotes(t))
		var failure *Failure
		if !errors.As(err, &failure) || failure.Op != OpDial || failure.Sent || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// An idle connection that the upstream has closed, with its word or without, is
// noticed before a request is written to it.
func TestTLSNoticesAClosedIdleConnection(t *testing.T) {
	s, trust := securedServer(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") })
	tr := securedTransport(t, s, trust)
	for i := range 5 {
		x := &exchange.Exchange{Request: http1.Request{Method: "POST", Target: "/", Authority: "h"}}
		if err := tr.Do(t.Context(), x, newNotes(t)); err != nil {
			t.Fatalf("exchange %d: %v", i, err)
		}
		s.CloseClientConnections()
	}
}
