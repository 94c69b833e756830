//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestUpgradeUnderLoad upgrades twenty times, between two versions, while
// clients with and without connections kept alive make short requests and read
// streams: no request may fail, no stream be cut, no connection be refused or
// reset, no counter go back, no engine be touched.
func TestUpgradeUnderLoad(t *testing.T) {
	works(t)
	u := startUpgradable(t, "shutdown.idle_grace = \"1s\"\n")
	stream := streamTime(t)
	seen := newTally()
	var over atomic.Bool
	var longest atomic.Int64
	var answered atomic.Int64
	callers := make([]caller, 16)
	for i := range callers {
		callers[i] = caller{address: u.address, keepAlive: i%2 == 0}
	}
	load := crowd(len(callers), func(client, _ int) bool {
		path := "/work?ms=2"
		if client%4 == 3 {
			path = fmt.Sprintf("/drip?ms=%d", stream.Milliseconds())
		}
		began := time.Now()
		a := callers[client].get(path)
		what := string(a.outcome)
		switch {
		case a.outcome == complete && a.status != 200:
			what = fmt.Sprintf("status %d", a.status)
		case client%4 == 3 && !strings.HasSuffix(string(a.body), dripEnd):
			what = "a cut stream"
		case client%4 != 3:
			for took := time.Since(began).Nanoseconds(); ; {
				if before := longest.Load(); took <= before || longest.CompareAndSwap(before, took) {
					break
				}
			}
		}
		answered.Add(1)
		seen.add(what, a.String())
		return !over.Load()
	})
	scraped := u.scrape(&over)
	var slowest float64
	for i := range 20 {
		u.installVersion((i + 1) % 2)
		slowest = max(slowest, u.mustUpgrade())
		if got := u.status(); got.Generation != i+2 {
			t.Errorf("generation %d after %d upgrades", got.Generation, i+1)
		}
	}
	over.Store(true)
	load.Wait()
	scraped.Wait()
	if wrong := seen.except(string(complete)); wrong != "" {
		t.Errorf("of %d answers: %s", answered.Load(), wrong)
	}
	u.untouched()
	u.eventually("all counted", func() bool { return int64(u.metric("stoker_requests_total")) == answered.Load() })
	t.Logf("20 upgrades, %d answers; slowest from the order to serving %.3f s (queued behind %v streams), slowest short request %v",
		answered.Load(), slowest, stream, time.Duration(longest.Load()))
}

// scrape reads the metrics all the time and fails when a counter goes back.
func (u *upgradable) scrape(over *atomic.Bool) *sync.WaitGroup {
	var wait sync.WaitGroup
	wait.Go(func() {
		last := map[string]float64{}
		for !over.Load() {
			code, text, err := u.admin("/metrics")
			if err != nil && raced {
				continue // a master that leaves gives an answer one second, which may be too short then
			}
			if err != nil || code != 200 {
				u.t.Errorf("GET /metrics: %d %v", code, err)
				return
			}
			for line := range strings.Lines(text) {
				cut := strings.LastIndexByte(strings.TrimSpace(line), ' ')
				if cut < 0 || strings.HasPrefix(line, "#") {
					continue
				}
				name := line[:cut]
				bare, _, _ := strings.Cut(name, "{")
				if !slices.ContainsFunc([]string{"_total", "_bucket", "_count", "_sum"}, func(end string) bool { return strings.HasSuffix(bare, end) }) {
					continue
				}
				value, err := strconv.ParseFloat(strings.TrimSpace(line[cut:]), 64)
				if err != nil {
					u.t.Errorf("metrics line %q: %v", line, err)
				}
				if value < last[name] {
					u.t.Errorf("%s went back from %v to %v", name, last[name], value)
				}
				last[name] = value
			}
			time.Sleep(10 * time.Millisecond)
		}
		if len(last) == 0 {
			u.t.Error("no counter was seen")
		}
	})
	return &wait
}

