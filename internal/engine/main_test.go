package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asEngine in the environment makes the test binary an engine.
const asEngine = "STOKER_TEST_AS_ENGINE"

func TestMain(m *testing.M) {
	if os.Getenv(asEngine) != "" {
		os.Exit(Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// child is an engine in a process of its own.
type child struct {
	*exec.Cmd
	socket string
	client *http.Client
	log    bytes.Buffer // read after wait
	ended  chan struct{}
}

func spawn(t *testing.T, args ...string) *child {
	t.Helper()
	c := &child{socket: filepath.Join(t.TempDir(), "s"), ended: make(chan struct{})}
	c.Cmd = exec.Command(os.Args[0], append([]string{"--socket", c.socket, "--load-time", "0s", "--faults", "--decode-rate", "200"}, args...)...)
	c.Env = append(os.Environ(), asEngine+"=1")
	c.Stderr = &c.log
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.socket)
	}}
	c.client = &http.Client{Transport: transport, Timeout: 10 * time.Second}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { c.Wait(); close(c.ended) }()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		c.Process.Kill()
		<-c.ended
		if t.Failed() {
			t.Logf("engine's log:\n%s", c.log.String())
		}
	})
	return c
}

func (c *child) awaitHealth(t *testing.T, want int) {
	t.Helper()
	eventually(t, "healthy", func() bool {
		resp, err := c.client.Get("http://engine/health")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == want
	})
}

func (c *child) post(fault, body string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodPost, "http://engine/v1/completions", strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Fault", fault)
	return c.client.Do(req)
}

func (c *child) wait(t *testing.T) *os.ProcessState {
	t.Helper()
	select {
	case <-c.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the engine does not end")
	}
	return c.ProcessState
}

func TestDeaths(t *testing.T) {
	for fault, want := range map[string]string{
		"exit=0":  "exit status 0",
		"exit=7":  "exit status 7",
		"kill":    "signal: killed",
		"abort":   "signal: aborted",
		"after=1": "", // of no death
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			c := spawn(t)
			c.awaitHealth(t, http.StatusOK)
			resp, err := c.post(fault, `{"prompt":"a","max_tokens":2}`)
			if err == nil {
				resp.Body.Close()
			}
			if want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Error("an answer from the dead")
			}
			if got := c.wait(t).String(); got != want {
				t.Errorf("ended with %s, want %s", got, want)
			}
		})
	}
}

// TestTerm: what runs finishes, then code 0; when the grace is over, or somebody
// insists, what runs is cut, and the code says so.
func TestTerm(t *testing.T) {
	for name, c := range map[string]struct {
		args     []string
		request  string
		insist   bool
		complete bool
		code     int
	}{
		"idle":          {nil, "", false, false, 0},
		"finishes":      {nil, `{"prompt":"a","stream":true,"ignore_eos":true,"max_tokens":100}`, false, true, 0},
		"out of grace":  {[]string{"--grace", "50ms"}, `{"prompt":"a","stream":true,"ignore_eos":true}`, false, false, 1},
		"second signal": {nil, `{"prompt":"a","stream":true,"ignore_eos":true}`, true, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := spawn(t, c.args...)
			e.awaitHealth(t, http.StatusOK)
			var body io.ReadCloser
			if c.request != "" {
				resp, err := e.post("", c.request)
				if err != nil {
					t.Fatal(err)
				}
				body = resp.Body
				defer body.Close()
			}
			e.Process.Signal(syscall.SIGTERM)
			eventually(t, "closed to others", func() bool {
				conn, err := net.Dial("unix", e.socket)
				if err == nil {
					conn.Close()
				}
				return err != nil
			})
			if c.insist {
				e.Process.Signal(syscall.SIGTERM)
			}
			if body != nil {
				data, err := io.ReadAll(body)
				if complete := err == nil && bytes.HasSuffix(data, []byte("data: [DONE]\n\n")); complete != c.complete {
					t.Errorf("complete: %t, error %v", complete, err)
				}
			}
			if got := e.wait(t).ExitCode(); got != c.code {
				t.Errorf("code %d, want %d", got, c.code)
			}
			if _, err := os.Stat(e.socket); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
		})
	}
}

