package door

import (
	"testing"

	"github.com/hashicorp/go-hclog"

	"stoker/internal/steady"
)

// TestRemoveEndsOneListener: the others serve on, and the address is free.
func TestRemoveEndsOneListener(t *testing.T) {
	d := New(hclog.NewNullLogger())
	stays, goes := d.Add(listen(t, "127.0.0.1:0")), d.Add(listen(t, steady.Reserve(t, "127.0.0.1")))
	waitStays, waitGoes := serve(stays), serve(goes)
	if err := d.Remove(t.Context(), goes); err != nil {
		t.Fatal(err)
	}
	waitGoes()
	awaitRefusal(t, goes.Addr())
	if got := attempt(stays.Addr()); got != complete {
		t.Errorf("the other listener: %v", got)
	}
	if left := d.Listeners(); len(left) != 1 || left[0] != stays {
		t.Errorf("left: %v", left)
	}
	again := listen(t, goes.Addr().String())
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	waitStays()
}
