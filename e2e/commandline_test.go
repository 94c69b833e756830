//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func itoa(n int) string { return strconv.Itoa(n) }

// TestDemo does what a newcomer does: starts the demo, runs the printed curl
// line, and ends it by Ctrl-C.
func TestDemo(t *testing.T) {
	waits(t)
	tool(t, "curl", "apt-get install curl")
	m := startAs(t, "", setup{args: []string{"demo", "--listen", "{listen}", "--run-dir", "{run_dir}"}}).allReady()
	if n := len(m.workers()); n != 3 {
		t.Errorf("%d workers, want 3", n)
	}
	var line []string
	m.eventually("a curl line printed", func() bool {
		line = regexp.MustCompile(`(?m)^\s*(curl .*)$`).FindStringSubmatch(m.logText())
		return line != nil
	})
	out, err := exec.Command("sh", "-c", line[1]).CombinedOutput()
	if err != nil || strings.Count(string(out), "data: {") < 5 || !strings.Contains(string(out), "data: [DONE]") {
		t.Errorf("%s: %v\n%s", line[1], err, out)
	}
	if a := (&caller{address: m.address}).get("/v1/models"); a.status != 200 || !strings.Contains(string(a.body), `"list"`) {
		t.Errorf("/v1/models: %v", a)
	}
	m.signal(2)
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d after Ctrl-C, want 0", code)
	}
	m.nothingLeft()
}

// TestDemoCleansUp: a demo without a run directory of its own removes the one
// that it has made, also when it cannot start.
func TestDemoCleansUp(t *testing.T) {
	waits(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name, listen string
		code         int
	}{{"after its end", "{listen}", 0}, {"without a door", taken.Addr().String(), 1}, {"by a wrong address", "nowhere", 2}} {
		t.Run(c.name, func(t *testing.T) {
			temp := shortDir(t)
			m := startAs(t, "", setup{args: []string{"demo", "--listen", c.listen}, env: []string{"TMPDIR=" + temp}})
			if c.code == 0 {
				m.eventually("the door", func() bool { return (&caller{address: m.address}).get("/v1/models").status == 200 })
				m.signal(syscall.SIGTERM)
			}
			if code := m.exit(patience); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			left, err := os.ReadDir(temp)
			if err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			m.nothingLeft()
		})
	}
}

// TestCommandLineAlone: one line, no file: placeholders are replaced, the same
// values are in the environment, and an application without /health is served.
func TestCommandLineAlone(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name    string
		flags   []string
		command func(*testing.T) []string
		path    string
	}{
		{name: "uvicorn on a unix socket", path: "/head", command: func(t *testing.T) []string {
			t.Helper()
			wd, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			return []string{python(t), "-m", "uvicorn", "app:app", "--app-dir", wd + "/testdata", "--uds", "{socket}"}
		}},
		{name: "a port", path: "/head", command: func(*testing.T) []string { return engine("--port", "{port}") }},
		{name: "strict health", path: "/head", flags: []string{"--health-path", "/health"}, command: func(*testing.T) []string { return engine("--load", "300ms", "--socket", "{socket}") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := append([]string{"run", "--listen", "{listen}", "--run-dir", "{run_dir}", "--workers", "2"}, c.flags...)
			m := startAs(t, "", setup{args: append(append(args, "--"), c.command(t)...), env: []string{"MY_OWN=kept"}}).allReady()
			for range 4 {
				if a := (&caller{address: m.address}).get(c.path); a.outcome != complete || a.status != 200 {
					t.Errorf("%v", a)
				}
			}
			m.stop()
		})
	}
}

// TestExampleUvicorn runs the example as its own comment says.
func TestExampleUvicorn(t *testing.T) {
	waits(t)
	python(t)
	tool(t, "uvicorn", "apt-get install uvicorn")
	file, err := filepath.Abs("../examples/uvicorn/stoker.toml")
	if err != nil {
		t.Fatal(err)
	}
	m := startAs(t, "", setup{args: []string{"run", "-c", file, "--listen", "{listen}", "--run-dir", "{run_dir}"}}).allReady()
	for path, want := range map[string]string{"/": `"worker":"app-`, "/clock?ticks=2": "data: [DONE]"} {
		if a := (&caller{address: m.address}).get(path); a.outcome != complete || a.status != 200 || !strings.Contains(string(a.body), want) {
			t.Errorf("%s: %v, want %s", path, a, want)
		}
	}
	m.stop()
}

// TestEngineEnvironment: what an engine is told of itself, and that all else
// is the master's own environment without what belongs to the master alone.
func TestEngineEnvironment(t *testing.T) {
	m := startAs(t, fakePool(2)+"gpus_per_worker = 2\ngpus = [\"4\", \"5\", \"6\", \"7\"]\nenv.EXTRA = \"{name} {index} {gpus}\"\n", setup{
		args: []string{"run", "-c", "{config}"},
		env:  []string{"MY_OWN=kept", "NOTIFY_SOCKET=/nowhere", "LISTEN_FDS=1", "LISTEN_PID=1"},
	}).allReady()
	seen := map[string]bool{}
	m.eventually("both engines asked", func() bool {
		var told struct{ Environment map[string]string }
		if err := json.Unmarshal((&caller{address: m.address}).get("/head").body, &told); err != nil {
			t.Fatal(err)
		}
		env := told.Environment
		index, _ := strconv.Atoi(env["STOKER_INDEX"])
		gpus := fmt.Sprintf("%d,%d", 4+2*index, 5+2*index)
		for name, want := range map[string]string{
			"STOKER_NAME": "p-" + env["STOKER_INDEX"], "STOKER_SOCKET": m.runDir + "/engines/" + env["STOKER_NAME"] + "/http.sock",
			"CUDA_VISIBLE_DEVICES": gpus, "STOKER_GPUS": gpus, "EXTRA": env["STOKER_NAME"] + " " + env["STOKER_INDEX"] + " " + gpus,
			"MY_OWN": "kept", "NOTIFY_SOCKET": "", "LISTEN_FDS": "", "LISTEN_PID": "",
		} {
			if env[name] != want {
				t.Errorf("%s=%q, want %q", name, env[name], want)
			}
		}
		seen[env["STOKER_INDEX"]] = true
		return len(seen) == 2 || t.Failed()
	})
	m.stop()
}

// TestStartTimeoutFlag: --start-timeout is the time an engine may load.
func TestStartTimeoutFlag(t *testing.T) {
	waits(t)
	m := startAs(t, "", setup{args: append([]string{
		"run", "--listen", "{listen}", "--run-dir", "{run_dir}", "--start-timeout", "300ms", "--log-format", "json", "--",
	}, engine("--never-ready", "--socket", "{socket}")...)})
	begun := time.Now()
	m.eventually("given up loading once", func() bool { return m.answersAdmin() && m.workers()[0].Restarts > 0 })
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("restarted after %v, before the time-out", took)
	}
	m.signal(15)
	m.exit(patience)
	m.nothingLeft()
}