// TestUpgradeFails: whatever is wrong with the new binary or configuration, the
// old master goes on, the command says why, and a good upgrade works afterwards.
func TestUpgradeFails(t *testing.T) {
	waits(t)
	script := func(text string) func(*upgradable) {
		return func(u *upgradable) {
			if err := os.Remove(u.path); err != nil {
				u.t.Fatal(err)
			}
			if err := writeProgram(u.path, []byte(text)); err != nil {
				u.t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		config string
		spoil  func(*upgradable)
		mend   func(*upgradable)
		says   string
	}{
		{name: "not executable", spoil: func(u *upgradable) { _ = os.Chmod(u.path, 0o644) }, says: "permission denied"},
		{name: "absent", spoil: func(u *upgradable) { _ = os.Remove(u.path) }, says: "no such file"},
		{name: "no program", spoil: script("no program"), says: "exec format error"},
		{name: "another program", spoil: script("#!/bin/sh\nexit 0\n"), says: "no stoker"},
		{name: "refuses", spoil: script("#!/bin/sh\necho libfoo.so not found >&2; exit 127\n"), says: "libfoo.so not found"},
		{name: "bad configuration", spoil: func(u *upgradable) { u.appendConfig("nonsense = 1\n") }, says: "nonsense"},
		{name: "moved run directory", spoil: func(u *upgradable) { u.editConfig("run_dir = \""+u.runDir, "run_dir = \""+u.runDir+"2") }, says: "an upgrade cannot move it"},
		{name: "other engines", spoil: func(u *upgradable) { u.editConfig("--socket\",", "--load\", \"1ms\", \"--socket\",") }, says: "another configuration"},
		{name: "dies at its start", spoil: func(u *upgradable) { u.fail("exec=kill") }, says: "ended before it was ready"},
		{name: "dies with what it inherited", spoil: func(u *upgradable) { u.fail("inherited=kill") }, says: "ended before it was ready"},
		{name: "dies before it is ready", spoil: func(u *upgradable) { u.fail("before-ready=kill") }, says: "ended before it was ready"},
		{name: "exits before it is ready", spoil: func(u *upgradable) { u.fail("before-ready=exit") }, says: "ended before it was ready"},
		{name: "nothing can be written", spoil: func(u *upgradable) { _ = os.MkdirAll(filepath.Join(u.runDir, "epoch.tmp", "x"), 0o700) }, mend: func(u *upgradable) { _ = os.RemoveAll(filepath.Join(u.runDir, "epoch.tmp")) }, says: "write epoch"},
		{name: "hangs", spoil: func(u *upgradable) { u.fail("before-ready=hang") }, config: "upgrade_timeout = \"1s\"\n", says: "upgrade_timeout 1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startUpgradable(t, c.config)
			before, err := os.ReadFile(u.config)
			if err != nil {
				t.Fatal(err)
			}
			pid, epoch := u.status().PID, u.epoch()
			command := u.path + ".command" // the command must run where the binary does not
			if text, err := os.ReadFile(u.path); err != nil || writeProgram(command, text) != nil {
				t.Fatal("copy the command", err)
			}
			c.spoil(u)
			out, err := exec.Command(command, "upgrade", "--run-dir", u.runDir).CombinedOutput()
			if err == nil || !strings.Contains(string(out), c.says) {
				t.Errorf("upgrade: %v: %s; want a failure that says %q", err, out, c.says)
			}
			u.serves()
			if s := u.status(); s.PID != pid || s.Generation != 1 || u.epoch() != epoch {
				t.Errorf("pid %d, generation %d, epoch %d; want %d, 1, %d", s.PID, s.Generation, u.epoch(), pid, epoch)
			}
			u.untouched()
			u.eventually("the log says why", func() bool { return strings.Contains(u.logText(), "upgrade failed") })

			u.fail()
			if c.mend != nil {
				c.mend(u)
			}
			if err := os.WriteFile(u.config, before, 0o644); err != nil {
				t.Fatal(err)
			}
			u.installVersion(1)
			u.mustUpgrade()
			u.serves()
			u.untouched()
		})
	}
}

func (u *upgradable) appendConfig(text string) { u.editConfig("listen = ", text+"listen = ") }

func (u *upgradable) editConfig(from, to string) {
	u.t.Helper()
	text, err := os.ReadFile(u.config)
	if err != nil || !strings.Contains(string(text), from) {
		u.t.Fatalf("no %q in the configuration: %v", from, err)
	}
	if err := os.WriteFile(u.config, []byte(strings.Replace(string(text), from, to, 1)), 0o644); err != nil {
		u.t.Fatal(err)
	}
}

// TestUpgradeKilled kills one generation, or both, at each point of no return
// and around it. The service goes on, or comes back with a master that is
// started by hand; engines are the same; epochs rise.
func TestUpgradeKilled(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name   string
		points []string
		// comesBack: nobody is left to serve, and another master is started.
		comesBack bool
	}{
		{name: "old before Ready", points: []string{"old-before-ready=kill", "before-ready=pause=300ms"}},
		{name: "old after Ready", points: []string{"old-after-ready=kill"}},
		{name: "old after Ready, new slow", points: []string{"old-after-ready=kill", "after-ready=pause=300ms"}},
		{name: "old in its drain", points: []string{"old-draining=kill"}},
		{name: "new after Ready", points: []string{"after-ready=pause=300ms", "after-ready=kill"}, comesBack: true},
		{name: "new after Ready, old in its drain", points: []string{"after-ready=pause=300ms", "after-ready=kill", "old-draining=kill"}, comesBack: true},
		{name: "both after Ready", points: []string{"after-ready=pause=300ms", "after-ready=kill", "old-after-ready=kill"}, comesBack: true},
		{name: "both before Ready", points: []string{"old-before-ready=kill", "before-ready=kill"}, comesBack: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startUpgradable(t, "")
			epoch, old := u.epoch(), u.status().PID
			u.installVersion(1)
			u.fail(c.points...)
			u.signal(syscall.SIGUSR2)
			u.eventually("the old master has ended", func() bool { return !u.running() })
			u.fail()
			if c.comesBack {
				next := *u
				u.eventually("another master can start", func() bool {
					next.master = u.again()
					deadline := time.Now().Add(patience)
					for time.Now().Before(deadline) && next.running() {
						if code, _, err := next.admin("/readyz"); err == nil && code == 200 {
							return true
						}
						time.Sleep(5 * time.Millisecond)
					}
					return false
				})
				u = &next
			}
			u.allWorkersReady()
			u.serves()
			u.untouched()
			if now := u.epoch(); now <= epoch {
				t.Errorf("epoch %d after %d", now, epoch)
			}
			if pid := u.status().PID; pid == old {
				t.Errorf("the master is still %d", pid)
			}
			// And on it goes.
			u.installVersion(0)
			u.mustUpgrade()
			u.untouched()
			u.endAll()
		})
	}
}

