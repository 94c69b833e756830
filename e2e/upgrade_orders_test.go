//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// ordered is a command that was given to a master and may take its time.
type ordered struct {
	out  string
	err  error
	done chan struct{}
}

// order runs "stoker WORDS..." for the master, beside the test.
func (u *upgradable) order(words ...string) *ordered {
	o := &ordered{done: make(chan struct{})}
	go func() {
		defer close(o.done)
		out, err := exec.Command(u.path, append(words, "--run-dir", u.runDir)...).CombinedOutput()
		o.out, o.err = string(out), err
	}()
	return o
}

// went waits for it, and fails if it did not go well.
func (o *ordered) went(t *testing.T, says string) {
	t.Helper()
	<-o.done
	if o.err != nil || !strings.Contains(o.out, says) {
		t.Errorf("%v: %s; want success that says %q", o.err, o.out, says)
	}
}

// reached waits until a process has come to a point that fails.
func (u *upgradable) reached(point string) {
	u.t.Helper()
	u.eventually("the point "+point, func() bool {
		text, _ := os.ReadFile(u.points + ".hits")
		return slices.Contains(strings.Fields(string(text)), point)
	})
}

// slower has the engines load for longer, which a reload has to replace them for.
func (u *upgradable) slower() { u.editConfig("--socket\",", "--load\", \"700ms\", \"--socket\",") }

// replacedOnce fails unless both engines are others than at the beginning, ready,
// and those of generation's master.
func (u *upgradable) replacedOnce(generation int) {
	u.t.Helper()
	u.allWorkersReady()
	for _, w := range u.workers() {
		if w.PID == u.pids[w.Name] {
			u.t.Errorf("worker %s still has pid %d", w.Name, w.PID)
		}
	}
	if got := u.status().Generation; got != generation {
		u.t.Errorf("generation %d, want %d", got, generation)
	}
}

// TestUpgradeWaitsForOrders: an upgrade in the middle of a rolling reload or a
// drain lets it come about first, and neither fails.
func TestUpgradeWaitsForOrders(t *testing.T) {
	waits(t)
	t.Run("reload", func(t *testing.T) {
		u := startUpgradable(t, "")
		u.slower()
		reload := u.order("reload")
		u.eventually("a worker is being replaced", func() bool {
			return slices.ContainsFunc(u.workers(), func(w workerStatus) bool { return w.State != "ready" })
		})
		u.mustUpgrade()
		reload.went(t, "reloaded: 0 workers kept, 2 restarted")
		u.replacedOnce(2)
		u.eventually("the log says that the upgrade waits", func() bool { return strings.Contains(u.logText(), "upgrade queued until") })
	})
	t.Run("drain", func(t *testing.T) {
		u := startUpgradable(t, "")
		held := make(chan answer, 1)
		go func() {
			c := caller{address: u.address}
			held <- c.get("/work?ms=1500")
		}()
		var busy string
		u.eventually("a request in flight", func() bool {
			for _, w := range u.workers() {
				if w.InFlight > 0 {
					busy = w.Name
				}
			}
			return busy != ""
		})
		drain := u.order("drain", busy)
		u.eventually("it drains", func() bool { return u.worker(busy).State == "draining" })
		u.mustUpgrade()
		drain.went(t, busy)
		if a := <-held; a.outcome != complete || a.status != 200 {
			t.Errorf("the request: %v", a)
		}
		if w := u.worker(busy); w.State != "stopped" {
			t.Errorf("after the upgrade the drained worker is %s", w.State)
		}
		u.order("resume", busy).went(t, "")
		u.allWorkersReady()
	})
}

