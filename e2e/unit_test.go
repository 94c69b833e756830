//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Inside the sandbox this test binary runs once more, with this variable set to
// the address of the door. The directory that was given is seen at sandboxDir.
const (
	insideSystemd = "STOKER_E2E_INSIDE_SYSTEMD"
	sandboxDir    = "/run/sandbox"
)

// underSystemd runs the test under a real systemd, which somebody else boots: a
// command that is called with a directory, "--" and a command to run beside that
// systemd. There inside is called, with what the service is.
//
// failpoints: the service runs version one of the two that have them (versions),
// and else the binary under test.
func underSystemd(t *testing.T, failpoints bool, inside func(u *unit)) {
	t.Helper()
	if address := os.Getenv(insideSystemd); address != "" {
		inside(&unit{t: t, master: &master{t: t, runDir: "/run/stoker", address: address, ended: make(chan struct{})}})
		return
	}
	sandbox := strings.Fields(os.Getenv("STOKER_E2E_SYSTEMD_SANDBOX"))
	if len(sandbox) == 0 {
		missing(t, "a systemd to boot", "set STOKER_E2E_SYSTEMD_SANDBOX to a command that boots a private one: COMMAND DIR -- PROGRAM...")
	}
	dir, address := shortDir(t), freeAddress(t)
	parts := map[string]string{"stoker": binary, "e2e.test": self}
	if failpoints {
		built, err := versions()
		if err != nil {
			t.Fatal(err)
		}
		parts["one"], parts["two"], parts["stoker"] = built[0], built[1], built[0]
	}
	for name, from := range parts {
		if out, err := exec.Command("cp", from, filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	args := append(slices.Clone(sandbox[1:]), dir, "--", sandboxDir+"/e2e.test", "-test.run", "^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, sandbox[0], args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has a systemd to end
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), insideSystemd+"="+address, "STOKER_E2E_BINARY="+sandboxDir+"/stoker")
	out, err := cmd.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Errorf("inside the sandbox: %v", err)
	}
}

// unit is the service under test.
type unit struct {
	*master
	t *testing.T
}

// step is a part of a test that begins where the one before has ended.
type step struct {
	name string
	test func(*unit)
}

// run runs them until one fails.
func (u *unit) run(steps ...step) {
	for _, s := range steps {
		ok := u.t.Run(s.name, func(t *testing.T) {
			in := *u.master
			in.t = t
			defer func() {
				if t.Failed() {
					u.explain(t)
				}
			}()
			s.test(&unit{t: t, master: &in})
		})
		if !ok {
			return
		}
	}
}

// explain shows what systemd knows of the service, and what it logged.
func (u *unit) explain(t *testing.T) {
	t.Helper()
	for _, command := range [][]string{
		{"systemctl", "status", "--no-pager", "--full", "--lines", "0", "stoker"},
		{"journalctl", "--no-pager", "--output", "short-precise", "--lines", "120", "--unit", "stoker"},
	} {
		out, _ := exec.Command(command[0], command[1:]...).CombinedOutput()
		t.Logf("%s", out)
	}
}

// install writes the configuration, whose top level begins with the door, and the
// unit that "stoker systemd" prints, with a watchdog that barks early and further settings.
func (u *unit) install(config string, settings ...string) {
	u.t.Helper()
	file := sandboxDir + "/stoker.toml"
	u.write(file, fmt.Sprintf("listen = [%q]\nshutdown.idle_grace = \"100ms\"\n", u.address)+config)
	text, err := exec.Command(binary, "systemd", "-c", file).Output()
	if err != nil {
		u.t.Fatalf("stoker systemd: %v", err)
	}
	u.write("/run/systemd/system/stoker.service", string(text))
	u.write("/run/systemd/system/stoker.service.d/test.conf",
		"[Service]\nWatchdogSec=2\nEnvironment=STOKER_E2E_EVENTS="+sandboxDir+"/events STOKER_FAILPOINTS="+sandboxDir+"/points\n"+strings.Join(settings, "\n")+"\n")
	u.systemctl("daemon-reload")
}

func (u *unit) write(path, text string) {
	u.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		u.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		u.t.Fatal(err)
	}
}

func (u *unit) systemctl(args ...string) string {
	u.t.Helper()
	out, err := exec.Command("systemctl", args...).CombinedOutput()
	if err != nil {
		u.t.Fatalf("systemctl %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (u *unit) show(property string) string {
	u.t.Helper()
	return u.systemctl("show", "--property", property, "--value", "stoker")
}

func (u *unit) mainPID() int {
	u.t.Helper()
	pid, err := strconv.Atoi(u.show("MainPID"))
	if err != nil {
		u.t.Fatal(err)
	}
	return pid
}

// kill signals the main process. Without one it fails: 0 would be this test's
// own process group, and everybody who runs it.
func (u *unit) kill(sig syscall.Signal) (pid int) {
	u.t.Helper()
	if pid = u.mainPID(); pid <= 1 {
		u.t.Fatalf("the service has no main process (%s)", u.show("ActiveState"))
	}
	if err := syscall.Kill(pid, sig); err != nil {
		u.t.Fatal(err)
	}
	return pid
}

// engines are the pids of all ready engines, in the workers' order.
func (u *unit) engines() []int {
	u.t.Helper()
	u.allReady()
	var pids []int
	for _, w := range u.workers() {
		pids = append(pids, w.PID)
	}
	return pids
}

// replaced waits until another master than the last is the main process, and
// says that it is ready.
func (u *unit) replaced(last int) {
	u.t.Helper()
	u.eventually("another main process", func() bool {
		now := u.mainPID()
		return now != 0 && now != last && u.show("ActiveState") == "active"
	})
	u.allReady()
	u.eventually("MainPID is the master's", func() bool { return u.status().PID == u.mainPID() })
}

// served fails unless a request is answered.
func (u *unit) served() {
	u.t.Helper()
	if a := (&caller{address: u.address}).get("/work"); a.outcome != complete || a.status != 200 {
		u.t.Errorf("a request: %v", a)
	}
}

// inactive waits until the service has ended, and checks that nothing is left.
func (u *unit) inactive() {
	u.t.Helper()
	u.eventually("the service has ended", func() bool {
		state := u.show("ActiveState")
		return state == "inactive" || state == "failed"
	})
	procs, err := os.ReadFile("/sys/fs/cgroup/system.slice/stoker.service/cgroup.procs")
	if err == nil && len(procs) > 0 {
		u.t.Errorf("left in the control group: %q", procs)
	}
	if n := u.show("NFileDescriptorStore"); n != "0" {
		u.t.Errorf("%s sockets are still stored", n)
	}
	u.nothingRuns()
}

// nothingRuns looks for engines and keepers in the whole sandbox.
func (u *unit) nothingRuns() {
	u.t.Helper()
	if left := descendantsOf("STOKER_NONCE=", u.runDir+"/keepers/", 0); len(left) > 0 {
		u.t.Errorf("left: %v", left)
	}
}

// crowd calls until stop is called, which returns what was seen.
func (u *unit) crowd(clients int) (stop func() map[outcome]int) {
	end := make(chan struct{})
	var mu sync.Mutex
	seen := make(map[outcome]int)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for {
				select {
				case <-end:
					return
				default:
				}
				a := (&caller{address: u.address}).get("/work")
				mu.Lock()
				seen[a.outcome]++
				mu.Unlock()
			}
		})
	}
	return func() map[outcome]int {
		close(end)
		all.Wait()
		return seen
	}
}
