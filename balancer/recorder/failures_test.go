package recorder

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestFailuresAreKeptLonger: for a death that may ask for them, but not without bound.
func TestFailuresAreKeptLonger(t *testing.T) {
	r := newRecorder(t, Options{Keep: 2, Memory: 64 << 20})
	for i := range pinMost + 10 {
		pass(t, r, newExchange(fmt.Sprint(i), ""), "w", "", errors.New("reset"))
	}
	if n := r.rings["w"].failed.length; n != pinMost+2 {
		t.Errorf("%d are kept", n)
	}
}

// TestAFailureKeepsNothingElse: what went well after it is let go as ever.
func TestAFailureKeepsNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, Options{Keep: 2, Memory: 64 << 20})
		fail := func(n int) {
			for i := range n {
				pass(t, r, newExchange(fmt.Sprint("bad ", i), ""), "w", "", errors.New("reset"))
			}
		}
		fail(5)
		for i := range 50 {
			pass(t, r, newExchange(fmt.Sprint(i), ""), "w", "fine", nil)
		}
		if well, failed := r.rings["w"].well.length, r.rings["w"].failed.length; well != 2 || failed != 5 {
			t.Errorf("%d that went well and %d that failed are kept", well, failed)
		}
		time.Sleep(pinTime + time.Second)
		pass(t, r, newExchange("last", ""), "w", "fine", nil)
		if n := r.rings["w"].failed.length; n != 2 {
			t.Errorf("%d that failed long ago are kept", n)
		}
	})
}

// TestADeathHasAskedForThem: then they need not be kept for it much longer.
func TestADeathHasAskedForThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRecorder(t, Options{Keep: 2})
		for i := range 5 {
			pass(t, r, newExchange(fmt.Sprint(i), ""), "w", "", errors.New("reset"))
		}
		kept := func(want int, when string) {
			t.Helper()
			pass(t, r, newExchange("fine", ""), "w", "", nil)
			if n := r.rings["w"].failed.length; n != want {
				t.Errorf("%d that failed are kept %s", n, when)
			}
		}
		time.Sleep(3 * time.Second)
		kept(5, "before")
		for range 2 { // whoever else asks
			if n := len(r.Suspects("w", time.Now())); n != 5 {
				t.Errorf("%d suspects", n)
			}
			kept(5, "at the death")
			time.Sleep(askedTime / 2)
		}
		kept(2, "afterwards")
	})
}
