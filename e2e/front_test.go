//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// served is a pool of one server: this process.
func served(t *testing.T, network string, handle func(net.Conn)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(shortDir(t), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	address = l.Addr().String()
	if network == "unix" {
		address = "unix:" + address
	}
	return "[[pools]]\nname = \"far\"\n[[pools.servers]]\naddress = \"" + address + "\"\n"
}

// requests serves a connection's requests by answer, which says whether it goes on.
func requests(answer func(c net.Conn, r *http.Request) bool) func(net.Conn) {
	return func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if !answer(c, r) {
				return
			}
		}
	}
}

func sayWhole(c net.Conn) {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(wholeAnswer), wholeAnswer)
}

// TestIdleConnectionsThatTheEngineCloses: an engine that closes its connections
// just as they are used again costs no request.
func TestIdleConnectionsThatTheEngineCloses(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			works(t)
			m := start(t, served(t, network, func(c net.Conn) {
				in := bufio.NewReader(c)
				for used := false; ; used = true {
					// As servers do: nothing read for a while, and it closes.
					if used {
						_ = c.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(3000)) * time.Microsecond))
					}
					if _, err := in.Peek(1); err != nil {
						return
					}
					_ = c.SetReadDeadline(time.Time{})
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					sayWhole(c)
				}
			})).ready()
			seen := newTally()
			until := time.Now().Add(3 * time.Second)
			callers := make([]caller, 8)
			for i := range callers {
				callers[i] = caller{address: m.address, keepAlive: true}
			}
			crowd(len(callers), func(client, _ int) bool {
				a := callers[client].get("/work")
				if a.outcome == complete && a.status != 200 {
					seen.add(fmt.Sprint(a.status), a.String())
				} else {
					seen.add(string(a.outcome), a.String())
				}
				time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
				return time.Now().Before(until)
			}).Wait()
			for i := range callers {
				callers[i].close()
			}
			t.Logf("%d requests", seen.count(string(complete)))
			if wrong := seen.except(string(complete)); wrong != "" {
				t.Errorf("of %d: %s", seen.count(string(complete)), wrong)
				for _, l := range m.logLines("outcome") {
					if l["status"] == float64(502) {
						t.Log(l["error"], l["attempts"], l["duration"])
					}
				}
			}
			m.stop()
		})
	}
}

// TestIdleConnectionsThatServersClose is the same with real servers, which close
// after a second, and clients that all come back after a second, so that each uses
// a connection which is being closed.
func TestIdleConnectionsThatServersClose(t *testing.T) {
	t.Parallel()
	const clients, rounds = 16, 6
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			works(t)
			m := start(t, s.idle(t, time.Second)).allReady()
			ended := newTally()
			for round := range rounds {
				var all sync.WaitGroup
				for client := range clients {
					all.Go(func() {
						time.Sleep(time.Duration(rand.IntN(20000)) * time.Microsecond) // some before, some after it is closed
						if r := s.ask(m, client*100+round, false); r.err == nil && r.status == 200 && s.exact(r.body, r.n, false) {
							ended.add("right", "")
						} else {
							ended.add("wrong", r.String())
						}
					})
				}
				all.Wait()
				time.Sleep(980 * time.Millisecond) // the servers close what is idle for a second: about then it is used again
			}
			if wrong := ended.except("right"); wrong != "" {
				t.Errorf("of %d: %s", clients*rounds, wrong)
			}
			m.stop()
		})
	}
}

