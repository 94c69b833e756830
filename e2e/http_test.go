//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakePool is a pool of the engine that misbehaves on demand.
func fakePool(workers int) string {
	return fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"100ms\"\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))
}

// TestWhatTheApplicationSees: request line untouched, forwarding fields set,
// hop-by-hop fields gone, and nothing believed of a client that is not trusted.
func TestWhatTheApplicationSees(t *testing.T) {
	app := fastapi(t, 1)
	for _, c := range []struct {
		name, config      string
		id, forwarded     string // sent
		wantID, wantChain string // "": ours, whatever it is
	}{
		{name: "nobody trusted", config: strings.ReplaceAll(app, "trusted_proxies = [\"127.0.0.0/8\"]\n", ""), id: "mine", forwarded: "203.0.113.9", wantChain: "127.0.0.1"},
		{name: "trusted proxy", config: app, id: "mine", forwarded: "203.0.113.9", wantID: "mine", wantChain: "203.0.113.9, 127.0.0.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, c.config).ready()
			call := caller{address: m.address}
			a := call.get("/head?q=a%2Fb+c&%zz=%C3%BC", "X-Request-Id: "+c.id, "X-Forwarded-For: "+c.forwarded, "X-Forwarded-Proto: gopher",
				"Connection: close, X-Secret-Hop", "X-Secret-Hop: 1", "Keep-Alive: 5", "Proxy-Connection: keep-alive", "TE: trailers", "X-Twice: a", "X-Twice: b", "Cookie: k=v")
			if a.outcome != complete || a.status != 200 {
				t.Fatal(a)
			}
			var seen struct {
				Method, Path, Query string
				Fields              [][2]string
			}
			if err := json.Unmarshal(a.body, &seen); err != nil {
				t.Fatal(err)
			}
			if seen.Method != http.MethodGet || seen.Path != "/head" || seen.Query != "q=a%2Fb+c&%zz=%C3%BC" {
				t.Errorf("the application saw %s %s ? %s", seen.Method, seen.Path, seen.Query)
			}
			got := func(name string) string {
				var values []string
				for _, field := range seen.Fields {
					if strings.EqualFold(field[0], name) {
						values = append(values, field[1])
					}
				}
				return strings.Join(values, ", ")
			}
			for name, want := range map[string]string{"host": m.address, "x-twice": "a, b", "cookie": "k=v", "x-forwarded-for": c.wantChain, "x-forwarded-host": m.address, "x-secret-hop": "", "keep-alive": "", "proxy-connection": ""} {
				if got(name) != want {
					t.Errorf("%s: %q, want %q", name, got(name), want)
				}
			}
			if c.wantID == "" && got("x-forwarded-proto") != "http" {
				t.Errorf("x-forwarded-proto: %q, want http", got("x-forwarded-proto"))
			}
			id := got("x-request-id")
			if c.wantID != "" && id != c.wantID || c.wantID == "" && (id == "" || id == c.id) {
				t.Errorf("x-request-id: the client sent %q, the application got %q", c.id, id)
			}
			if back := a.header.Get("X-Request-Id"); back != id {
				t.Errorf("the client got X-Request-Id %q, the application %q", back, id)
			}
			checkAccessLine(t, m.accessLine(id))
			m.stop()
		})
	}
}

// checkAccessLine: every promised fact is in the line.
func checkAccessLine(t *testing.T, line map[string]any) {
	t.Helper()
	for _, name := range []string{"time", "id", "client", "method", "path", "status", "bytes", "pool", "worker", "attempts", "ttfb", "duration", "outcome"} {
		if _, ok := line[name]; !ok {
			t.Errorf("access line has no %q: %v", name, line)
		}
	}
	if line["status"] != float64(200) || line["outcome"] != "ok" || line["method"] != "GET" || line["worker"] != "app-0" {
		t.Errorf("access line: %v", line)
	}
	if text := fmt.Sprint(line); strings.Contains(text, "k=v") {
		t.Errorf("a cookie is in the access log: %s", text)
	}
}

