//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUnderSystemd runs the unit that "stoker systemd" prints, beside other tests. One
// after another: all that are booted have the same control groups.
func TestUnderSystemd(t *testing.T) {
	sleeps(t)
	t.Run("Life", systemdLife)
	t.Run("Story", systemdStory)
	t.Run("Reload", systemdReload)
	t.Run("Stop", systemdStop)
	t.Run("Killed", systemdKilled)
}

// systemdLife goes from the unit's first start to socket activation.
func systemdLife(t *testing.T) {
	underSystemd(t, false, func(u *unit) {
		u.install(fakeUnit("300ms"))
		u.run(
			step{"a crash costs neither engine nor connection", (*unit).crash},
			step{"upgrades cost nothing at all", (*unit).upgrades},
			step{"stop leaves nothing", (*unit).stopLeavesNothing},
			step{"stop while an older generation drains", (*unit).stopDuringHandOver},
			step{"restart", (*unit).restart},
			step{"reload", (*unit).reload},
			step{"a master that hangs is replaced", (*unit).hang},
			step{"killed in its stop", (*unit).killedInItsStop},
			step{"a wrong configuration fails the start", (*unit).wrongConfiguration},
			step{"socket activation", (*unit).activation},
		)
	})
}

// fakeUnit is two workers that load for so long.
func fakeUnit(load string) string {
	return fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = 2\ncommand = %s\n", list(engine("--load", load, "--socket", "{socket}")...))
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
