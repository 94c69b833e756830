//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// startInContainer starts a master that is the first process of a pid
// namespace, as in a container, and returns that process's pid as seen from here.
func startInContainer(t *testing.T) (m *master, first int) {
	t.Helper()
	unshare := []string{tool(t, "unshare", "apt-get install util-linux"), "--pid", "--fork", "--mount-proc", "--kill-child"}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		missing(t, "the right to make pid namespaces", fmt.Sprintf("run as root (%v: %s)", err, bytes.TrimSpace(out)))
	}
	m = startAs(t, fakePool(2), setup{args: []string{"run", "-c", "{config}"}, below: unshare}).allReady()
	children := childrenOf(t, m.cmd.Process.Pid)
	if len(children) != 1 {
		t.Fatalf("unshare has children %v", children)
	}
	return m, children[0]
}

// childrenOf are a process's children, zombies among them. The kernel lists
// them by the thread that started them.
func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var pids []int
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, child)
		}
	}
	return pids
}

// TestFirstProcessReaps: whatever loses its parent in a container is reaped,
// and no exit status that the master waits for is lost by that.
func TestFirstProcessReaps(t *testing.T) {
	waits(t)
	m, first := startInContainer(t)
	before := len(childrenOf(t, first))
	// Twenty processes whose parent ends before they do.
	orphans := exec.Command("nsenter", "--target", strconv.Itoa(first), "--pid", "--mount", "sh", "-c",
		"for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1 >/dev/null 2>&1 & done; exit 0")
	if out, err := orphans.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if n := len(childrenOf(t, first)); n < before+10 {
		t.Errorf("the first process has %d children, want the orphans among them", n)
	}
	m.eventually("the orphans reaped", func() bool { return len(childrenOf(t, first)) == before })

	// A keeper and an engine that are killed: their ends are seen as they were.
	worker := m.workers()[0]
	kill := exec.Command("nsenter", "--target", strconv.Itoa(first), "--pid", "--mount", "kill", "-KILL", strconv.Itoa(worker.PID))
	if out, err := kill.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m.eventually("a restart", func() bool { return m.workers()[0].Restarts == 1 && m.workers()[0].State == "ready" })
	m.eventually("nothing new left", func() bool { return len(childrenOf(t, first)) == before })

	if err := syscall.Kill(first, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d after TERM to the first process, want 0", code)
	}
	m.nothingLeft()
}

// TestFirstProcessTellsTheEnd: a container's exit status is its master's.
func TestFirstProcessTellsTheEnd(t *testing.T) {
	m, first := startInContainer(t)
	children := childrenOf(t, first)
	if len(children) == 0 {
		t.Fatal("the first process has no child: the master reaps for itself?")
	}
	if err := syscall.Kill(children[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := m.exit(patience); code != 128+int(syscall.SIGKILL) {
		t.Errorf("exit code %d, want %d", code, 128+int(syscall.SIGKILL))
	}
	// The kernel ends the rest of the namespace.
	m.eventually("nothing left", func() bool { return len(m.descendants()) == 0 })
}

// TestFirstProcessRefusesUpgrades: the end of a container's first process would
// be the container's, so the upgrade is refused, with that reason, whoever asks
// and however the master was started; nothing changes.
func TestFirstProcessRefusesUpgrades(t *testing.T) {
	m, first := startInContainer(t)
	before, children := m.status(), childrenOf(t, first)
	out, err := exec.Command(binary, "upgrade", "--run-dir", m.runDir).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("stoker upgrade: %v, want exit code 1", err)
	}
	if !strings.Contains(string(out), "not upgraded: ") || !strings.Contains(string(out), "would end the container; start a new container instead") {
		t.Errorf("stoker upgrade says %q", out)
	}
	// The signal goes to the first process, as a container's runtime sends it.
	refusals := func() int { return strings.Count(m.logText(), "upgrade failed; this master goes on as before") }
	m.eventually("the log says why", func() bool { return refusals() == 1 })
	if err := syscall.Kill(first, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	m.eventually("the log says why once more", func() bool { return refusals() == 2 })
	if now := m.status(); now.PID != before.PID || now.Generation != 1 {
		t.Errorf("pid %d, generation %d; want %d, 1", now.PID, now.Generation, before.PID)
	}
	if now := childrenOf(t, first); !slices.Equal(now, children) {
		t.Errorf("the first process has children %v, had %v", now, children)
	}
	if a := (&caller{address: m.address}).get("/work"); a.outcome != complete || a.status != 200 {
		t.Errorf("a request: %v", a)
	}
	// Asked from outside, where the master's number is nobody's, or a stranger's.
	m.mustCommand("shutdown")
	if code := m.exit(patience); code != 0 {
		t.Errorf("exit code %d after TERM to the first process, want 0", code)
	}
	m.nothingLeft()
}
