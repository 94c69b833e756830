//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestEnginesThatFail: however an engine ends, the master lives on, one line
// of its log explains what happened and what to do, and the worker comes back
// where it can.
func TestEnginesThatFail(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name    string
		command string
		pool    string // more keys
		kill    bool
		explain string // matches one log line
		back    bool
	}{
		{name: "exits with code 0", command: list(engine("--exit-after", "500ms", "--socket", "{socket}")...), explain: `exit.*0`, back: true},
		{name: "exits with code 37", command: list(engine("--exit-after", "500ms", "--exit-code", "37", "--socket", "{socket}")...), explain: `exit.*37`, back: true},
		{name: "is killed", command: list(engine("--socket", "{socket}")...), kill: true, explain: `(?i)kill`, back: true},
		{name: "never becomes ready", command: list(engine("--never-ready", "--socket", "{socket}")...), pool: "start_timeout = \"1s\"\n", explain: `start_timeout`},
		{name: "listens elsewhere", command: list(engine("--port", "0")...), pool: "start_timeout = \"1s\"\nenv.LISTEN_ON = \"{socket}\"\n", explain: `start_timeout`},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\nrestart.delay = \"50ms\"\ncommand = "+c.command+"\n"+c.pool)
			if c.kill {
				if err := syscall.Kill(m.ready().workers()[0].PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
			}
			m.eventually("a line that explains", func() bool { return m.explained(c.explain) != "" })
			t.Log(m.explained(c.explain))
			m.eventually("a restart", func() bool { return m.answersAdmin() && m.workers()[0].Restarts >= 1 })
			if c.back {
				m.eventually("served again", func() bool {
					a := (&caller{address: m.address}).get("/work")
					return a.outcome == complete && a.status == 200
				})
			}
			m.signal(syscall.SIGTERM)
			m.exit(patience)
			m.nothingLeft()
		})
	}
	t.Run("cannot be executed", func(t *testing.T) {
		// A file that looks like a program until it is executed.
		program := filepath.Join(shortDir(t), "engine")
		if err := writeProgram(program, []byte("#!/no/such/interpreter\n")); err != nil {
			t.Fatal(err)
		}
		m := start(t, "[[pools]]\nname = \"good\"\nworkers = 1\ncommand = "+list(engine("--socket", "{socket}")...)+
			"\n[[pools]]\nname = \"bad\"\nworkers = 1\nrestart.delay = \"50ms\"\ncommand = "+list(program, "--socket", "{socket}")+
			"\n[[routes]]\npath = \"/bad\"\npool = \"bad\"\n[[routes]]\npool = \"good\"\n")
		m.eventually("a line that explains", func() bool { return m.explained(`(?i)no such file.*"bad-0"`) != "" })
		t.Log(m.explained(`(?i)no such file.*"bad-0"`))
		m.eventually("the other pool serves", func() bool {
			a := (&caller{address: m.address}).get("/work")
			return a.outcome == complete && a.status == 200
		})
		m.stop()
	})
}

// explained returns the first warning or error of the log that matches.
func (m *master) explained(pattern string) string {
	m.t.Helper()
	match := regexp.MustCompile(pattern)
	for line := range strings.Lines(m.logText()) {
		if (strings.Contains(line, `"warn"`) || strings.Contains(line, `"error"`)) && match.MatchString(line) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func (m *master) answersAdmin() bool {
	_, _, err := m.admin("/livez")
	return err == nil
}

// TestEngineOutputIsPrefixed: what an engine prints appears with its worker's name.
func TestEngineOutputIsPrefixed(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"talker\"\nworkers = 2\nrestart.delay = \"1s\"\ncommand = "+list(engine("--exit-after", "1s", "--socket", "{socket}")...)+"\n")
	m.eventually("both workers' lines", func() bool {
		for i := range 2 {
			found := false
			for line := range strings.Lines(m.logText()) {
				found = found || strings.Contains(line, fmt.Sprintf("talker-%d", i)) && strings.Contains(line, "about to exit by itself")
			}
			if !found {
				return false
			}
		}
		return true
	})
	m.signal(syscall.SIGTERM)
	m.exit(patience)
	m.nothingLeft()
}

// TestRequestBeforeReadyWaits: a request that comes while the engine loads
// waits for it instead of failing.
func TestRequestBeforeReadyWaits(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\ncommand = "+list(engine("--load", "1500ms", "--socket", "{socket}")...)+"\n")
	m.eventually("the door open", func() bool { return m.answersAdmin() })
	if code, _, err := m.admin("/readyz"); err != nil || code != 503 {
		t.Errorf("/readyz while loading: %d %v, want 503", code, err)
	}
	if a := (&caller{address: m.address}).get("/work"); a.outcome != complete || a.status != 200 {
		t.Errorf("a request while loading: %v, want an answer once loaded", a)
	}
	m.stop()
}

// TestNoWorkerInTime: the queue's time-out ends the wait with 503 as JSON.
func TestNoWorkerInTime(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\nqueue.timeout = \"300ms\"\ncommand = "+list(engine("--never-ready", "--socket", "{socket}")...)+"\n")
	m.eventually("the door open", func() bool { return m.answersAdmin() })
	a := (&caller{address: m.address}).get("/v1/chat/completions")
	if a.outcome != complete || a.status != 503 || !strings.Contains(string(a.body), `"server_unavailable"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("%v, header %v, want 503 server_unavailable with Retry-After", a, a.header)
	}
	m.signal(syscall.SIGTERM)
	m.exit(patience)
	m.nothingLeft()
}
