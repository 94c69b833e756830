package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/supervisor"
)

// TestMain makes the test binary be stoker when it is called as one: master,
// keeper and engine alike, race detector included. The arguments tell, not the
// environment, which a keeper's engine would not have inherited whole: tests
// that start themselves again without end once stopped this machine.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		os.Exit(dispatch(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// process is a stoker that a test has started.
type process struct {
	*exec.Cmd
	runDir string
	url    string
	ended  chan struct{}
	code   int // once ended is closed

	mu  sync.Mutex
	out bytes.Buffer // stdout and stderr
}

// Write collects what the process and its keepers print.
func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// start runs stoker with args and a run directory of its own.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // t.TempDir is too long for unix sockets, which are limited to 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	address := freeAddress(t)
	args = append([]string{args[0], "--run-dir", dir, "--listen", address}, args[1:]...)
	p := &process{Cmd: exec.Command(os.Args[0], args...), runDir: dir, url: "http://" + address, ended: make(chan struct{})}
	p.Stdout, p.Stderr = p, p
	// Keepers hold the output too, so waiting for its end would wait for them.
	p.WaitDelay = 100 * time.Millisecond
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = p.Wait()
		p.code = p.ProcessState.ExitCode()
	}()
	t.Cleanup(func() {
		_ = p.Process.Signal(syscall.SIGQUIT)
		select {
		case <-p.ended:
		case <-time.After(20 * time.Second):
			_ = p.Process.Kill()
			<-p.ended
			t.Errorf("stoker did not end on QUIT")
		}
		if t.Failed() {
			t.Logf("output:\n%s", p.output())
		}
		os.RemoveAll(dir)
	})
	return p
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// admin asks the admin socket; the error is the dial's.
func (p *process) admin(path string) (int, []byte, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.runDir, "admin.sock"))
	}}}
	resp, err := client.Get("http://stoker" + path)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// waitReady polls readiness: from outside there is no event to wait for.
func (p *process) waitReady(t *testing.T) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if code, _, err := p.admin("/readyz"); err == nil && code == http.StatusOK {
			return
		}
	}
	t.Fatalf("not ready in time:\n%s", p.output())
}

func (p *process) waitEnd(t *testing.T) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.code
	case <-time.After(30 * time.Second):
		t.Fatalf("did not end:\n%s", p.output())
		return -1
	}
}

// builtIn is the command of the built-in engine, quick to load.
func builtIn(extra ...string) []string {
	return append([]string{"--", os.Args[0], engineCommand, "--socket", "{socket}", "--load-time", "10ms"}, extra...)
}

func TestRunServesAndEndsGracefully(t *testing.T) {
	p := start(t, append([]string{"run", "--workers", "2"}, builtIn()...)...)
	p.waitFor(t, func(s *status) bool {
		return len(s.Pools) == 1 && s.Pools[0].Workers[0].State == supervisor.Ready && s.Pools[0].Workers[1].State == supervisor.Ready
	})
	resp, err := http.Get(p.url + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK || resp.Header.Get("X-Request-Id") == "" {
		t.Errorf("answer %s, headers %v", resp.Status, resp.Header)
	}
	pids := p.pids(t)
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.waitEnd(t); code != exitOK {
		t.Errorf("exit code %d", code)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
	if _, err := os.Stat(filepath.Join(p.runDir, "admin.sock")); err == nil {
		t.Errorf("the admin socket is left")
	}
}

// pids are those of all engines and keepers.
func (p *process) pids(t *testing.T) []int {
	t.Helper()
	_, body, err := p.admin("/status")
	if err != nil {
		t.Fatal(err)
	}
	var s status
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, pool := range s.Pools {
		for _, w := range pool.Workers {
			if w.PID <= 0 || w.KeeperPID <= 0 {
				t.Errorf("worker %s has pid %d, keeper %d", w.Name, w.PID, w.KeeperPID)
			}
			pids = append(pids, w.PID, w.KeeperPID)
		}
	}
	return pids
}

func TestEndIsForcedWhenRequestsAreCut(t *testing.T) {
	p := start(t, append([]string{"run"}, builtIn("--faults")...)...)
	p.waitReady(t)
	req, _ := http.NewRequest(http.MethodPost, p.url+"/v1/completions", strings.NewReader(`{"model":"stoker-demo","prompt":"x"}`))
	req.Header.Set("X-Fault", "hang")
	failed := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("answered %s", resp.Status)
			}
		}
		failed <- err
	}()
	p.waitFor(t, func(s *status) bool { return len(s.Pools) == 1 && s.Pools[0].Workers[0].InFlight == 1 })
	// The first signal waits for the request, the second does not any more.
	_ = p.Process.Signal(syscall.SIGTERM)
	p.waitFor(t, func(s *status) bool { return s.State == "draining" })
	if code, _, err := p.admin("/readyz"); err != nil || code != http.StatusServiceUnavailable {
		t.Errorf("while draining /readyz says %d, %v", code, err)
	}
	_ = p.Process.Signal(syscall.SIGTERM)
	if code := p.waitEnd(t); code != exitForced {
		t.Errorf("exit code %d, want %d", code, exitForced)
	}
	if err := <-failed; err == nil {
		t.Errorf("the cut request looked whole")
	}
}