func TestStubbornEngines(t *testing.T) {
	t.Run("never ready", func(t *testing.T) {
		t.Parallel()
		spawn(t, "--never-ready").awaitHealth(t, http.StatusServiceUnavailable)
	})
	t.Run("exit at start", func(t *testing.T) {
		t.Parallel()
		if got := spawn(t, "--exit-at-start", "3").wait(t).ExitCode(); got != 3 {
			t.Errorf("code %d", got)
		}
	})
	t.Run("exit after", func(t *testing.T) {
		t.Parallel()
		if got := spawn(t, "--exit-after", "100ms").wait(t).ExitCode(); got != 0 {
			t.Errorf("code %d", got)
		}
	})
	t.Run("ignores TERM", func(t *testing.T) {
		t.Parallel()
		c := spawn(t, "--ignore-term")
		c.awaitHealth(t, http.StatusOK)
		c.Process.Signal(syscall.SIGTERM)
		c.awaitHealth(t, http.StatusOK)
	})
	t.Run("blocked", func(t *testing.T) {
		t.Parallel()
		c := spawn(t)
		c.awaitHealth(t, http.StatusOK)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://engine/v1/completions", strings.NewReader(`{"prompt":"a"}`))
		req.Header.Set("X-Fault", "block")
		if resp, err := c.client.Do(req); err == nil {
			resp.Body.Close()
			t.Errorf("answered %s", resp.Status)
		}
		c.Process.Signal(syscall.SIGTERM)
		time.Sleep(50 * time.Millisecond) // a signal that is not heard shows in nothing
		c.Process.Kill()
		c.wait(t)
		if strings.Contains(c.log.String(), "stopping") {
			t.Error("it has heard a signal")
		}
	})
	t.Run("closes idle connections", func(t *testing.T) {
		t.Parallel()
		c := spawn(t, "--idle-timeout", "10ms")
		c.awaitHealth(t, http.StatusOK)
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "GET /health HTTP/1.1\r\nHost: engine\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("it is not closed: %v", err)
		}
	})
	t.Run("socket taken", func(t *testing.T) {
		t.Parallel()
		c := spawn(t)
		c.awaitHealth(t, http.StatusOK)
		second := spawn(t, "--socket", c.socket)
		if got := second.wait(t).ExitCode(); got != exitError || !strings.Contains(second.log.String(), "listens there") {
			t.Errorf("code %d: %s", got, second.log.String())
		}
	})
}

// TestDaemon: it lives in a session of its own and does not mind a TERM.
func TestDaemon(t *testing.T) {
	c := spawn(t, "--spawn-daemon")
	c.awaitHealth(t, http.StatusOK)
	resp, err := c.client.Get("http://engine/stats")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var s Stats
	if err := json.NewDecoder(resp.Body).Decode(&s); err != nil || s.DaemonPID <= 0 || s.PID != c.Process.Pid {
		t.Fatalf("%+v, %v", s, err)
	}
	defer syscall.Kill(s.DaemonPID, syscall.SIGKILL)
	ours, err := unix.Getsid(c.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if session, err := unix.Getsid(s.DaemonPID); err != nil || session == ours {
		t.Errorf("session %d, %v", session, err)
	}
	if err := syscall.Kill(s.DaemonPID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.DaemonPID))
	if err != nil || strings.Contains(string(status), "State:\tZ") || !ignores(t, string(status), syscall.SIGTERM) {
		t.Errorf("%v, %s", err, status)
	}
}

// ignores reads the mask of ignored signals in a /proc/PID/status. Others than
// ours may be in it: whoever runs the tests may ignore some.
func ignores(t *testing.T, status string, signal syscall.Signal) bool {
	t.Helper()
	_, rest, _ := strings.Cut(status, "SigIgn:\t")
	line, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(line, 16, 64)
	if err != nil {
		t.Fatalf("SigIgn %q: %v", line, err)
	}
	return mask&(1<<(uint(signal)-1)) != 0
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"--socket", "/x", "--port", "1"}, {"--port", "0", "rest"}, {"--port", "0", "--slots", "0"}, {"--port", "0", "--decode-rate", "-1"}, {"--nonsense"},
	} {
		var out bytes.Buffer
		if p, err := parse(args, &out); err == nil || out.Len() == 0 {
			t.Errorf("%q: %+v, says %q", args, p, out.String())
		}
	}
	p, err := parse([]string{"--port", "8001", "--host", "::1"}, io.Discard)
	if err != nil || p.listen != "[::1]:8001" {
		t.Errorf("%+v, %v", p, err)
	}
}