// TestEventsAreNotHeldBack: an event reaches the client before the engine
// writes the next one, which here waits for the client.
func TestEventsAreNotHeldBack(t *testing.T) {
	m := start(t, fakePool(1)).ready()
	response, err := http.Get(m.url("/events"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	scanner := bufio.NewScanner(response.Body)
	for n := 1; n <= 5; n++ {
		if !scanner.Scan() || scanner.Text() != fmt.Sprintf("data: %d", n) || !scanner.Scan() {
			t.Fatalf("event %d: %q %v", n, scanner.Text(), scanner.Err())
		}
		if a := (&caller{address: m.address}).get("/next"); a.outcome != complete {
			t.Fatal(a)
		}
	}
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		t.Errorf("after the last event: %q, %v", rest, err)
	}
	m.stop()
}

// TestUploadIsStreamed: a part of a body reaches the engine before the client
// sends the next.
func TestUploadIsStreamed(t *testing.T) {
	m := start(t, fakePool(1)).ready()
	read, write := io.Pipe()
	answered := make(chan error, 1)
	go func() {
		response, err := http.Post(m.url("/upload"), "text/plain", read)
		if err == nil {
			_, err = readAll(response)
		}
		answered <- err
	}()
	for n := range 3 {
		if _, err := fmt.Fprintf(write, "part%d", n); err != nil {
			t.Fatal(err)
		}
		m.eventually("the part at the engine", func() bool { return m.noted(fmt.Sprintf("got part%d", n)) })
	}
	write.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	m.stop()
}

// TestHangUpIsPassedOn: a client that goes during a silent prefill is seen by
// the application within a second, and nobody is blamed.
func TestHangUpIsPassedOn(t *testing.T) {
	for _, c := range []struct {
		name   string
		config func(*testing.T) string
		path   string
	}{
		{"uvicorn", func(t *testing.T) string { t.Helper(); return fastapi(t, 1) }, "/silent/%d"},
		{"engine", func(*testing.T) string { return fakePool(1) }, "/hold?id=%d"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, c.config(t)).ready()
			for n, how := range []func(*net.TCPConn){
				func(conn *net.TCPConn) { conn.Close() },                        // FIN
				func(conn *net.TCPConn) { _ = conn.SetLinger(0); conn.Close() }, // RST
			} {
				conn, err := net.Dial("tcp", m.address)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				fmt.Fprintf(conn, "GET "+c.path+" HTTP/1.1\r\nHost: x\r\n\r\n", n)
				m.eventually("the request held", func() bool { return m.noted(fmt.Sprintf("held %d", n)) })
				how(conn.(*net.TCPConn))
				m.eventuallyWithin(time.Second, "the application told", func() bool { return m.noted(fmt.Sprintf("gone %d", n)) })
			}
			m.eventually("logged as 499", func() bool {
				return len(slices.DeleteFunc(m.logLines("outcome"), func(line map[string]any) bool {
					return line["status"] != float64(499) || line["outcome"] != "client_gone"
				})) == 2
			})
			if w := m.workers()[0]; w.State != "ready" || w.Restarts != 0 {
				t.Errorf("the worker after the hang-ups: %+v", w)
			}
			m.stop()
		})
	}
}

// TestHalfAnAnswerLooksBroken: however an answer breaks off, the client's
// breaks off too; it is never ended as if it were whole.
func TestHalfAnAnswerLooksBroken(t *testing.T) {
	m := start(t, fakePool(2)).allReady()
	for _, path := range []string{"/break", "/break?length=1000", "/break?die=1", "/break?length=1000&die=1"} {
		m.allReady()
		a := (&caller{address: m.address}).get(path)
		if a.outcome != partial && a.outcome != reset {
			t.Errorf("%s: the client saw %v, want a broken answer", path, a)
		}
	}
	m.stop()
}

// TestEngineThatDiesBeforeItsAnswer: where it is not tried again that is 502, as JSON.
func TestEngineThatDiesBeforeItsAnswer(t *testing.T) {
	m := start(t, fakePool(1)+"on_death = \"fail\"\n").ready()
	victim := m.workers()[0].PID
	answered := make(chan answer, 1)
	go func() { answered <- (&caller{address: m.address}).get("/hold?id=a") }()
	m.eventually("the request held", func() bool { return m.noted("held a") })
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a := <-answered
	if a.outcome != complete || a.status != 502 || !strings.Contains(string(a.body), `"upstream_error"`) || !strings.HasPrefix(a.header.Get("Content-Type"), "application/json") {
		t.Errorf("%v, want 502 upstream_error as JSON", a)
	}
	m.stop()
}
