package supervisor

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// abandoned starts engines, makes them ready and lets go of them, as a master
// that dies does. It returns the pids of the engines and of their keepers.
func abandoned(t *testing.T, workers int, args ...string) (runDir string, engines, keepers []int) {
	t.Helper()
	c := realConfig(t, workers, append([]string{"--socket", "{socket}"}, args...)...)
	m := startMaster(t, c)
	m.allReady()
	for _, w := range m.Status()[0].Workers {
		engines, keepers = append(engines, w.PID), append(keepers, w.KeeperPID)
	}
	if err := m.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return c.RunDir, engines, keepers
}

func TestReap(t *testing.T) {
	dir, engines, keepers := abandoned(t, 2)
	kill(t, keepers[1]) // what it leaves has to be found by recorded identity
	gone(t, keepers[1])

	found, err := Reap(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	gone(t, append(engines, keepers[0])...)
	if len(found) != 2 {
		t.Fatalf("found %+v", found)
	}
	for i, want := range []struct{ worker, exit string }{
		{"e-0", "exited with code 0"},
		{"e-1", "ended unseen, since its keeper was killed"},
	} {
		if l := found[i]; l.Worker != want.worker || l.PID != engines[i] || !l.Ran || l.Killed() || l.Exit() != want.exit {
			t.Errorf("got %+v (%s, killed %t), want %s of pid %d, %s", l, l.Exit(), l.Killed(), want.worker, engines[i], want.exit)
		}
	}
	for _, pattern := range []string{"keepers/*", "engines/*/*"} {
		if left, _ := filepath.Glob(filepath.Join(dir, pattern)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}

	if again, err := Reap(t.Context(), dir); err != nil || len(again) > 0 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
}

// TestReapInAHurry: an engine that ignores TERM has 30 s, unless ctx ends.
func TestReapInAHurry(t *testing.T) {
	dir, engines, _ := abandoned(t, 1, "--deaf")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	found, err := Reap(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	gone(t, engines...)
	if len(found) != 1 || !found[0].Killed() || !strings.HasPrefix(found[0].Exit(), "killed by SIGKILL") {
		t.Errorf("found %+v: %s", found, found[0].Exit())
	}
}

// TestReapLeavesStrangersAlone: a directory whose files speak of another
// keeper than the one that answers is neither removed nor signalled.
func TestReapLeavesStrangersAlone(t *testing.T) {
	dir, engines, _ := abandoned(t, 2)
	intent := filepath.Join(dir, "keepers", "e-0", "intent.json")
	text, err := os.ReadFile(intent)
	if err != nil {
		t.Fatal(err)
	}
	forged := strings.Replace(string(text), `"nonce":"`, `"nonce":"f`, 1)
	if err := os.WriteFile(intent, []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}

	found, err := Reap(t.Context(), dir)
	if err == nil || !strings.Contains(err.Error(), "identity is not proven") {
		t.Errorf("error %v, want that an identity is not proven", err)
	}
	if len(found) != 1 || found[0].Worker != "e-1" {
		t.Errorf("ended %+v, want e-1 alone", found)
	}
	gone(t, engines[1])
	if !alive(engines[0]) {
		t.Error("the engine with the forged identity was ended")
	}

	if err := os.WriteFile(intent, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Reap(t.Context(), dir); err != nil {
		t.Error(err)
	}
	gone(t, engines[0])
}

func TestReapNothing(t *testing.T) {
	if found, err := Reap(t.Context(), t.TempDir()); err != nil || len(found) > 0 {
		t.Errorf("an empty directory: %+v, %v", found, err)
	}
	if found, err := Reap(t.Context(), filepath.Join(t.TempDir(), "none")); err != nil || len(found) > 0 {
		t.Errorf("no directory: %+v, %v", found, err)
	}
}