// waitFor polls the status until it is as wanted.
func (p *process) waitFor(t *testing.T, want func(*status) bool) {
	t.Helper()
	var s status
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		_, body, err := p.admin("/status")
		if err == nil && json.Unmarshal(body, &s) == nil && want(&s) {
			return
		}
	}
	t.Fatalf("status never was as wanted; last: %+v\n%s", s, p.output())
}

func TestWhatCannotStartSaysWhy(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	held := start(t, append([]string{"run"}, builtIn()...)...)
	held.waitReady(t)
	bad := filepath.Join(t.TempDir(), "stoker.toml")
	if err := os.WriteFile(bad, []byte("lisden = [\":1\"]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing to run", []string{"run"}, exitUsage, "nothing to run"},
		{"unknown flag", []string{"run", "--wrokers", "2"}, exitUsage, "unknown flag: --wrokers"},
		{"no number", []string{"run", "--workers", "two"}, exitUsage, `--workers: must be a whole number, such as 4, not "two"; see stoker run --help`},
		{"no duration", []string{"upgrade", "--timeout", "5"}, exitUsage, `--timeout: must be a duration with its unit, such as 45s, not "5"; see stoker upgrade --help`},
		{"unknown command", []string{"rum"}, exitUsage, "unknown command"},
		{"bad file", []string{"check", "-c", bad}, exitUsage, "stoker.toml:1: lisden"},
		{"check without a file", []string{"check"}, exitUsage, "check needs a file"},
		{"run directory held", append([]string{"run", "--run-dir", held.runDir}, builtIn()...), exitFailed, "is held by another stoker (pid "},
		{"port in use", append([]string{"run", "--listen", busy.Addr().String(), "--run-dir", filepath.Join(t.TempDir(), "r")}, builtIn()...), exitFailed, "in use"},
		{"no master", []string{"status", "--run-dir", t.TempDir()}, exitFailed, "with -c): dial unix "},
		{"keeper by hand", []string{"keeper"}, exitUsage, "is started by stoker itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], tt.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			_ = cmd.Run()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(stderr.String(), tt.want) {
				t.Errorf("exit code %d, stderr %q; want %d and %q", code, stderr.String(), tt.code, tt.want)
			}
		})
	}
}

func TestDemoPrintsACurlLineThatWorks(t *testing.T) {
	p := start(t, "demo")
	p.waitReady(t)
	var line string
	for scan := bufio.NewScanner(strings.NewReader(p.output())); scan.Scan(); {
		if text := strings.TrimSpace(scan.Text()); strings.HasPrefix(text, "curl ") {
			line = text
		}
	}
	_, body, ok := strings.Cut(line, "-d '")
	body, _, ok2 := strings.Cut(body, "'")
	if !ok || !ok2 {
		t.Fatalf("no curl line in:\n%s", p.output())
	}
	resp, err := http.Post(p.url+"/v1/chat/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || !strings.HasSuffix(strings.TrimSpace(string(answer)), "data: [DONE]") {
		t.Errorf("%v: %s", err, answer)
	}
}
