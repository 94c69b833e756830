//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// versions builds two binaries of different versions, with failpoints, once.
var versions = sync.OnceValues(func() ([2]string, error) {
	var paths [2]string
	for i, version := range []string{"one", "two"} {
		paths[i] = filepath.Join(scratch, version)
		args := []string{"build", "-trimpath", "-tags", "failpoints", "-ldflags", "-X main.version=" + version, "-o", paths[i]}
		if os.Getenv("STOKER_E2E_RACE") == "1" {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./cmd/stoker")...)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			return paths, fmt.Errorf("build version %s: %w: %s", version, err, out)
		}
	}
	return paths, nil
})

// upgradable is a master whose binary may be replaced.
type upgradable struct {
	*master
	path   string // of its binary
	points string // of the file that says what fails
	config string
	pids   map[string]int // of the engines
	starts map[int]string // of their processes, as the kernel counts
	over   *bool          // endAll was called
}

// startUpgradable runs version one with two workers, and waits for them.
func startUpgradable(t *testing.T, config string) *upgradable {
	t.Helper()
	built, err := versions()
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	u := &upgradable{path: filepath.Join(dir, "stoker"), points: filepath.Join(dir, "points"), pids: map[string]int{}, starts: map[int]string{}, over: new(bool)}
	u.install(t, built[0])
	config += "[[pools]]\nname = \"p\"\nworkers = 2\nhealth.interval = \"200ms\"\ncommand = " + list(engine("--socket", "{socket}")...) + "\n"
	u.master = startAs(t, config, setup{args: []string{"run", "-c", "{config}"}, binary: u.path, env: []string{"STOKER_FAILPOINTS=" + u.points}}).allReady()
	u.config = u.cmd.Args[3]
	for _, w := range u.workers() {
		u.pids[w.Name] = w.PID
		u.starts[w.PID] = startTime(t, w.PID)
	}
	t.Cleanup(func() {
		if !*u.over {
			u.endAll()
		}
	})
	return u
}

// install replaces the binary as a package manager does: another file takes its name.
func (u *upgradable) install(t *testing.T, from string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = writeProgram(u.path+".new", text)
	}
	if err == nil {
		err = os.Rename(u.path+".new", u.path)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// installVersion installs one (0) or two (1).
func (u *upgradable) installVersion(i int) {
	u.t.Helper()
	built, err := versions()
	if err != nil {
		u.t.Fatal(err)
	}
	u.install(u.t, built[i])
}

// fail says what shall fail from now on: "POINT=ACTION" lines.
func (u *upgradable) fail(lines ...string) {
	u.t.Helper()
	if err := os.WriteFile(u.points, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		u.t.Fatal(err)
	}
}

// upgrade runs "stoker upgrade" and returns what it printed and how it ended.
func (u *upgradable) upgrade() (string, error) {
	out, err := exec.Command(u.path, "upgrade", "--run-dir", u.runDir, "--timeout", "60s").CombinedOutput()
	return string(out), err
}

// mustUpgrade upgrades and returns the seconds that it took.
func (u *upgradable) mustUpgrade() float64 {
	u.t.Helper()
	out, err := u.upgrade()
	if err != nil {
		u.t.Fatalf("upgrade: %v: %s", err, out)
	}
	var version string
	var pid, generation int
	var took float64
	if _, err := fmt.Sscanf(out, "upgraded to version %s pid %d, generation %d, after %f s", &version, &pid, &generation, &took); err != nil {
		u.t.Fatalf("upgrade printed %q: %v", out, err)
	}
	return took
}

// untouched fails unless the engines are those of the beginning, and ready.
func (u *upgradable) untouched() {
	u.t.Helper()
	u.allWorkersReady() // an upgrade that has failed may just be giving them back
	for _, w := range u.workers() {
		if w.PID != u.pids[w.Name] || w.Restarts != 0 || w.State != "ready" {
			u.t.Errorf("worker %s: pid %d, %d restarts, %s; want pid %d, ready", w.Name, w.PID, w.Restarts, w.State, u.pids[w.Name])
		}
	}
	for pid, start := range u.starts {
		if now := startTime(u.t, pid); now != start {
			u.t.Errorf("engine %d started at %s, at first %s", pid, now, start)
		}
	}
}

// epoch is the last that a master of the run directory has taken.
func (u *upgradable) epoch() int {
	u.t.Helper()
	text, err := os.ReadFile(filepath.Join(u.runDir, "epoch"))
	if err != nil {
		u.t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		u.t.Fatal(err)
	}
	return n
}

// serves fails unless a request is answered.
func (u *upgradable) serves() {
	u.t.Helper()
	c := caller{address: u.address}
	if a := c.get("/work"); a.outcome != complete || a.status != 200 {
		u.t.Errorf("a request: %v", a)
	}
}

// endAll ends the master of the last generation, which is not our child.
func (u *upgradable) endAll() {
	u.t.Helper()
	*u.over = true
	out, err := exec.Command(u.path, "shutdown", "--run-dir", u.runDir).CombinedOutput()
	if err != nil && !u.t.Failed() {
		u.t.Errorf("shutdown: %v: %s", err, out)
	}
	if !u.t.Failed() {
		u.nothingLeft()
	}
}

func startTime(t *testing.T, pid int) string {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fields[19] // the 22nd, of which two come before
}

// streamTime is how long the streams of the load last; STOKER_E2E_STREAM changes it.
func streamTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("STOKER_E2E_STREAM")
	if text == "" {
		return time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}
