//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// rewrite replaces words in the master's file, old and new in turn.
func (m *master) rewrite(words ...string) {
	m.t.Helper()
	path := filepath.Join(m.cmd.Dir, "stoker.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := 0; i < len(words); i += 2 {
		if !strings.Contains(string(text), words[i]) {
			m.t.Fatalf("the file has no %q:\n%s", words[i], text)
		}
		text = []byte(strings.Replace(string(text), words[i], words[i+1], 1))
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// versions counts the VERSIONs in the environment of the engines that answer.
func (m *master) versions(requests int) map[string]int {
	m.t.Helper()
	seen := map[string]int{}
	for range requests {
		c := caller{address: m.address}
		a := c.get("/head")
		c.close()
		var head struct{ Environment map[string]string }
		if err := json.Unmarshal(a.body, &head); err != nil {
			m.t.Fatalf("%v: %v", a, err)
		}
		seen[head.Environment["VERSION"]]++
	}
	return seen
}

func versionedPool(workers int, flags ...string) string {
	return fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nenv.VERSION = \"one\"\nhealth.interval = \"200ms\"\ncommand = %s\n",
		workers, list(engine(append([]string{"--socket", "{socket}"}, flags...)...)...))
}

// TestRollingReload: four workers that load for 5 s get a new version.
func TestRollingReload(t *testing.T) {
	m := start(t, versionedPool(4, "--load", "5s")).allReady()
	m.rewrite(`"one"`, `"two"`)
	if plan := m.mustCommand("reload", "--dry-run"); !strings.Contains(plan, "4 (p-0 p-1 p-2 p-3) restarted") || m.versions(8)["one"] != 8 {
		t.Errorf("dry run: %s", plan)
	}
	stop := m.load(8, "/work?ms=5")
	fewest := 4
	var watching sync.WaitGroup
	over := make(chan struct{})
	watching.Go(func() {
		for {
			ready := 0
			for _, w := range m.workers() {
				if w.State == "ready" {
					ready++
				}
			}
			fewest = min(fewest, ready)
			select {
			case <-over:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
	began := time.Now()
	m.mustCommand("reload")
	took := time.Since(began)
	close(over)
	watching.Wait()
	ended, slowest := stop()
	if rest := ended.except(string(complete)); rest != "" {
		t.Errorf("not every request was answered whole: %s", rest)
	}
	if fewest < 3 {
		t.Errorf("only %d of 4 workers were ready at some time", fewest)
	}
	if slowest > 500*time.Millisecond && !raced {
		t.Errorf("the slowest short request took %v", slowest)
	}
	if seen := m.versions(16); seen["two"] != 16 {
		t.Errorf("versions after the reload: %v", seen)
	}
	t.Logf("rolled in %v; %d requests, the slowest took %v; never fewer than %d ready", took, ended.count(string(complete)), slowest, fewest)
	m.stop()
}

// TestReloadTouchesOnlyWhatChanged goes through everything that takes no restart.
func TestReloadTouchesOnlyWhatChanged(t *testing.T) {
	far := start(t, versionedPool(1)).ready()
	m := start(t, versionedPool(2)+fmt.Sprintf("[[pools]]\nname = \"far\"\nhealth.interval = \"50ms\"\n[[pools.servers]]\naddress = %q\nname = \"a\"\n[[routes]]\npath = \"/head\"\npool = \"far\"\n[[routes]]\npool = \"p\"\n", far.address)).allReady()
	pids := func() string {
		return fmt.Sprint(m.worker("p-0").PID, m.worker("p-1").PID)
	}
	before := pids()
	second := freeAddress(t)

	t.Run("an invalid file changes nothing", func(t *testing.T) {
		m.rewrite("workers = 2", "workers = \"two\"")
		text, code := m.command("reload")
		check, _ := m.command("status") // still answers
		if code != 2 || !strings.Contains(text, "stoker.toml:") || !strings.Contains(text, "pools[0].workers") || check == "" {
			t.Errorf("exit code %d: %s", code, text)
		}
		m.signal(syscall.SIGHUP)
		m.eventually("HUP's failure logged", func() bool { return strings.Contains(m.logText(), "not reloaded") })
		m.rewrite("workers = \"two\"", "workers = 2")
	})
	t.Run("a listener that cannot be opened changes nothing", func(t *testing.T) {
		taken, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer taken.Close()
		m.rewrite(fmt.Sprintf("listen = [%q]", m.address), fmt.Sprintf("listen = [%q, %q, \"%s\"]", m.address, second, taken.Addr()), "workers = 2", "workers = 3")
		if text, code := m.command("reload"); code != 1 || !strings.Contains(text, taken.Addr().String()) {
			t.Errorf("exit code %d: %s", code, text)
		}
		if len(m.workers()) != 2 {
			t.Error("workers were added all the same")
		}
		if a := (&caller{address: second}).get("/work"); a.outcome == complete {
			t.Error("the listener that could be opened was left open")
		}
		m.rewrite("workers = 3", "workers = 2", fmt.Sprintf("\"%s\"]", taken.Addr()), "]")
	})
	t.Run("listeners come and go", func(t *testing.T) {
		m.mustCommand("reload")
		if a := (&caller{address: second}).get("/work"); a.outcome != complete {
			t.Errorf("the new listener: %v", a)
		}
		m.rewrite(fmt.Sprintf(", %q,", second), "")
		m.mustCommand("reload")
		if a := (&caller{address: second}).get("/work"); a.outcome == complete {
			t.Error("the removed listener still serves")
		}
	})
	t.Run("a server goes down and comes back", func(t *testing.T) {
		m.rewrite("name = \"a\"", "name = \"a\"\ndown = true\n[[pools.servers]]\naddress = \"127.0.0.1:1\"\nname = \"b\"")
		m.mustCommand("reload")
		if state := m.status().Pools[1].Servers[0].State; state != "down" {
			t.Errorf("the server is %s", state)
		}
		m.rewrite("down = true", "down = false")
		m.mustCommand("reload")
		m.eventually("the server back", func() bool { return m.status().Pools[1].Servers[0].State == "ready" })
	})
	t.Run("routes, limits and logs", func(t *testing.T) {
		log := filepath.Join(m.cmd.Dir, "access.log")
		m.rewrite("path = \"/head\"", "path = \"/nowhere\"", "listen =", fmt.Sprintf("access_log = %q\nlisten =", log), "workers = 2", "workers = 2\nqueue.length = 3\nstop.grace = \"7s\"\nhealth.path = \"/health\"")
		m.mustCommand("reload")
		if seen := m.versions(3); seen["one"] != 3 {
			t.Errorf("%v", seen)
		}
		lines := func(path string) int { text, _ := os.ReadFile(path); return strings.Count(string(text), "\n") }
		m.eventually("the access log in its file", func() bool { return lines(log) == 3 })
		if err := os.Rename(log, log+".1"); err != nil {
			t.Fatal(err)
		}
		m.signal(syscall.SIGUSR1)
		m.eventually("the file opened again", func() bool { _, err := os.Stat(log); return err == nil })
		m.versions(2)
		m.eventually("lines in the new file", func() bool { return lines(log) == 2 && lines(log+".1") == 3 })
	})
	t.Run("a pool is removed, another added", func(t *testing.T) {
		m.rewrite("name = \"far\"", "name = \"near\"", "pool = \"far\"", "pool = \"near\"")
		m.mustCommand("reload")
		if name := m.status().Pools[1].Name; name != "near" || len(m.status().Pools) != 2 {
			t.Errorf("pools: %+v", m.status().Pools)
		}
	})
	if after := pids(); after != before {
		t.Errorf("engines were %s and are %s", before, after)
	}
	m.stop()
	far.stop()
}

// TestReloadOfWhatDoesNotStart stops at the first worker, and a file that works rolls on.
func TestReloadOfWhatDoesNotStart(t *testing.T) {
	m := start(t, versionedPool(3)).allReady()
	before := m.workers()
	m.rewrite(`"one"`, `"two"`, `"--socket"`, `"--exit-after", "1ms", "--socket"`)
	text, code := m.command("reload")
	if code == 0 || !strings.Contains(text, "p-0 did not become ready") {
		t.Errorf("exit code %d: %s", code, text)
	}
	for _, i := range []int{1, 2} {
		if now := m.workers()[i]; now.PID != before[i].PID || now.State != "ready" {
			t.Errorf("%s was to be left alone: %+v", before[i].Name, now)
		}
	}
	// Also when it dies, it goes on as before.
	if err := syscall.Kill(before[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.eventually("p-1 back with its old engine", func() bool {
		w := m.worker("p-1")
		return w.State == "ready" && w.PID != before[1].PID
	})
	m.rewrite(`"--exit-after", "1ms", `, "")
	m.signal(syscall.SIGHUP)
	m.eventually("all on the second version", func() bool {
		for _, w := range m.workers() {
			if w.State != "ready" {
				return false
			}
		}
		return m.versions(6)["two"] == 6
	})
	m.stop()
}
