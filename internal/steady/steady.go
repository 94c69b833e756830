// Package steady is for tests alone: it keeps them true on a machine that is busy
// with other things. [WithLimit] gives a time limit under test as much time as that
// machine needs; [Reserve] a port that no other process is given meanwhile.
package steady

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	tries  = 4
	longer = 4 // times, from one try to the next
)

// WithLimit runs check with a limit that somebody has to reach and somebody else
// to keep within. Where a test fails because the machine did not run who had to
// keep within it, a longer one helps, and check is run anew with four times as
// much, thrice at most; what is wrong with any limit fails the last time too.
//
// Whatever check makes has to be bound to the trial that it is given: its cleanups run,
// and its context ends, before the next one.
func WithLimit(tb testing.TB, first time.Duration, check func(t *Trial, limit time.Duration)) {
	tb.Helper()
	limit := first
	for n := 1; ; n++ {
		failures := run(tb, func(t *Trial) { check(t, limit) })
		if failures == nil {
			return
		}
		if n == tries {
			tb.Errorf("with a limit of %s: %s", limit, strings.Join(failures, "\n"))
			return
		}
		tb.Logf("with a limit of %s, which a busy machine may not keep: %s", limit, strings.Join(failures, "\n"))
		limit *= longer
	}
}

// Trial is the TB of one try.
type Trial struct {
	testing.TB // of the test, for what is not told otherwise

	ctx      context.Context
	mu       sync.Mutex
	failures []string
	cleanups []func()
}

// run runs check and its cleanups, and returns with what it failed; nil: it did not.
func run(tb testing.TB, check func(t *Trial)) []string {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	t := &Trial{TB: tb, ctx: ctx}
	done := make(chan struct{})
	go func() { // which FailNow may end
		defer close(done)
		defer t.cleanUp()
		defer cancel()
		check(t)
	}()
	<-done
	return t.failures
}

// cleanUp runs what Cleanup was given, last first, also when one of them ends the goroutine.
func (t *Trial) cleanUp() {
	t.mu.Lock()
	last := len(t.cleanups) - 1
	if last < 0 {
		t.mu.Unlock()
		return
	}
	clean := t.cleanups[last]
	t.cleanups = t.cleanups[:last]
	t.mu.Unlock()
	defer t.cleanUp()
	clean()
}

// Cleanup has f called at the try's end.
func (t *Trial) Cleanup(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cleanups = append(t.cleanups, f)
}

// Context ends with the try, before what Cleanup was given is called.
func (t *Trial) Context() context.Context { return t.ctx }

// Failed says whether this try has.
func (t *Trial) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.failures) > 0
}

// Fail fails this try, as do those below.
func (t *Trial) Fail() { t.fail("failed") }

// FailNow ends it, too.
func (t *Trial) FailNow() {
	t.fail("failed")
	runtime.Goexit()
}

// Error implements testing.TB.
func (t *Trial) Error(args ...any) { t.fail(where() + fmt.Sprintln(args...)) }

// Errorf implements testing.TB.
func (t *Trial) Errorf(text string, args ...any) { t.fail(where() + fmt.Sprintf(text, args...)) }

// Fatal implements testing.TB.
func (t *Trial) Fatal(args ...any) {
	t.fail(where() + fmt.Sprintln(args...))
	runtime.Goexit()
}

// Fatalf implements testing.TB.
func (t *Trial) Fatalf(text string, args ...any) {
	t.fail(where() + fmt.Sprintf(text, args...))
	runtime.Goexit()
}

func (t *Trial) fail(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures = append(t.failures, strings.TrimSuffix(text, "\n"))
}

// where is the line of the test that says it.
func where() string {
	_, file, line, _ := runtime.Caller(2)
	return fmt.Sprintf("%s:%d: ", file[strings.LastIndexByte(file, '/')+1:], line)
}
