//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// through asks for a path as a balancer does: with a PROXY line for client, and
// over TLS where that is not nil. No answer is a status of 0.
func through(t *testing.T, address, client, path string, over *tls.Config) (status int, body []byte) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if client != "" {
		fmt.Fprintf(c, "PROXY TCP4 %s 127.0.0.1 54321 443\r\n", client)
	}
	if over != nil {
		c = tls.Client(c, over)
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", path); err != nil {
		return 0, nil
	}
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, nil
	}
	defer r.Body.Close()
	body, err = io.ReadAll(r.Body)
	if err != nil {
		t.Error(err)
	}
	return r.StatusCode, body
}

// TestProxyProtocol: whom a balancer names is whom the engine, the access log,
// networks and limits know; nobody else can name anybody; a reload changes who may.
func TestProxyProtocol(t *testing.T) {
	s := newSecure(t)
	text := "[proxy_protocol]\nfrom = [\"127.0.0.0/8\"]\n[access]\ndeny = [\"203.0.113.99\"]\n" +
		"[[limits]]\nname = \"each\"\nper = \"address\"\nrequests = 3\nwindow = \"1h\"\n" + fakePool(1)
	m := start(t, s.config+text).ready()
	anyone := &tls.Config{InsecureSkipVerify: true}

	for listener, ask := range map[string]func(client string) (int, []byte){
		"plain": func(client string) (int, []byte) { return through(t, m.address, client, "/head", nil) },
		"TLS":   func(client string) (int, []byte) { return through(t, s.address, client, "/head", anyone) },
	} {
		client := map[string]string{"plain": "203.0.113.7", "TLS": "203.0.113.8"}[listener]
		status, body := ask(client)
		var seen struct{ Header http.Header }
		if err := json.Unmarshal(body, &seen); status != 200 || err != nil || seen.Header.Get("X-Forwarded-For") != client {
			t.Errorf("%s: %d %v, X-Forwarded-For %q", listener, status, err, seen.Header.Get("X-Forwarded-For"))
		}
		m.eventually("the access log has the client", func() bool {
			for _, line := range m.logLines("client") {
				if line["client"] == client && line["status"] == 200.0 {
					return true
				}
			}
			return false
		})
		for range 2 {
			ask(client)
		}
		if status, _ := ask(client); status != http.StatusTooManyRequests {
			t.Errorf("%s: one more than the limit: %d", listener, status)
		}
		if status, _ := ask("203.0.113.99"); status != http.StatusForbidden {
			t.Errorf("%s: who is denied: %d", listener, status)
		}
		if status, body := ask(""); status != 0 {
			t.Errorf("%s: a proxy that names nobody: %d %s", listener, status, body)
		}
	}
	if got := m.metric("stoker_requests_refused_total", `reason="proxy_header"`); got != 2 {
		t.Errorf("%v refused", got)
	}

	m.rewrite("from = [\"127.0.0.0/8\"]", "from = [\"10.0.0.0/8\"]")
	m.mustCommand("reload")
	if status, _ := through(t, m.address, "203.0.113.9", "/work", nil); status != http.StatusBadRequest {
		t.Errorf("a client that names somebody: %d", status)
	}
	if status, _ := through(t, m.address, "", "/work", nil); status != 200 {
		t.Errorf("a client: %d", status)
	}
	m.rewrite("from = [\"10.0.0.0/8\"]", fmt.Sprintf("from = [\"10.0.0.0/8\"]\nlisten = [%q]", s.address))
	m.mustCommand("reload")
	if status, _ := through(t, s.address, "203.0.113.9", "/work", anyone); status != 0 {
		t.Errorf("a stranger at a listener for proxies: %d", status)
	}
	if status, _ := through(t, m.address, "", "/work", nil); status != 200 {
		t.Errorf("a client at another: %d", status)
	}
	m.stop()
}
