//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// systemdReload: what a reload changes outlives the master that did it,
// and a reload may take as long as it takes.
func systemdReload(t *testing.T) {
	underSystemd(t, false, func(u *unit) {
		u.install(fakeUnit("100ms"), "TimeoutStartSec=2")
		u.run(
			step{"listeners come and go", (*unit).reloadListeners},
			step{"a rolling reload longer than TimeoutStartSec", (*unit).reloadSlowly},
			step{"stop", (*unit).stopLeavesNothing},
		)
	})
}

// configure writes a configuration with these listeners, and two workers that load for so long.
func (u *unit) configure(load string, listen ...string) {
	u.t.Helper()
	quoted := make([]string, len(listen))
	for i, address := range listen {
		quoted[i] = fmt.Sprintf("%q", address)
	}
	u.write(sandboxDir+"/stoker.toml", fmt.Sprintf("listen = [%s]\nshutdown.idle_grace = \"100ms\"\n%s", strings.Join(quoted, ", "), fakeUnit(load)))
}

// listens says whether somebody accepts at an address and answers there.
func (u *unit) listens(address string) bool {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	a := (&caller{address: address}).get("/work")
	return a.outcome == complete && a.status == 200
}

// serves checks that exactly these of the addresses are served, and stored.
func (u *unit) serves(all []string, want ...string) {
	u.t.Helper()
	for _, address := range all {
		if got := u.listens(address); got != slices.Contains(want, address) {
			u.t.Errorf("%s is served: %v", address, got)
		}
	}
	u.stored(len(want))
}

// reloadListeners adds one and removes one, back and forth, with crashes and an
// upgrade in between.
func (u *unit) reloadListeners() {
	u.systemctl("start", "stoker")
	engines := u.engines()
	second, third := freeAddress(u.t), "unix:"+sandboxDir+"/third.sock"
	all := []string{u.address, second, third}
	crash := func() {
		u.t.Helper()
		u.replaced(u.kill(syscall.SIGKILL))
	}
	for _, want := range [][]string{
		{u.address, second, third},
		{second, third},
		{u.address, third},
		{u.address},
		{u.address, second, third},
		{u.address},
	} {
		u.configure("100ms", want...)
		u.systemctl("reload", "stoker")
		u.serves(all, want...)
		crash()
		u.serves(all, want...)
		last := u.mainPID()
		if out, err := exec.Command(binary, "upgrade", "--run-dir", u.runDir).CombinedOutput(); err != nil {
			u.t.Fatalf("stoker upgrade: %v: %s", err, out)
		}
		u.replaced(last)
		u.serves(all, want...)
	}
	// The file changes while no master runs.
	u.configure("100ms", u.address, second)
	crash()
	u.serves(all, u.address, second)
	u.configure("100ms", u.address)
	crash()
	u.serves(all, u.address)
	if now := u.engines(); !slices.Equal(now, engines) {
		u.t.Errorf("engines were %v, are %v", engines, now)
	}
	if _, err := os.Stat(sandboxDir + "/third.sock"); err == nil {
		u.t.Error("the removed listener's socket is left")
	}
}

// reloadSlowly replaces both engines, which takes longer than systemd would wait.
func (u *unit) reloadSlowly() {
	engines, last := u.engines(), u.mainPID()
	u.configure("2500ms", u.address)
	began := time.Now()
	u.systemctl("reload", "stoker")
	took := time.Since(began)
	u.t.Logf("the reload took %v", took.Round(time.Millisecond))
	if took < 5*time.Second {
		u.t.Errorf("systemctl did not wait for both engines: %v", took)
	}
	for _, pid := range u.engines() {
		if slices.Contains(engines, pid) {
			u.t.Errorf("engine %d was not replaced", pid)
		}
	}
	if u.mainPID() != last || u.show("ActiveState") != "active" {
		u.t.Errorf("main process %d, %s; want %d, active", u.mainPID(), u.show("ActiveState"), last)
	}
	u.served()
}
