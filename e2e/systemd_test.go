//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
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

// TestUnderSystemd runs the unit that "stoker systemd" prints under a real
// systemd, which somebody else boots: a command that is called with a directory,
// "--" and a command to run beside that systemd.
func TestUnderSystemd(t *testing.T) {
	if address := os.Getenv(insideSystemd); address != "" {
		testInsideSystemd(t, address)
		return
	}
	sandbox := strings.Fields(os.Getenv("STOKER_E2E_SYSTEMD_SANDBOX"))
	if len(sandbox) == 0 {
		missing(t, "a systemd to boot", "set STOKER_E2E_SYSTEMD_SANDBOX to a command that boots a private one: COMMAND DIR -- PROGRAM...")
	}
	dir, address := shortDir(t), freeAddress(t)
	for name, from := range map[string]string{"stoker": binary, "e2e.test": self} {
		if out, err := exec.Command("cp", from, filepath.Join(dir, name)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	args := append(slices.Clone(sandbox[1:]), dir, "--", sandboxDir+"/e2e.test", "-test.run", "^TestUnderSystemd$", "-test.v")
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
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

func testInsideSystemd(t *testing.T, address string) {
	t.Helper()
	u := &unit{t: t, master: &master{t: t, runDir: "/run/stoker", address: address, ended: make(chan struct{})}}
	u.install(fmt.Sprintf("listen = [%q]\nshutdown.idle_grace = \"100ms\"\n[[pools]]\nname = \"p\"\nworkers = 2\ncommand = %s\n",
		address, list(engine("--load", "300ms", "--socket", "{socket}")...)))
	for _, step := range []struct {
		name string
		test func(*unit)
	}{
		{"a crash costs neither engine nor connection", (*unit).crash},
		{"upgrades cost nothing at all", (*unit).upgrades},
		{"stop leaves nothing", (*unit).stopLeavesNothing},
		{"stop while an older generation drains", (*unit).stopDuringHandOver},
		{"restart", (*unit).restart},
		{"reload", (*unit).reload},
		{"a master that hangs is replaced", (*unit).hang},
		{"killed in its stop", (*unit).killedInItsStop},
		{"a wrong configuration fails the start", (*unit).wrongConfiguration},
		{"socket activation", (*unit).activation},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			in := *u.master
			in.t = t
			step.test(&unit{t: t, master: &in})
			if t.Failed() {
				out, _ := exec.Command("systemctl", "status", "--no-pager", "--full", "--lines", "40", "stoker").CombinedOutput()
				t.Logf("%s", out)
			}
		})
		if !ok {
			return // what follows begins where this should have ended
		}
	}
}

// install writes the configuration and the unit, with a watchdog that barks early.
func (u *unit) install(config string) {
	u.t.Helper()
	file := sandboxDir + "/stoker.toml"
	u.write(file, config)
	text, err := exec.Command(binary, "systemd", "-c", file).Output()
	if err != nil {
		u.t.Fatalf("stoker systemd: %v", err)
	}
	u.write("/run/systemd/system/stoker.service", string(text))
	u.write("/run/systemd/system/stoker.service.d/test.conf", "[Service]\nWatchdogSec=2\nEnvironment=STOKER_E2E_EVENTS="+sandboxDir+"/events\n")
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

func (u *unit) crash() {
	u.systemctl("start", "stoker")
	engines := u.engines()
	u.eventually("the status text", func() bool { return strings.HasPrefix(u.show("StatusText"), "2 of 2 upstreams ready, ") })
	const clients, crashes = 8, 3
	stop := u.crowd(clients)
	for range crashes {
		last := u.kill(syscall.SIGKILL)
		u.replaced(last)
	}
	seen := stop()
	u.t.Logf("seen by %d clients through %d crashes: %v", clients, crashes, seen)
	if seen[refused] > 0 || seen[timedOut] > 0 {
		u.t.Error("clients were refused while no master ran, or left waiting")
	}
	// What a master had accepted when it was killed dies with it.
	if broken := seen[closed] + seen[reset] + seen[partial] + seen[odd]; broken > clients*crashes {
		u.t.Errorf("%d requests broke, more than there were connections at each crash", broken)
	}
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	if n := u.show("NRestarts"); n != strconv.Itoa(crashes) {
		u.t.Errorf("systemd counts %s restarts, want %d", n, crashes)
	}
}

// upgrades: the new process becomes the main one, and after it has died like any
// other master the next one is systemd's own again.
func (u *unit) upgrades() {
	engines, restarts := u.engines(), u.show("NRestarts")
	stop := u.crowd(8)
	const times = 5
	for range times {
		last := u.mainPID()
		if out, err := exec.Command(binary, "upgrade", "--run-dir", u.runDir).CombinedOutput(); err != nil {
			u.t.Fatalf("stoker upgrade: %v: %s", err, out)
		}
		u.replaced(last)
		u.eventually("the generation before has ended", func() bool { return !alive(last) })
	}
	if seen := stop(); len(seen) != 1 || seen[complete] == 0 {
		u.t.Errorf("seen through %d upgrades: %v", times, seen)
	}
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	if now := u.show("NRestarts"); now != restarts {
		u.t.Errorf("systemd counts %s restarts, %s before", now, restarts)
	}
	if n := u.show("NFileDescriptorStore"); n != "1" {
		u.t.Errorf("%s sockets are stored, want 1", n)
	}

	// The watchdog looks after the new process.
	last := u.kill(syscall.SIGSTOP)
	u.replaced(last)
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("after the end of the last generation: engines were %v, are %v", engines, now)
	}
	u.served()
}

// stopDuringHandOver: a stop ends the generation that still drains as well.
func (u *unit) stopDuringHandOver() {
	u.systemctl("start", "stoker")
	u.allReady()
	held := make(chan answer, 1)
	go func() {
		c := caller{address: u.address}
		held <- c.get("/work?ms=1500")
	}()
	u.eventually("the request in flight", func() bool {
		n := 0
		for _, w := range u.workers() {
			n += w.InFlight
		}
		return n == 1
	})
	last := u.mainPID()
	if out, err := exec.Command(binary, "upgrade", "--run-dir", u.runDir).CombinedOutput(); err != nil {
		u.t.Fatalf("stoker upgrade: %v: %s", err, out)
	}
	u.systemctl("stop", "stoker")
	if a := <-held; a.outcome != complete || a.status != 200 {
		u.t.Errorf("the request of the older generation: %v", a)
	}
	if alive(last) {
		u.t.Error("the older generation outlives the service")
	}
	u.inactive()
}

func (u *unit) stopLeavesNothing() {
	u.systemctl("stop", "stoker")
	u.inactive()
	if result := u.show("Result"); result != "success" {
		u.t.Errorf("result %s", result)
	}
	if a := (&caller{address: u.address}).get("/work"); a.outcome != refused {
		u.t.Errorf("after the end: %v", a)
	}
}

func (u *unit) restart() {
	u.systemctl("start", "stoker")
	engines, last := u.engines(), u.mainPID()
	u.systemctl("restart", "stoker")
	u.replaced(last)
	for _, pid := range u.engines() {
		if slices.Contains(engines, pid) {
			u.t.Errorf("engine %d outlived a restart of the service", pid)
		}
	}
	u.served()
}

// reload goes by a changed file, and fails by a wrong one, which changes nothing.
func (u *unit) reload() {
	file := sandboxDir + "/stoker.toml"
	before, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	defer func() {
		u.write(file, string(before))
		u.systemctl("reload", "stoker")
	}()
	engines := u.engines()
	door := sandboxDir + "/further.sock"
	u.write(file, strings.Replace(string(before), "]\n", fmt.Sprintf(", %q]\n", "unix:"+door), 1))
	u.systemctl("reload", "stoker")
	if c, err := net.Dial("unix", door); err != nil {
		u.t.Errorf("the listener that the reload added: %v", err)
	} else {
		_ = c.Close()
	}
	u.eventually("the added listener is stored", func() bool { return u.show("NFileDescriptorStore") == "2" })

	u.write(file, "nonsense = true\n")
	if out, err := exec.Command("systemctl", "reload", "stoker").CombinedOutput(); err == nil {
		u.t.Errorf("a wrong file was reloaded: %s", out)
	}
	if state := u.show("ActiveState"); state != "active" {
		u.t.Errorf("after a refused reload the service is %s", state)
	}
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	u.served()

	u.write(file, string(before))
	u.systemctl("reload", "stoker")
	u.eventually("the removed listener is not stored", func() bool { return u.show("NFileDescriptorStore") == "1" })
}

// hang: a stopped process answers nobody, and the watchdog sees that.
func (u *unit) hang() {
	engines := u.engines()
	last := u.kill(syscall.SIGSTOP)
	u.replaced(last)
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	u.served()
}

// killedInItsStop: the engines of a master that was told to stop, and is killed
// before it is done, must not wait for a master that does not come.
func (u *unit) killedInItsStop() {
	u.allReady()
	held := make(chan answer, 1)
	go func() {
		c := caller{address: u.address}
		held <- c.get("/hold?id=stop")
	}()
	u.eventually("the request in flight", func() bool {
		n := 0
		for _, w := range u.workers() {
			n += w.InFlight
		}
		return n == 1
	})
	u.systemctl("stop", "--no-block", "stoker")
	u.eventually("draining", func() bool { return strings.HasPrefix(u.show("StatusText"), "draining") })
	u.kill(syscall.SIGKILL)
	<-held
	u.inactive()
	u.systemctl("reset-failed", "stoker")
}

func (u *unit) wrongConfiguration() {
	file := sandboxDir + "/stoker.toml"
	good, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	u.write(file, "nonsense = 1\n"+string(good))
	if out, err := exec.Command("systemctl", "start", "stoker").CombinedOutput(); err == nil {
		u.t.Errorf("systemctl start succeeds: %s", out)
	}
	// systemd goes on trying, so that mending the file is enough.
	u.write(file, string(good))
	u.eventually("it starts by itself", func() bool { return u.show("ActiveState") == "active" })
	u.allReady()
	u.systemctl("stop", "stoker")
	u.inactive()
}

func (u *unit) activation() {
	example := "[Socket]\nListenStream=" + u.address + "\nBacklog=4096\nNoDelay=yes\n"
	u.write("/run/systemd/system/stoker.socket", example)
	u.systemctl("daemon-reload")
	u.systemctl("start", "stoker.socket")
	if state := u.show("ActiveState"); state != "inactive" {
		u.t.Errorf("the service is %s before anybody has called", state)
	}
	u.served() // which starts it, and waits for the engines
	u.replaced(0)
	if n := u.show("NFileDescriptorStore"); n != "0" {
		u.t.Errorf("%s sockets are stored; the socket unit holds its own", n)
	}

	engines := u.engines()
	stop := u.crowd(4)
	last := u.kill(syscall.SIGKILL)
	u.replaced(last)
	if seen := stop(); seen[refused] > 0 {
		u.t.Errorf("seen through a crash: %v", seen)
	}
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}

	// The socket outlives a stop of the service, and the next client starts it again.
	u.systemctl("stop", "stoker.service")
	u.nothingRuns()
	u.served()
	u.systemctl("stop", "stoker.socket", "stoker.service")
	u.inactive()
	if conn, err := net.DialTimeout("tcp", u.address, time.Second); err == nil {
		conn.Close()
		u.t.Error("the socket unit has ended, and somebody listens")
	}
}
