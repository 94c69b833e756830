package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stoker/config"
)

// TestComesBack: under a service manager engines are ended after a stop and
// left alone after a crash.
func TestComesBack(t *testing.T) {
	for _, c := range []struct {
		name   string
		env    map[string]string
		marked bool // the master had begun to shut down
		queued bool // the service has been told to stop
		want   string
	}{
		{name: "by hand"},
		{name: "stopped", env: map[string]string{"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": "0"}, marked: true},
		{name: "stopped while it started", env: map[string]string{"SERVICE_RESULT": "success", "EXIT_CODE": "killed", "EXIT_STATUS": "TERM"}},
		{name: "killed since the stop took too long", env: map[string]string{"SERVICE_RESULT": "timeout", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, marked: true},
		{name: "killed by hand during the stop", env: map[string]string{"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, marked: true},
		{name: "killed", env: map[string]string{"SERVICE_RESULT": "signal", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, want: "signal: killed KILL"},
		{name: "panic", env: map[string]string{"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "2"}, want: "exit-code: exited 2"},
		{name: "watchdog", env: map[string]string{"SERVICE_RESULT": "watchdog", "EXIT_CODE": "exited", "EXIT_STATUS": "2"}, want: "watchdog: exited 2"},
		{name: "watchdog, and told to stop", env: map[string]string{"SERVICE_RESULT": "watchdog", "EXIT_CODE": "exited", "EXIT_STATUS": "2"}, queued: true},
		{name: "out of memory", env: map[string]string{"SERVICE_RESULT": "oom-kill", "EXIT_CODE": "killed", "EXIT_STATUS": "KILL"}, want: "oom-kill: killed KILL"},
		{name: "could not start", env: map[string]string{"SERVICE_RESULT": "exit-code", "EXIT_CODE": "exited", "EXIT_STATUS": "1"}, want: "exit-code: exited 1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.RunDir = t.TempDir()
			if c.marked {
				if err := markStop(cfg); err != nil {
					t.Fatal(err)
				}
			}
			got := comesBack(func(name string) string { return c.env[name] }, cfg.StopMark(), func() bool { return c.queued })
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestReapRefusesWhileAMasterLives(t *testing.T) {
	cfg := config.Default()
	cfg.RunDir = t.TempDir()
	held, err := takeRunDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = reap(t.Context(), &out, cfg.RunDir, cfg.LockFile())
	if err == nil || !strings.Contains(err.Error(), "held by another stoker (pid ") || out.Len() > 0 {
		t.Errorf("got %v, %q; want a refusal", err, out.String())
	}
	held.release()
	if err := reap(t.Context(), &out, cfg.RunDir, cfg.LockFile()); err != nil || !strings.HasPrefix(out.String(), "nothing is left") {
		t.Errorf("after its end: %v, %q", err, out.String())
	}
}

func TestReapOfNoDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	var out bytes.Buffer
	if err := reap(t.Context(), &out, dir, filepath.Join(dir, "lock")); err != nil || !strings.HasPrefix(out.String(), "nothing is left") {
		t.Errorf("%v, %q", err, out.String())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory was made: %v", err)
	}
}

// TestNextMasterForgetsTheStop: its crash is a crash again.
func TestNextMasterForgetsTheStop(t *testing.T) {
	cfg := config.Default()
	cfg.RunDir = t.TempDir()
	if err := markStop(cfg); err != nil {
		t.Fatal(err)
	}
	held, err := takeRunDir(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer held.release()
	if _, err := os.Stat(cfg.StopMark()); !os.IsNotExist(err) {
		t.Errorf("the mark is still there: %v", err)
	}
}
