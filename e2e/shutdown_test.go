//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestShutdownUnderLoad stops a master while 100 clients call it in a loop:
// each must see complete answers and then "connection refused", never a reset,
// a time-out or silence, with a connection for each request and with
// connections kept alive.
func TestShutdownUnderLoad(t *testing.T) {
	plain := "[[pools]]\nname = \"p\"\nworkers = 4\ncommand = " + list(engine("--socket", "{socket}")...) + "\n"
	for _, c := range []struct {
		name      string
		config    func(*testing.T) string
		path      string
		keepAlive bool
		runs      int
	}{
		{"connection each, uvicorn", func(t *testing.T) string { t.Helper(); return fastapi(t, 4) }, "/work/1?ms=20", false, 10},
		{"kept alive, uvicorn", func(t *testing.T) string { t.Helper(); return fastapi(t, 4) }, "/work/1?ms=20", true, 2},
		{"connection each", func(*testing.T) string { return plain }, "/work?ms=10", false, 10},
		{"kept alive", func(*testing.T) string { return plain }, "/work?ms=10", true, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			for run := range c.runs {
				shutdownUnderLoad(t, start(t, c.config(t)).allReady(), run, c.path, c.keepAlive)
			}
		})
	}
}

func shutdownUnderLoad(t *testing.T, m *master, run int, path string, keepAlive bool) {
	t.Helper()
	const clients = 100
	seen := newTally()
	var stopping atomic.Bool
	callers := make([]caller, clients)
	for i := range callers {
		callers[i] = caller{address: m.address, keepAlive: keepAlive}
	}
	load := crowd(clients, func(client, _ int) bool {
		a := callers[client].get(path)
		what := string(a.outcome)
		switch {
		case a.outcome == complete && a.status != 200:
			what = fmt.Sprintf("status %d", a.status)
		case a.outcome == refused && !stopping.Load():
			what = "refused before the shutdown"
		}
		seen.add(what, a.String())
		// A client goes on past its failures, as a real one does.
		return a.outcome != refused
	})
	m.eventually("every client served a few times", func() bool { return seen.count(string(complete)) > 5*clients })
	stopping.Store(true)
	m.signal(syscall.SIGTERM)
	load.Wait()
	if code := m.exit(patience); code != 0 {
		t.Errorf("run %d: exit code %d, want 0", run, code)
	}
	if wrong := seen.except(string(complete), string(refused)); wrong != "" {
		t.Errorf("run %d: of %d answers: %s", run, seen.count(string(complete)), wrong)
	}
	if n := seen.count(string(refused)); n != clients {
		t.Errorf("run %d: %d of %d clients were refused in the end", run, n, clients)
	}
	m.nothingLeft()
}

