//go:build e2e

package e2e

import (
	"context"
	"flag"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sync/semaphore"
)

// A test runs alone, unless it says otherwise: what measures time, CPU or memory, or
// is a crowd by itself, does. Most of the others wait for most of their time, for
// engines to load, limits to pass, generations to drain. So many run beside each
// other as the machine has room for, whatever number go test has for itself:
//
//	sleeps(t)  it takes long, and next to no processor: at once, so that nobody waits for it at the end
//	waits(t)   it takes a fifth of a processor, or less
//	works(t)   it takes half of one
//
// A test whose subtests say so says t.Parallel() itself, and takes no room.
const (
	roomOfProcessor = 3
	roomToWait      = 1
	roomToWork      = 2
)

// room is shared by all tests that run beside others; those who have asked first get theirs first.
var room = semaphore.NewWeighted(int64(roomOfProcessor * min(max(runtime.NumCPU(), 2), 4)))

// sleeps lets a test that does next to nothing for long run beside all others.
func sleeps(t *testing.T) {
	t.Helper()
	t.Parallel()
}

// waits lets a test that mostly waits run beside others.
func waits(t *testing.T) {
	t.Helper()
	beside(t, roomToWait)
}

// works lets a test that is busy itself run beside others.
func works(t *testing.T) {
	t.Helper()
	beside(t, roomToWork)
}

func beside(t *testing.T, needs int64) {
	t.Helper()
	t.Parallel()
	if err := room.Acquire(context.Background(), needs); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { room.Release(needs) })
}

// writeProgram writes a file that is to be executed. A process that another test starts
// meanwhile would have its descriptor for a moment, in which who executes it is told
// that the file is busy: so none is started.
func writeProgram(path string, text []byte) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(path, text, 0o755)
}

// letAllAsk has go test begin all tests that run beside others at once, unless its
// command line says how many: they wait for room by themselves. Flags are parsed.
func letAllAsk() {
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", "1000")
	}
}
