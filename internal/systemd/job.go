package systemd

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// askWithin bounds the question to the manager.
const askWithin = 5 * time.Second

// StopQueued says whether somebody has asked the manager to stop the service
// that this process belongs to: then nothing is started again after a failure.
// false also where the manager cannot be asked, which may be forbidden to us.
func StopQueued(ctx context.Context) bool {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	unit, err := unitOf(string(groups))
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	jobs, err := exec.CommandContext(ctx, "systemctl", "list-jobs", "--no-legend", "--no-pager", "--", unit).Output()
	return err == nil && stopAmong(string(jobs), unit)
}

// unitOf finds the service's name in the text of /proc/PID/cgroup.
func unitOf(groups string) (string, error) {
	for line := range strings.Lines(groups) {
		// "0::/system.slice/stoker.service", or "1:name=systemd:…" of the first version
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 || fields[1] != "" && fields[1] != "name=systemd" {
			continue
		}
		if name := path.Base(fields[2]); strings.HasSuffix(name, ".service") {
			return name, nil
		}
	}
	return "", errors.New("this process is of no service")
}

// stopAmong looks for the unit's stop in lines of number, unit, type and state.
func stopAmong(jobs, unit string) bool {
	for line := range strings.Lines(jobs) {
		if words := strings.Fields(line); len(words) >= 3 && words[1] == unit && words[2] == "stop" {
			return true
		}
	}
	return false
}