// TestIdleConnectionIsToldNotSlammed: a connection that is idle when the
// shutdown begins gets an answer with Connection: close to its next request.
func TestIdleConnectionIsToldNotSlammed(t *testing.T) {
	m := start(t, "shutdown.idle_grace = \"5s\"\n[[pools]]\nname = \"p\"\nworkers = 1\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").ready()
	c := caller{address: m.address, keepAlive: true}
	if a := c.get("/work"); a.outcome != complete || a.status != 200 || c.conn == nil {
		t.Fatalf("first answer: %v", a)
	}
	m.signal(syscall.SIGTERM)
	m.eventually("the door closed", func() bool {
		probe := caller{address: m.address}
		return probe.get("/work").outcome == refused
	})
	if a := c.get("/work"); a.outcome != complete || a.status != 200 || a.header.Get("Connection") != "close" {
		t.Errorf("answer on the idle connection after the door had closed: %v, header %v", a, a.header)
	}
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// TestRequestsInFlightFinish: what has begun before the shutdown is answered
// whole, and readiness says 503 meanwhile.
func TestRequestsInFlightFinish(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 2\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").allReady()
	answers := make(chan answer, 10)
	for range 10 {
		go func() {
			c := caller{address: m.address}
			answers <- c.get("/work?ms=2000")
		}()
	}
	m.eventually("ten requests in flight", func() bool {
		n := 0
		for _, w := range m.workers() {
			n += w.InFlight
		}
		return n == 10
	})
	m.signal(syscall.SIGTERM)
	m.eventuallyWithin(1500*time.Millisecond, "not ready any more", func() bool {
		code, _, err := m.admin("/readyz")
		return err == nil && code == 503
	})
	if code, _, err := m.admin("/livez"); err != nil || code != 200 {
		t.Errorf("/livez while draining: %d %v, want 200", code, err)
	}
	for range 10 {
		if a := <-answers; a.outcome != complete || a.status != 200 || string(a.body) != wholeAnswer {
			t.Errorf("a request in flight: %v", a)
		}
	}
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	m.nothingLeft()
}

// TestHowItEnds holds the time a shutdown takes, and the exit code that tells
// how it went, against what engines and operators do.
func TestHowItEnds(t *testing.T) {
	for _, c := range []struct {
		name     string
		config   string
		engine   []string
		drain    string // empty: 2 s
		workers  int
		hold     bool // a request that never ends is in flight
		signals  []syscall.Signal
		from, to time.Duration
		code     int
	}{
		{name: "ten workers that need 3 s stop together", engine: []string{"--stop-delay", "3s"}, workers: 10, signals: []syscall.Signal{syscall.SIGTERM}, from: 3 * time.Second, to: 5 * time.Second},
		{name: "INT is as TERM", workers: 2, signals: []syscall.Signal{syscall.SIGINT}, to: 5 * time.Second},
		{name: "an engine that ignores TERM is killed after its grace", config: "stop.grace = \"1s\"", engine: []string{"--ignore-term"}, workers: 2, signals: []syscall.Signal{syscall.SIGTERM}, from: time.Second, to: 5 * time.Second, code: 3},
		{name: "a request past the drain limit is cut", config: "", workers: 1, hold: true, signals: []syscall.Signal{syscall.SIGTERM}, from: 2 * time.Second, to: 7 * time.Second, code: 3},
		{name: "the second signal waits for no request", drain: "1m", workers: 1, hold: true, signals: []syscall.Signal{syscall.SIGTERM, syscall.SIGTERM}, to: 1900 * time.Millisecond, code: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, fmt.Sprintf("shutdown.drain_timeout = %q\nshutdown.idle_grace = \"200ms\"\n[[pools]]\nname = \"p\"\nworkers = %d\ncommand = %s\n%s\n",
				cmp.Or(c.drain, "2s"), c.workers, list(engine(append(c.engine, "--socket", "{socket}")...)...), c.config)).allReady()
			cut := make(chan answer, 1)
			if c.hold {
				go func() {
					held := caller{address: m.address}
					cut <- held.get("/hold?id=x")
				}()
				m.eventually("the request held", func() bool { return m.noted("held x") })
			}
			for i, sig := range c.signals {
				if i > 0 {
					m.eventually("draining", func() bool { return m.draining() })
				}
				m.signal(sig)
			}
			code := m.exit(patience)
			took := time.Since(m.stopped)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			t.Logf("took %v", took)
			if took < c.from || took > c.to && !raced {
				t.Errorf("took %v, want between %v and %v", took, c.from, c.to)
			}
			if c.hold {
				if a := <-cut; a.outcome == complete && a.status == 200 || a.outcome == timedOut {
					t.Errorf("the request that was cut looks like %v", a)
				}
			}
			m.nothingLeft()
		})
	}
}

// noted says whether an engine has noted a line.
func (m *master) noted(line string) bool {
	return slices.Contains(m.engineEvents(), line)
}

// draining says whether the master has begun to shut down.
func (m *master) draining() bool {
	code, _, err := m.admin("/readyz")
	return err == nil && code == 503
}