// TestUpgradeKilledAtReady kills the new generation in the moment of its Ready.
// The old one may have heard of it or not: it ends, and leaves the engines, or
// goes on as before.
func TestUpgradeKilledAtReady(t *testing.T) {
	u := startUpgradable(t, "")
	u.installVersion(1)
	u.fail("after-ready=kill")
	u.signal(syscall.SIGUSR2)
	u.eventually("the old master has decided", func() bool {
		return !u.running() || strings.Contains(u.logText(), "goes on as before")
	})
	u.fail()
	if !u.running() {
		u.master = u.again()
	}
	u.allWorkersReady()
	u.serves()
	u.untouched()
	u.mustUpgrade()
	u.untouched()
	u.endAll()
}

// allWorkersReady is allReady for a master that is not our child.
func (u *upgradable) allWorkersReady() {
	u.t.Helper()
	u.eventually("every worker ready", func() bool {
		code, body, err := u.admin("/status")
		var s statusDocument
		if err != nil || code != 200 || json.Unmarshal([]byte(body), &s) != nil {
			return false
		}
		for _, pool := range s.Pools {
			for _, w := range pool.Workers {
				if w.State != "ready" {
					return false
				}
			}
		}
		return true
	})
}

// TestUpgradeQueued: while a generation finishes a stream, its requests count
// in the new one, which shows it; an upgrade asked for meanwhile waits for its
// end; any number of further signals do no harm.
func TestUpgradeQueued(t *testing.T) {
	waits(t)
	u := startUpgradable(t, "")
	first := u.status().PID
	streamed := make(chan answer, 1)
	go func() {
		c := caller{address: u.address}
		streamed <- c.get("/drip?ms=3000")
	}()
	inFlight := func() (n int) {
		for _, w := range u.workers() {
			n += w.InFlight
		}
		return n
	}
	u.eventually("the stream runs", func() bool { return inFlight() == 1 })
	u.mustUpgrade()
	type older struct {
		Generation int `json:"generation"`
		PID        int `json:"pid"`
		InFlight   int `json:"in_flight"`
	}
	var s struct{ Older []older }
	u.eventually("the older generation shows", func() bool {
		_, body, _ := u.admin("/status")
		return json.Unmarshal([]byte(body), &s) == nil && len(s.Older) == 1 && s.Older[0] == older{1, first, 1}
	})
	if n := inFlight(); n != 1 {
		t.Errorf("%d in flight at the workers, want the older generation's 1", n)
	}
	second := u.status().PID
	for range 20 {
		_ = syscall.Kill(second, syscall.SIGUSR2)
		_ = syscall.Kill(first, syscall.SIGUSR2)
	}
	u.mustUpgrade() // joins
	if a := <-streamed; a.outcome != complete || !strings.HasSuffix(string(a.body), dripEnd) {
		t.Errorf("the stream: %v", a)
	}
	if got := u.status(); got.Generation != 3 || inFlight() != 0 {
		t.Errorf("generation %d, %d in flight; want 3, 0", got.Generation, inFlight())
	}
	u.untouched()
}

