//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// systemdKilled kills a generation, or both, around each point of no
// return of an upgrade. Whoever is the master afterwards is the service's main
// process, so that systemd looks after it: its own death is mended, and a stop
// ends it. Engines live through all of it.
func systemdKilled(t *testing.T) {
	underSystemd(t, true, func(u *unit) {
		// Time to call off the points before the next master comes to them.
		u.install(fakeUnit("300ms"), "RestartSec=500ms")
		u.systemctl("start", "stoker")
		var steps []step
		for _, c := range []struct {
			name   string
			points []string
		}{
			{"old before Ready", []string{"old-before-ready=kill", "before-ready=pause=100ms"}},
			{"old before Ready, new slow", []string{"old-before-ready=kill", "before-ready=pause=2s"}},
			{"old after Ready", []string{"old-after-ready=kill"}},
			{"old after Ready, new slow", []string{"old-after-ready=kill", "after-ready=pause=2s"}},
			{"old after Ready, before systemd knows", []string{"old-after-ready=kill", "before-mainpid=pause=50ms"}},
			{"old in its drain", []string{"old-draining=kill"}},
			{"new after Ready", []string{"after-ready=pause=300ms", "after-ready=kill"}},
			{"both after Ready", []string{"after-ready=pause=300ms", "after-ready=kill", "old-after-ready=kill"}},
			{"both before Ready", []string{"old-before-ready=kill", "before-ready=kill"}},
			{"old before Ready, new much later", []string{"old-before-ready=kill", "before-ready=pause=1s", "before-ready=kill"}},
		} {
			steps = append(steps, step{c.name, func(u *unit) { u.upgradeKilled(c.points...) }})
		}
		u.run(append(steps, step{"stop", (*unit).stopLeavesNothing})...)
	})
}

// upgradeKilled upgrades while these points fail.
func (u *unit) upgradeKilled(points ...string) {
	engines, last, restarts := u.engines(), u.mainPID(), u.restarts()
	u.fail(points...)
	u.kill(syscall.SIGUSR2)
	u.eventually("systemd knows of the old master's end", func() bool {
		return !alive(last) && (u.show("SubState") == "auto-restart" || u.mainPID() != last && u.mainPID() != 0)
	})
	u.fail()
	u.replaced(last)
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	u.onlyMaster()
	if n := u.restarts() - restarts; n > 1 {
		u.t.Errorf("systemd has restarted the service %d times for one death", n)
	}
	u.stored(1)

	// It is looked after like any other.
	last = u.kill(syscall.SIGKILL)
	u.replaced(last)
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("after the next crash: engines were %v, are %v", engines, now)
	}
	u.onlyMaster()
	u.served()
}

// fail says what shall fail from now on: "POINT=ACTION" lines.
func (u *unit) fail(points ...string) {
	u.t.Helper()
	u.write(sandboxDir+"/points", strings.Join(points, "\n"))
	u.write(sandboxDir+"/points.hits", "")
}

// hits are the points that processes have come to since fail was called.
func (u *unit) hits() []string {
	u.t.Helper()
	text, err := os.ReadFile(sandboxDir + "/points.hits")
	if err != nil {
		u.t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// installVersion replaces the service's binary by version "one" or "two".
func (u *unit) installVersion(name string) {
	u.t.Helper()
	to := sandboxDir + "/stoker"
	out, err := exec.Command("cp", sandboxDir+"/"+name, to+".new").CombinedOutput()
	if err == nil {
		err = os.Rename(to+".new", to)
	}
	if err != nil {
		u.t.Fatalf("%v: %s", err, out)
	}
}

func (u *unit) restarts() int {
	u.t.Helper()
	n, err := strconv.Atoi(u.show("NRestarts"))
	if err != nil {
		u.t.Fatal(err)
	}
	return n
}

// stored checks how many listeners systemd keeps.
func (u *unit) stored(want int) {
	u.t.Helper()
	u.eventually(strconv.Itoa(want)+" listeners are stored", func() bool { return u.show("NFileDescriptorStore") == strconv.Itoa(want) })
}

// masters are all processes of the service that run as one.
func (u *unit) masters() []int {
	u.t.Helper()
	procs, err := os.ReadFile("/sys/fs/cgroup/system.slice/stoker.service/cgroup.procs")
	if err != nil {
		u.t.Fatal(err)
	}
	var found []int
	for word := range strings.FieldsSeq(string(procs)) {
		line, _ := os.ReadFile(filepath.Join("/proc", word, "cmdline"))
		if args := strings.Split(string(line), "\x00"); len(args) > 1 && args[1] == "run" && !slices.Contains(args, "--preflight") {
			pid, err := strconv.Atoi(word)
			if err != nil {
				u.t.Fatal(err)
			}
			found = append(found, pid)
		}
	}
	return found
}

// onlyMaster waits until the main process is the only master there is.
func (u *unit) onlyMaster() {
	u.t.Helper()
	u.eventually("one master, systemd's", func() bool { return slices.Equal(u.masters(), []int{u.mainPID()}) })
}
