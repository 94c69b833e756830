package supervisor

import (
	"context"
	"slices"
	"testing"
	"time"
)

// TestVoices: four engines that cannot start say so once, whoever is first; one that
// says something else is heard, too.
func TestVoices(t *testing.T) {
	const limit = 5 * time.Second
	v := newVoices(limit)
	engines := map[string]*fakeEngine{}
	start := func(worker string, again bool, want time.Duration) {
		t.Helper()
		if got := v.starts(worker, again); got != want {
			t.Errorf("%s is held back for %v, want %v", worker, got, want)
		}
		engines[worker] = &fakeEngine{}
		v.runs(worker, engines[worker])
	}
	die := func(worker, tail string, first bool, want epitaph) {
		t.Helper()
		if got := v.died(context.Background(), worker, []byte(tail), time.Now(), first); got != want {
			t.Errorf("%s: %+v, want %+v", worker, got, want)
		}
	}
	holds := func(worker string, want ...time.Duration) {
		t.Helper()
		if got := engines[worker].holds; !slices.Equal(got, want) {
			t.Errorf("%s was told to hold %v, want %v", worker, got, want)
		}
	}
	start("w-0", false, 0)
	start("w-1", false, limit)
	start("w-2", false, limit)
	start("w-3", false, limit)

	die("w-1", "pid 4711\nno such model\n", true, epitaph{}) // passed on, and w-0 is about to say the same
	holds("w-1", 0)
	holds("w-0", limit)
	die("w-0", "pid 4712\nno such model\n", true, epitaph{unseen: true, like: "w-1"})
	holds("w-0", limit)
	die("w-2", "pid 4713\nout of memory\n", true, epitaph{})
	holds("w-2", 0)
	die("w-3", "pid 4714\nout of memory\n", true, epitaph{unseen: true, like: "w-2"})
	start("w-3", true, limit)
	die("w-3", "pid 4715\nout of memory\n", false, epitaph{unseen: true, like: "w-2"}) // not w-3, of whom nothing was shown

	start("w-1", true, limit)
	die("w-1", "something new\n", false, epitaph{unseen: true})
	holds("w-1")

	// One becomes ready, and what it said is passed on.
	start("w-0", true, limit)
	if got := v.settles("w-0"); got != engine(engines["w-0"]) {
		t.Errorf("%v is to be heard", got)
	}
	start("w-0", false, 0)
	if got := v.settles("w-0"); got != nil {
		t.Errorf("%v is to be heard, which was not held back", got)
	}
	start("w-2", false, 0) // nobody else is heard now
	if other := newVoices(0); other.starts("w", true) != 0 {
		t.Error("held back, though there is no report that would have it")
	}
}

func TestGist(t *testing.T) {
	for _, c := range []struct{ one, other string }{
		{"at 12:03:04.5 [chat-0] pid 17: no such model\n", "at 12:03:05.1 [chat-1] pid 2004: no such model"},
		{"address 0x7f3a10\n", "address 0x7f3b2c00"},
		{"\x1b[31mred\x1b[0m", "\x1b[32mred\x1b[0m"},
	} {
		if a, b := gistOf([]byte(c.one)), gistOf([]byte(c.other)); a != b {
			t.Errorf("%q and %q", a, b)
		}
	}
	if a, b := gistOf([]byte("no such model")), gistOf([]byte("no such file")); a == b {
		t.Errorf("%q", a)
	}
}
