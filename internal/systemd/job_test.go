package systemd

import (
	"os"
	"path/filepath"
	"testing"
)

func TestUnitOf(t *testing.T) {
	for _, c := range []struct{ name, groups, want string }{
		{"second version", "0::/system.slice/stoker.service\n", "stoker.service"},
		{"instance", "0::/system.slice/system-stoker.slice/stoker@a.service\n", "stoker@a.service"},
		{"first version", "12:cpu,cpuacct:/\n1:name=systemd:/system.slice/stoker.service\n0::/\n", "stoker.service"},
		{"another controller's", "4:memory:/system.slice/other.service\n0::/user.slice/session-1.scope\n", ""},
		{"container", "0::/\n", ""},
		{"nothing", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := unitOf(c.groups)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestStopAmong(t *testing.T) {
	for _, c := range []struct {
		jobs string
		want bool
	}{
		{"", false},
		{"  112 stoker.service stop running\n", true},
		{"112 stoker.service restart waiting\n", false},
		{"112 stoker.service start waiting\n113 other.service stop running\n", false},
		{"No jobs running.\n", false},
	} {
		if got := stopAmong(c.jobs, "stoker.service"); got != c.want {
			t.Errorf("%q: got %v", c.jobs, got)
		}
	}
}

// TestStopQueuedUnasked: where nobody can be asked the answer is no.
func TestStopQueuedUnasked(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "systemctl"), []byte("#!/bin/sh\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if StopQueued(t.Context()) {
		t.Error("a stop is queued for a test")
	}
}