// TestShutdownUnderHTTP2Load is TestShutdownUnderLoad over HTTP/2: requests that
// cannot be sent twice are served, or never begun.
func TestShutdownUnderHTTP2Load(t *testing.T) {
	works(t)
	for run := range 5 {
		m := start(t, "access_log = \"off\"\n"+fakePool(2)).allReady()
		seen := newTally()
		clients := make([]*http.Client, 100)
		for i := range clients {
			p := new(http.Protocols)
			p.SetUnencryptedHTTP2(true)
			tr := &http.Transport{Protocols: p}
			defer tr.CloseIdleConnections()
			clients[i] = &http.Client{Transport: tr, Timeout: patience}
		}
		load := crowd(len(clients), func(client, _ int) bool {
			// A body that can be read once keeps net/http from trying again.
			r, err := clients[client].Post(m.url("/work?ms=5"), "text/plain", io.MultiReader(strings.NewReader("once")))
			// net/http's client says so of a request that it has not begun: it had chosen a connection
			// whose GOAWAY then came, and has closed a body that it cannot have once more.
			if err != nil && strings.Contains(err.Error(), "cannot rewind body after connection loss") {
				return true
			}
			if err != nil {
				what := string(classify(err, closed))
				seen.add(what, err.Error())
				return what != string(refused)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			switch {
			case err != nil:
				seen.add("half an answer", err.Error())
			case r.StatusCode != http.StatusOK || string(body) != wholeAnswer:
				seen.add(r.Status, string(body))
			default:
				seen.add(string(complete), "")
			}
			return true
		})
		m.eventually("every client served a few times", func() bool { return seen.count(string(complete)) > 500 })
		m.signal(syscall.SIGTERM)
		load.Wait()
		if code := m.exit(patience); code != 0 {
			t.Errorf("run %d: exit code %d, want 0", run, code)
		}
		if wrong := seen.except(string(complete), string(refused)); wrong != "" {
			t.Errorf("run %d: of %d answers: %s", run, seen.count(string(complete)), wrong)
		}
	}
}

// TestWhatClientsMayTake: the limits of bodies and connections, changed by a reload.
func TestWhatClientsMayTake(t *testing.T) {
	waits(t)
	var bodies atomic.Int64
	pool := served(t, "tcp", func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if r.Method == http.MethodPost {
				bodies.Add(1)
			}
			sayWhole(c)
		}
	})
	m := start(t, "clients.body_mib = 2\n"+pool).ready()
	post := func(size int, chunked bool) int {
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = io.MultiReader(body)
		}
		r, err := http.Post(m.url("/"), "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		if r.StatusCode == http.StatusRequestEntityTooLarge && !strings.Contains(string(text), `"code":"body_too_large"`) {
			t.Errorf("%s", text)
		}
		return r.StatusCode
	}
	for _, chunked := range []bool{false, true} {
		if small, large := post(2<<20, chunked), post(2<<20+1, chunked); small != 200 || large != 413 {
			t.Errorf("chunked %v: %d and %d", chunked, small, large)
		}
	}
	if n := bodies.Load(); n != 2 {
		t.Errorf("%d whole bodies at the engine", n)
	}
	held := caller{address: m.address, keepAlive: true}
	defer held.close()
	held.get("/")
	m.rewrite("clients.body_mib = 2", "clients.connections_per_address = 1\nclients.body_mib = 1")
	m.mustCommand("reload")
	other := caller{address: m.address}
	if a := other.get("/"); a.status != 429 || !strings.Contains(string(a.body), "too_many_connections") || a.header.Get("Retry-After") == "" {
		t.Errorf("a second connection: %v", a)
	}
	if a := held.get("/"); a.status != 200 {
		t.Errorf("the first: %v", a)
	}
	m.rewrite("connections_per_address = 1", "connections = 1")
	m.mustCommand("reload")
	if a := other.get("/"); a.status != 503 {
		t.Errorf("a second connection: %v", a)
	}
	held.close()
	m.eventually("room", func() bool { return other.get("/").status == 200 })
	got := 0
	m.eventually("room again, the last one's connection having gone", func() bool { got = post(1<<20+1, false); return got != 503 })
	if got != 413 {
		t.Errorf("a body of 1 MiB and a byte: %d", got)
	}
	if n := m.metric("stoker_requests_refused_total", `reason="too_many_connections"`); n < 2 {
		t.Errorf("%v refused connections are counted", n)
	}
	if w := m.status().Pools[0].Servers[0]; w.State != "ready" {
		t.Errorf("the server is %s", w.State)
	}
	m.stop()
}

// TestRefusedHeads: what is no request is answered, logged and counted.
func TestRefusedHeads(t *testing.T) {
	waits(t)
	m := start(t, fakePool(1)).ready()
	for _, c := range []struct {
		raw    string
		status int
		reason string
	}{
		{"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"},
		{"\x16\x03\x01", 400, "bad_request"},
		{"GET /" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\n\r\n", 414, "uri_too_long"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", 431, "head_too_large"},
		{"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"},
	} {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.raw)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		text, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(text), fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(string(text), c.reason) {
			t.Errorf("%.40q: %s", c.raw, text)
		}
		m.eventually("its line", func() bool {
			for _, l := range m.logLines("outcome") {
				if l["status"] == float64(c.status) && l["outcome"] == "client_error" && l["client"] == "127.0.0.1" && l["error"] != nil {
					return true
				}
			}
			return false
		})
		if m.metric("stoker_requests_refused_total", `reason="`+c.reason+`"`) < 1 {
			t.Errorf("%d is not counted", c.status)
		}
	}
	m.stop()
}
