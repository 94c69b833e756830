package exchange

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestDepartureIsTheStartUnlessSomethingWasWaitedFor(t *testing.T) {
	cases := map[string]struct {
		change func(*Exchange)
		start  bool
	}{
		"all was here":        {func(*Exchange) {}, true},
		"the body was not":    {func(x *Exchange) { x.Here = false }, false},
		"it waited for place": {func(x *Exchange) { x.Record.Queued = 1 }, false},
		"it was tried before": {func(x *Exchange) { x.Record.Attempts = 2 }, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				x := Exchange{Here: true, Record: Record{Start: start, Attempts: 1}}
				time.Sleep(time.Second)
				c.change(&x)
				want := time.Now()
				if c.start {
					want = start
				}
				if got := x.Departure(); !got.Equal(want) {
					t.Errorf("%v after the start", got.Sub(start))
				}
			})
		})
	}
	if at := new(Exchange).Departure(); at.IsZero() {
		t.Error("without a start it is never")
	}
}

func TestTimeHoldsUntilAWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r Record
		came := time.Now()
		r.Hold(came)
		time.Sleep(time.Second)
		if got := r.Now(); !got.Equal(came) {
			t.Errorf("held: %v later", got.Sub(came))
		}
		r.Waits()
		if got := r.Now(); got.Sub(came) != time.Second {
			t.Errorf("after a wait: %v later", got.Sub(came))
		}
	})
}
