//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// command runs a stoker command against this master and returns what it
// printed, stdout before stderr, and its exit code.
func (m *master) command(words ...string) (text string, code int) {
	m.t.Helper()
	cmd := exec.Command(binary, append(words, "--run-dir", m.runDir)...)
	var out, err bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &err
	failure := cmd.Run()
	var exit *exec.ExitError
	if failure != nil && !errors.As(failure, &exit) {
		m.t.Fatalf("stoker %s: %v", strings.Join(words, " "), failure)
	}
	return out.String() + err.String(), cmd.ProcessState.ExitCode()
}

// mustCommand runs a command that has to succeed.
func (m *master) mustCommand(words ...string) string {
	m.t.Helper()
	text, code := m.command(words...)
	if code != 0 {
		m.t.Fatalf("stoker %s: exit code %d:\n%s", strings.Join(words, " "), code, text)
	}
	return text
}

// load keeps clients busy until stop, which returns how their requests ended
// and how long the slowest took.
func (m *master) load(clients int, path string) (stop func() (*tally, time.Duration)) {
	m.t.Helper()
	var over atomic.Bool
	var slowest atomic.Int64
	ended := newTally()
	all := crowd(clients, func(_, _ int) bool {
		c := caller{address: m.address}
		began := time.Now()
		a := c.get(path)
		took := time.Since(began)
		c.close()
		for {
			before := slowest.Load()
			if int64(took) <= before || slowest.CompareAndSwap(before, int64(took)) {
				break
			}
		}
		what := string(a.outcome)
		if a.outcome == complete && a.status != http.StatusOK {
			what = a.String()
		}
		ended.add(what, a.String())
		return !over.Load()
	})
	m.eventually("load", func() bool { return ended.count(string(complete)) > 20 })
	return func() (*tally, time.Duration) {
		over.Store(true)
		all.Wait()
		return ended, time.Duration(slowest.Load())
	}
}

func operatedPool(workers int) string {
	return fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nqueue.timeout = \"20s\"\ncommand = %s\n",
		workers, list(engine("--socket", "{socket}")...))
}

// TestDrainLosesNoRequest drains, resumes and restarts under load.
func TestDrainLosesNoRequest(t *testing.T) {
	m := start(t, operatedPool(3)).allReady()
	before := m.workers()
	stop := m.load(8, "/work?ms=20")
	if text := m.mustCommand("drain", "p-1"); !strings.Contains(text, "all requests had finished") {
		t.Errorf("drain said %q", text)
	}
	if w := m.worker("p-1"); w.State != "stopped" || w.PID != 0 {
		t.Errorf("after drain: %+v", w)
	}
	if left := alive(before[1].PID); left {
		t.Errorf("the drained engine %d is alive", before[1].PID)
	}
	m.mustCommand("resume", "p-1")
	if w := m.worker("p-1"); w.State != "ready" {
		t.Errorf("after resume: %+v", w)
	}
	m.mustCommand("restart", "p")
	for i, w := range m.workers() {
		if w.State != "ready" || w.PID == before[i].PID {
			t.Errorf("after restart: %+v, the engine before was %d", w, before[i].PID)
		}
	}
	ended, slowest := stop()
	if rest := ended.except(string(complete)); rest != "" {
		t.Errorf("not every request was answered whole: %s", rest)
	}
	t.Logf("%d requests, the slowest took %v", ended.count(string(complete)), slowest)
	m.stop()
}

// TestStoppedStaysStopped: an operator's wish outlasts a rolling restart of its
// pool, and a kill -9 of whatever is left.
func TestStoppedStaysStopped(t *testing.T) {
	m := start(t, operatedPool(2)).allReady()
	m.mustCommand("stop", "p-0")
	m.mustCommand("restart", "p")
	if w := m.worker("p-0"); w.State != "stopped" {
		t.Errorf("after the pool's restart: %+v", w)
	}
	text, code := m.command("drain", "p-7")
	if code == 0 || !strings.Contains(text, "p-0") || !strings.Contains(text, "p-1") {
		t.Errorf("an unknown name: exit code %d and %q", code, text)
	}
	m.mustCommand("restart", "p-0")
	if w := m.worker("p-0"); w.State != "ready" {
		t.Errorf("after its own restart: %+v", w)
	}
	m.stop()
}

func TestScale(t *testing.T) {
	// Which worker has which device must not change either.
	m := start(t, operatedPool(1)+"gpus_per_worker = 1\ngpus = [\"0\", \"1\", \"2\", \"3\"]\n").allReady()
	first := m.worker("p-0").PID
	names := func() []string {
		var all []string
		for _, w := range m.workers() {
			if w.State == "ready" {
				all = append(all, w.Name)
			}
		}
		return all
	}
	want := func(names ...string) func() bool {
		return func() bool {
			var got []string
			for _, w := range m.workers() {
				if w.State != "ready" {
					return false
				}
				got = append(got, w.Name)
			}
			return slices.Equal(got, names)
		}
	}
	m.mustCommand("scale", "p", "3")
	if got := names(); !slices.Equal(got, []string{"p-0", "p-1", "p-2"}) {
		t.Errorf("scaled to 3: %v", got)
	}
	m.mustCommand("scale", "p", "1")
	if got := names(); !slices.Equal(got, []string{"p-0"}) {
		t.Errorf("scaled to 1: %v", got)
	}
	if n := m.metric("stoker_worker_state", `worker="p-2"`); n != 0 {
		t.Error("a removed worker is in the metrics")
	}
	m.signal(syscall.SIGTTIN)
	m.eventually("one more by TTIN", want("p-0", "p-1"))
	m.signal(syscall.SIGTTOU)
	m.eventually("one less by TTOU", want("p-0"))
	m.signal(syscall.SIGWINCH)
	if text, code := m.command("scale", "p", "100000"); code != 2 {
		t.Errorf("scale to 100000: exit code %d and %q", code, text)
	}
	if now := m.worker("p-0").PID; now != first {
		t.Errorf("the first engine was %d and is %d", first, now)
	}
	m.stop()
}

func TestShutdownCommandWaits(t *testing.T) {
	m := start(t, operatedPool(1)).allReady()
	m.mustCommand("shutdown")
	if code := m.exit(time.Second); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.nothingLeft()
}
