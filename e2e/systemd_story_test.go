//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// systemdStory is the life of a service as its operators know it: start,
// models load, five upgrades between two versions under load, a crash, a
// reload, the stop. Engines are the same processes until the stop.
func systemdStory(t *testing.T) {
	underSystemd(t, true, func(u *unit) {
		u.install(fakeUnit("1s"))
		u.run(step{"the story", (*unit).story})
		out, _ := exec.Command("journalctl", "--no-pager", "--output", "cat", "--unit", "stoker", "--grep", "^(20|stoker|p-)").CombinedOutput()
		t.Logf("the journal:\n%s", out)
	})
}

func (u *unit) story() {
	began := time.Now()
	u.systemctl("start", "stoker")
	u.t.Logf("started after %v", time.Since(began).Round(time.Millisecond))
	engines := u.engines()
	starts := map[int]string{}
	for _, pid := range engines {
		starts[pid] = startTime(u.t, pid)
	}
	same := func(when string) {
		u.t.Helper()
		if now := u.engines(); !slices.Equal(now, engines) {
			u.t.Fatalf("%s: engines were %v, are %v", when, engines, now)
		}
		for pid, start := range starts {
			if now := startTime(u.t, pid); now != start {
				u.t.Fatalf("%s: engine %d is another process than before", when, pid)
			}
		}
		u.onlyMaster()
		u.stored(1)
	}
	same("after the start")

	stop := u.crowd(8)
	for i := range 5 {
		version := []string{"two", "one"}[i%2]
		u.installVersion(version)
		last := u.mainPID()
		out, err := exec.Command(binary, "upgrade", "--run-dir", u.runDir).CombinedOutput()
		if err != nil || !strings.HasPrefix(string(out), "upgraded to version "+version+": ") {
			u.t.Fatalf("stoker upgrade: %v: %s", err, out)
		}
		u.replaced(last)
		if got := u.version(); got != version {
			u.t.Errorf("version %q runs, want %q", got, version)
		}
		u.eventually("the generation before has ended", func() bool { return !alive(last) })
		same(fmt.Sprintf("after upgrade %d", i+1))
	}
	if seen := stop(); len(seen) != 1 || seen[complete] == 0 {
		u.t.Errorf("seen through five upgrades: %v", seen)
	} else {
		u.t.Logf("%d requests through five upgrades, all complete", seen[complete])
	}

	last := u.kill(syscall.SIGKILL)
	u.replaced(last)
	same("after the crash")
	if n := u.restarts(); n != 1 {
		u.t.Errorf("systemd counts %d restarts, want 1", n)
	}

	file := sandboxDir + "/stoker.toml"
	text, err := os.ReadFile(file)
	if err != nil {
		u.t.Fatal(err)
	}
	u.write(file, string(text)+"max_concurrency = 7\n")
	last = u.mainPID()
	u.systemctl("reload", "stoker")
	if u.mainPID() != last {
		u.t.Error("a reload has changed the main process")
	}
	same("after the reload")

	u.served()
	began = time.Now()
	u.systemctl("stop", "stoker")
	u.t.Logf("stopped after %v", time.Since(began).Round(time.Millisecond))
	u.inactive()
	if result := u.show("Result"); result != "success" {
		u.t.Errorf("result %s", result)
	}
	for _, pid := range engines {
		if alive(pid) {
			u.t.Errorf("engine %d is left", pid)
		}
	}
}

// version is the running master's.
func (u *unit) version() string {
	u.t.Helper()
	_, body, err := u.admin("/status")
	var s struct{ Version string }
	if err != nil || json.Unmarshal([]byte(body), &s) != nil {
		u.t.Fatalf("GET /status: %v: %s", err, body)
	}
	return s.Version
}
