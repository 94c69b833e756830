//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// systemdStop stops the service where a stop is hardest: nothing may be
// left of it, whatever was going on.
func systemdStop(t *testing.T) {
	underSystemd(t, true, func(u *unit) {
		const slow = "TimeoutStopSec=2\nTimeoutAbortSec=1\nRestartSec=500ms"
		u.install(fakeUnit("100ms"), slow)
		u.run(
			step{"with a request longer than TimeoutStopSec, after an upgrade", (*unit).stopPatiently},
			step{"before the new generation is ready", func(u *unit) { u.stopInUpgrade("before-ready=pause=1s") }},
			step{"between Ready and serving, for longer than TimeoutStopSec", func(u *unit) { u.stopInUpgrade("after-ready=pause=3s") }},
			step{"before systemd knows of the new generation", func(u *unit) { u.stopInUpgrade("before-mainpid=pause=1s") }},
			step{"before the old generation knows of the new one", func(u *unit) { u.stopInUpgrade("after-mainpid=pause=1s") }},
			step{"when the old generation has died and the new one is not ready", (*unit).stopStandIn},
			step{"a master that hangs, when the watchdog has seen it", (*unit).stopWatched},
			step{"a master that hangs, and no watchdog", func(u *unit) {
				u.install(fakeUnit("100ms"), slow, "WatchdogSec=0")
				u.stopHung()
			}},
		)
	})
}

// stopPatiently: while a generation that an upgrade has started drains, systemd
// waits for longer than the unit says.
func (u *unit) stopPatiently() {
	u.systemctl("start", "stoker")
	u.allReady()
	last := u.mainPID()
	if out, err := exec.Command(binary, "upgrade", "--run-dir", u.runDir).CombinedOutput(); err != nil {
		u.t.Fatalf("stoker upgrade: %v: %s", err, out)
	}
	u.replaced(last)
	held := make(chan answer, 1)
	go func() {
		c := caller{address: u.address}
		held <- c.get("/work?ms=4500")
	}()
	u.eventually("the request in flight", func() bool {
		n := 0
		for _, w := range u.workers() {
			n += w.InFlight
		}
		return n == 1
	})
	u.systemctl("stop", "stoker")
	if a := <-held; a.outcome != complete || a.status != 200 {
		u.t.Errorf("the request: %v", a)
	}
	u.inactive()
	if result := u.show("Result"); result != "success" {
		u.t.Errorf("result %s", result)
	}
}

// stopInUpgrade stops while two masters live and the new one waits at a point.
func (u *unit) stopInUpgrade(point string) {
	u.systemctl("start", "stoker")
	u.allReady()
	u.fail(point)
	u.kill(syscall.SIGUSR2)
	name, _, _ := strings.Cut(point, "=")
	u.eventually("the new one waits", func() bool { return slices.Contains(u.hits(), name) })
	if n := len(u.masters()); n != 2 {
		u.t.Errorf("%d masters, want 2", n)
	}
	began := time.Now()
	u.systemctl("stop", "stoker")
	u.t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	u.fail()
	u.inactive()
	if result := u.show("Result"); result != "success" {
		u.t.Errorf("result %s", result)
	}
}

// stopStandIn stops while the main process is one that systemd has started in
// place of the one that died, and waits for a master which systemd does not know.
func (u *unit) stopStandIn() {
	u.systemctl("start", "stoker")
	u.allReady()
	last := u.mainPID()
	u.fail("old-before-ready=kill", "before-ready=pause=4s")
	u.kill(syscall.SIGUSR2)
	u.eventually("systemd has started another", func() bool {
		return slices.Contains(u.hits(), "before-ready") && u.show("SubState") == "start" && u.mainPID() != last && len(u.masters()) == 2
	})
	u.systemctl("stop", "stoker")
	u.fail()
	u.inactive()
}

// stopHung stops a master that answers nobody.
func (u *unit) stopHung() {
	u.systemctl("start", "stoker")
	engines := u.engines()
	u.kill(syscall.SIGSTOP)
	began := time.Now()
	u.systemctl("stop", "stoker")
	u.t.Logf("stopped after %v, result %s", time.Since(began).Round(time.Millisecond), u.show("Result"))
	u.endedWith(engines)
}

// stopWatched stops the service after the watchdog has ended its master, and
// before it is decided what becomes of the engines: a moment that is held here.
func (u *unit) stopWatched() {
	hold := sandboxDir + "/hold"
	u.install(fakeUnit("100ms"), "TimeoutStopSec=30", "ExecStopPost=",
		"ExecStopPost=/bin/sh -c 'while test -e "+hold+"; do sleep 0.05; done'", "ExecStopPost="+binary+" reap --run-dir "+u.runDir)
	u.write(hold, "")
	u.systemctl("start", "stoker")
	engines := u.engines()
	u.kill(syscall.SIGSTOP)
	u.eventually("the watchdog has ended it", func() bool { return u.show("SubState") == "stop-post" })
	if result := u.show("Result"); result != "watchdog" {
		u.t.Errorf("result %s", result)
	}
	u.systemctl("stop", "--no-block", "stoker")
	u.eventually("the stop is queued", func() bool { return strings.Contains(u.systemctl("list-jobs", "--no-legend"), " stop ") })
	if err := os.Remove(hold); err != nil {
		u.t.Fatal(err)
	}
	u.endedWith(engines)
}

// endedWith waits for the service's end, which must have been these engines' too.
func (u *unit) endedWith(engines []int) {
	u.t.Helper()
	u.inactive()
	for _, pid := range engines {
		if alive(pid) {
			u.t.Errorf("engine %d is left", pid)
		}
	}
	u.systemctl("reset-failed", "stoker")
}