// TestScaledOutlastsTheMaster: what an operator has scaled stays so through an
// upgrade and a crash, with the engines that run; a reload and a new start go
// back to what the file says.
func TestScaledOutlastsTheMaster(t *testing.T) {
	u := startUpgradable(t, "")
	has := func(when string, n int) {
		t.Helper()
		u.eventually(fmt.Sprintf("%s: %d workers ready", when, n), func() bool {
			code, _, err := u.admin("/readyz")
			if err != nil || code != 200 {
				return false
			}
			workers := u.workers()
			return len(workers) == n && !slices.ContainsFunc(workers, func(w workerStatus) bool { return w.State != "ready" })
		})
	}
	u.mustCommand("scale", "p", "3")
	has("scaled", 3)
	third := u.worker("p-2")
	u.pids[third.Name], u.starts[third.PID] = third.PID, startTime(t, third.PID)
	u.mustUpgrade()
	has("upgraded", 3)
	u.untouched()
	if err := syscall.Kill(u.status().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	u.exit(patience) // the first generation, which had handed over
	u.eventually("the run directory is free", func() bool { return u.unlocked(filepath.Join(u.runDir, "lock")) })
	u.master = u.again()
	has("after a crash", 3)
	u.untouched()
	u.mustCommand("scale", "p", "1")
	has("scaled down", 1)
	u.mustUpgrade()
	has("upgraded again", 1)
	if now := u.worker("p-0"); now.PID != u.pids["p-0"] {
		t.Errorf("engine %d, before %d", now.PID, u.pids["p-0"])
	}
	u.mustCommand("reload")
	has("reloaded", 2)
	u.mustUpgrade()
	has("upgraded after the reload", 2)
	u.mustCommand("scale", "p", "1")
	u.mustCommand("shutdown")
	u.nothingLeft()
	u.master = u.again()
	has("started anew", 2)
	u.endAll()
}
