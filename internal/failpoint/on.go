//go:build failpoints

package failpoint

import (
	"os"
	"strings"
	"syscall"
	"time"
)

// Hit does what the file says of a point; nothing if it does not name it.
func Hit(point string) {
	text, err := os.ReadFile(os.Getenv("STOKER_FAILPOINTS")) //nolint:gosec // a test names it
	if err != nil {
		return
	}
	for line := range strings.Lines(string(text)) {
		if action, ok := strings.CutPrefix(strings.TrimSpace(line), point+"="); ok {
			note(point)
			do(action)
		}
	}
}

// note lets a test wait until a process has come to a point.
func note(point string) {
	hits, err := os.OpenFile(os.Getenv("STOKER_FAILPOINTS")+".hits", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // a test names it
	if err != nil {
		return
	}
	_, _ = hits.WriteString(point + "\n")
	_ = hits.Close()
}

func do(action string) {
	switch {
	case action == "kill":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case action == "hang":
		for {
			time.Sleep(time.Hour)
		}
	case action == "exit":
		os.Exit(9)
	case strings.HasPrefix(action, "pause="):
		if d, err := time.ParseDuration(strings.TrimPrefix(action, "pause=")); err == nil {
			time.Sleep(d)
		}
	}
}
