//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// TestKeysChangeUnderLoad: one name gets its next key while clients ask with
// the first, and no request of theirs fails.
func TestKeysChangeUnderLoad(t *testing.T) {
	works(t)
	file := filepath.Join(t.TempDir(), "keys")
	add := func(name string) string {
		out, err := exec.Command(binary, "key", "add", name, "--file", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	first := add("alice")
	m := start(t, fmt.Sprintf("[access]\nkeys_file = %q\n[[limits]]\nname = \"each\"\nper = \"key\"\nrequests = 1000000\n", file)+versionedPool(1)).ready()
	ask := func(key string) answer {
		c := caller{address: m.address}
		defer c.close()
		return c.get("/work?ms=1", "Authorization: Bearer "+key)
	}
	var over atomic.Bool
	ended := newTally()
	all := crowd(4, func(_, _ int) bool {
		a := ask(first)
		ended.add(fmt.Sprint(a.status), a.String())
		return !over.Load()
	})
	second := add("alice")
	m.eventually("the new key works", func() bool { return ask(second).status == 200 })
	for range 5 {
		m.signal(syscall.SIGHUP)
		m.mustCommand("reload")
	}
	if err := os.WriteFile(file, []byte("nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.eventually("the bad file is reported", func() bool { return strings.Contains(m.logText(), "keys stay as they were") })
	if text, code := m.command("reload"); code == 0 || !strings.Contains(text, file+":1:") {
		t.Errorf("reload with a bad file: %d %s", code, text)
	}
	over.Store(true)
	all.Wait()
	if rest := ended.except("200"); rest != "" {
		t.Errorf("not all were answered: %s", rest)
	}
	if a := ask(second + "x"); a.status != 401 || !strings.Contains(string(a.body), "invalid_api_key") {
		t.Errorf("a wrong key: %v", a)
	}
	if strings.Contains(m.logText(), first) || strings.Contains(m.logText(), second) {
		t.Error("a key is in the log")
	}
	if m.metric("stoker_key_requests_total", `key="alice"`) == 0 {
		t.Error("nothing is counted by name")
	}
	m.stop()
}