// TestOrdersWaitForUpgrade: an order that comes in the middle of an upgrade is
// carried out by whoever is the master afterwards.
func TestOrdersWaitForUpgrade(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name       string
		points     []string
		generation int
	}{
		{"that succeeds", []string{"before-ready=pause=700ms"}, 2},
		{"that is slow after Ready", []string{"after-ready=pause=700ms"}, 2},
		{"that fails", []string{"before-ready=pause=700ms", "before-ready=exit"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startUpgradable(t, "")
			u.fail(c.points...)
			upgrade := u.order("upgrade")
			point, _, _ := strings.Cut(c.points[0], "=")
			u.reached(point)
			u.slower()
			reload := u.order("reload")
			drain := u.order("drain", "p-1")
			<-upgrade.done
			if (upgrade.err == nil) != (c.generation == 2) {
				t.Errorf("upgrade: %v: %s", upgrade.err, upgrade.out)
			}
			u.fail()
			reload.went(t, "reloaded")
			drain.went(t, "p-1")
			u.order("resume", "p-1").went(t, "")
			u.replacedOnce(c.generation)
		})
	}
}

// TestEndInTheMiddleOfAnUpgrade: who asks the old master to end, when the next
// one has the engines already, ends both, and gracefully.
func TestEndInTheMiddleOfAnUpgrade(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name string
		end  func(u *upgradable)
	}{
		{"TERM", func(u *upgradable) { u.signal(syscall.SIGTERM) }},
		{"shutdown", func(u *upgradable) { u.order("shutdown").went(u.t, "has ended") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := startUpgradable(t, "")
			held := make(chan answer, 1)
			go func() {
				c := caller{address: u.address}
				held <- c.get("/work?ms=2000")
			}()
			u.eventually("the request in flight", func() bool { return u.workers()[0].InFlight+u.workers()[1].InFlight == 1 })
			u.fail("after-ready=pause=700ms")
			u.signal(syscall.SIGUSR2)
			u.reached("after-ready")
			*u.over = true
			c.end(u)
			if a := <-held; a.outcome != complete || a.status != 200 {
				t.Errorf("the request that was in flight: %v", a)
			}
			if code := u.exit(patience); code != 0 {
				t.Errorf("the old master's exit code is %d", code)
			}
			u.eventually("both have ended", func() bool { return len(u.descendants()) == 0 })
			u.nothingLeft()
		})
	}
}

// TestUpgradeWithoutFile: a master that a command line alone has started can be
// upgraded as well; so can the demo, whose run directory goes with the last generation.
func TestUpgradeWithoutFile(t *testing.T) {
	waits(t)
	built, err := versions()
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"run":  append([]string{"run", "--listen", "{listen}", "--run-dir", "{run_dir}", "--workers", "2", "--"}, engine("--socket", "{socket}")...),
		"demo": {"demo", "--listen", "{listen}"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			u := &upgradable{path: filepath.Join(dir, "stoker"), pids: map[string]int{}, starts: map[int]string{}, over: new(bool)}
			u.install(t, built[0])
			// A demo makes its run directory below this.
			u.master = startAs(t, "", setup{args: args, binary: u.path, env: []string{"TMPDIR=" + dir}})
			if name == "demo" {
				u.eventually("its run directory", func() bool {
					made, _ := filepath.Glob(dir + "/stoker-demo-*/admin.sock")
					if len(made) == 1 {
						u.runDir = filepath.Dir(made[0])
					}
					return len(made) == 1
				})
			}
			u.allReady()
			for _, w := range u.workers() {
				u.pids[w.Name], u.starts[w.PID] = w.PID, startTime(t, w.PID)
			}
			for i := range 2 {
				u.installVersion((i + 1) % 2)
				u.mustUpgrade()
				u.untouched()
				if got := u.status().Generation; got != i+2 {
					t.Errorf("generation %d, want %d", got, i+2)
				}
			}
			if code := u.exit(patience); code != 0 {
				t.Errorf("the first master's exit code is %d", code)
			}
			// HUP is the terminal's end, for every generation.
			if err := syscall.Kill(u.status().PID, syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			u.eventually("everything has ended", func() bool { return len(u.descendants()) == 0 })
			if _, err := os.Stat(u.runDir); name == "demo" && err == nil {
				t.Error("the demo's run directory is left")
			}
			if text := u.logText(); strings.Count(text, "Three engines") > 1 {
				t.Error("the demo explains itself once more after an upgrade")
			}
		})
	}
}
