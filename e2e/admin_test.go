//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAdmin holds what operators and their tools read against its promises.
func TestAdmin(t *testing.T) {
	tcp := freeAddress(t)
	m := start(t, "admin = \""+tcp+"\"\n"+fakePool(2)+`
[[pools]]
name = "elsewhere"
[[pools.servers]]
address = "127.0.0.1:9"
[[pools.servers]]
address = "127.0.0.1:10"
down = true
[[routes]]
path = "/elsewhere"
pool = "elsewhere"
[[routes]]
pool = "p"
`)
	m.eventually("workers ready", func() bool {
		if !m.answersAdmin() {
			return false
		}
		workers := m.workers()
		return workers[0].State == "ready" && workers[1].State == "ready"
	})
	for range 10 {
		if a := (&caller{address: m.address}).get("/work"); a.status != 200 {
			t.Error(a)
		}
	}

	s := m.status()
	if s.PID != m.cmd.Process.Pid || s.Generation != 1 || len(s.Pools) != 2 || s.Pools[0].Name != "p" || len(s.Pools[1].Servers) != 2 {
		t.Errorf("status: %+v", s)
	}
	for _, w := range s.Pools[0].Workers {
		command, _ := os.ReadFile("/proc/" + itoa(w.PID) + "/cmdline")
		keeper, _ := os.ReadFile("/proc/" + itoa(w.KeeperPID) + "/cmdline")
		if !strings.HasPrefix(string(command), self) || !strings.Contains(string(keeper), "keeper") || w.Since.IsZero() || time.Since(w.Since) > time.Minute || !strings.HasPrefix(w.Address, "unix:") {
			t.Errorf("worker %+v: command %q, keeper %q", w, command, keeper)
		}
	}
	if info, err := os.Stat(filepath.Join(m.runDir, "admin.sock")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin socket: %v %v, want mode 0600", info.Mode(), err)
	}
	if a := (&caller{address: tcp}).get("/livez"); a.status != 200 {
		t.Errorf("/livez on TCP: %v", a)
	}
	if got := m.metric("stoker_requests_total", `pool="p"`, `code="200"`); got != 10 {
		t.Errorf("stoker_requests_total: %v, want 10", got)
	}
	m.promised()

	table := output(t, "status", "--run-dir", m.runDir)
	for _, words := range []string{"p-0", "p-1", "ready", itoa(s.Pools[0].Workers[0].PID), "127.0.0.1:9"} {
		if !strings.Contains(table, words) {
			t.Errorf("stoker status does not show %q:\n%s", words, table)
		}
	}
	var document statusDocument
	if err := json.Unmarshal([]byte(output(t, "status", "--json", "--run-dir", m.runDir)), &document); err != nil || document.PID != s.PID {
		t.Errorf("stoker status --json: %v, pid %d, want %d", err, document.PID, s.PID)
	}
	m.stop()
}

// promised: each metric that operators were promised is there.
func (m *master) promised() {
	m.t.Helper()
	_, text, err := m.admin("/metrics")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range []string{
		"stoker_requests_total", "stoker_request_duration_seconds", "stoker_time_to_first_byte_seconds", "stoker_request_outcomes_total",
		"stoker_requests_in_flight", "stoker_queue_length", "stoker_upstream_ready",
		"stoker_worker_state", "stoker_worker_restarts_total", "stoker_worker_drains_total", "stoker_worker_load_seconds",
		"stoker_shutdown_requests_dropped_total", "stoker_shutdown_duration_seconds", "stoker_build_info",
	} {
		if !strings.Contains(text, "# TYPE "+name+" ") {
			m.t.Errorf("/metrics has no %s", name)
		}
	}
}

// output runs a command of stoker's that must succeed.
func output(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(binary, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("stoker %s: %v: %s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

// TestCheck: a good file is called good, and what check --print prints is a
// file that means the same.
func TestCheck(t *testing.T) {
	dir := shortDir(t)
	file, printed := filepath.Join(dir, "a.toml"), filepath.Join(dir, "b.toml")
	if err := os.WriteFile(file, []byte("run_dir = \"run\"\n"+fakePool(3)), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := output(t, "check", "-c", file); !strings.Contains(out, "ok") {
		t.Errorf("check: %s", out)
	}
	once := output(t, "check", "--print", "-c", file)
	if !strings.Contains(once, "start_timeout") || !strings.Contains(once, filepath.Join(dir, "run")) {
		t.Errorf("check --print does not show the defaults, or where a relative path leads:\n%s", once)
	}
	if err := os.WriteFile(printed, []byte(once), 0o600); err != nil {
		t.Fatal(err)
	}
	if twice := output(t, "check", "--print", "-c", printed); twice != once {
		t.Errorf("printed, loaded and printed again is another configuration:\n%s\n---\n%s", once, twice)
	}
}
