//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// binary is the stoker under test, and self this test binary, which is also
// the engine that misbehaves on demand. Both are set once, by TestMain.
var binary, self string

// scratch is a directory that is removed after the last test; set once, by TestMain.
var scratch string

// raced says that the binary has the race detector in it: then nothing is said
// about memory and little about time, and no process may have reported a race.
var raced = os.Getenv("STOKER_E2E_RACE") == "1"

// raceOptions keep the race detector from resting for a second at each exit,
// which engines, keepers and masters inherit.
const raceOptions = "atexit_sleep_ms=0"

// launched are the masters (*master) whose tests have not cleaned up yet.
var launched sync.Map

func TestMain(m *testing.M) {
	var err error
	if self, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) > 1 && os.Args[1] == "engine" {
		engineMain(os.Args[2:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "cutter" {
		cutterMain(os.Args[2:])
		return
	}
	if len(os.Args) > 3 && os.Args[1] == "meter" {
		os.Exit(meterMain(os.Args[2], os.Args[3:]))
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	scratch = dir
	// Another user runs the binary in one test.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if binary = os.Getenv("STOKER_E2E_BINARY"); binary == "" {
		binary = filepath.Join(dir, "stoker")
		if err := build(binary); err != nil {
			fmt.Fprintln(os.Stderr, "build stoker:", err)
			return 1
		}
	}
	if raced {
		os.Setenv("GORACE", raceOptions)
	}
	defer endBeforeTimeout()()
	letAllAsk()
	return m.Run()
}

func build(to string) error {
	args := []string{"build", "-trimpath", "-o", to}
	if raced {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/stoker")...)
	cmd.Dir = ".."
	if !raced { // as make build does; the race detector is compiled with C
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	}
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	return cmd.Run()
}

// endBeforeTimeout ends what tests have started shortly before go test's
// time-out: that ends this process without cleaning up, and masters that
// nobody stops would go on for ever. The returned function calls it off.
func endBeforeTimeout() func() {
	flag.Parse()
	limit, ok := flag.Lookup("test.timeout").Value.(flag.Getter).Get().(time.Duration)
	if !ok || limit == 0 {
		return func() {}
	}
	timer := time.AfterFunc(limit-3*time.Second, func() {
		launched.Range(func(m, _ any) bool {
			m.(*master).endAll()
			return true
		})
	})
	return func() { timer.Stop() }
}
