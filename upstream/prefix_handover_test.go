package upstream

import (
	"encoding/json"
	"testing"
)

// handOver gives one pool's table to another, over JSON, as far as members have
// the same engines.
func handOver(t *testing.T, from, to *Pool, same ...string) (parts int) {
	t.Helper()
	holders := map[string]uint32{}
	for _, name := range same {
		holders[name] = to.Holders()[name]
	}
	for next := 0; next >= 0; parts++ {
		var told Prompts
		told, next = from.TellPrompts(next)
		text, err := json.Marshal(told)
		if err != nil {
			t.Fatal(err)
		}
		var heard Prompts
		if err := json.Unmarshal(text, &heard); err != nil {
			t.Fatal(err)
		}
		to.HearPrompts(heard, holders)
	}
	return parts
}

func TestPromptsAreHandedOver(t *testing.T) {
	old, members := prefixPool(t, 0, 1<<20, 4)
	at := map[int]string{}
	for c := range 40 {
		m := prompted(t, old, promptOf(-1, 4, c, 10))
		at[c] = m.Name()
		m.Release()
	}
	old.Remove(members[3]) // nobody shall hear of it any more
	fresh, _ := prefixPool(t, 0, 1<<20, 4)
	if parts := handOver(t, old, fresh, "chat-0", "chat-1", "chat-3"); parts != 4 {
		t.Errorf("%d parts of 65536 slots", parts)
	}
	known := 0
	for c := range 40 {
		h := fresh.prefixes.find(promptOf(-1, 4, c, 10))
		switch {
		case at[c] == "chat-2" || at[c] == "chat-3": // of another engine, or of nobody
			if h.chunks > 4 {
				t.Errorf("conversation %d is known from %s", c, at[c])
			}
		case h.n != 1 || h.chunks != 14 || h.members[0].Name() != at[c]:
			t.Errorf("conversation %d was at %s: %+v", c, at[c], h)
		default:
			known++
		}
	}
	if known < 10 {
		t.Errorf("only %d are known", known)
	}
}

// What a process has come to know by itself is newer than all that it is told,
// and of that the older is forgotten first, in a smaller table too.
func TestWhatIsHandedOverIsOlder(t *testing.T) {
	const memory, chunks = 64 << 10, 40 // of 4096 slots
	old, _ := prefixPool(t, 0, 2*memory, 2)
	for i := range 120 {
		prompted(t, old, promptOf(i, chunks)).Release()
	}
	fresh, _ := prefixPool(t, 0, memory, 2)
	for i := 1000; i < 1050; i++ {
		prompted(t, fresh, promptOf(i, chunks)).Release()
	}
	handOver(t, old, fresh, "chat-0", "chat-1")
	known := func(i int) bool { return fresh.prefixes.find(promptOf(i, chunks)).chunks > chunks-4 }
	for i := 1000; i < 1050; i++ {
		if !known(i) {
			t.Errorf("its own prompt %d is forgotten", i)
		}
	}
	late, early := 0, 0
	for i := range 40 {
		if known(i) {
			early++
		}
		if known(119 - i) {
			late++
		}
	}
	if late < 20 || early > late/2 {
		t.Errorf("of 40 each %d of the last are known, %d of the first", late, early)
	}
	if got := len(fresh.prefixes.slots) * prefixSlotSize; got != memory {
		t.Errorf("%d bytes", got)
	}
}

// An engine that is replaced while it is told of it holds nothing.
func TestHandoverToAnotherLife(t *testing.T) {
	old, _ := prefixPool(t, 0, 1<<20, 1)
	prompted(t, old, promptOf(1, 20)).Release()
	fresh, members := prefixPool(t, 0, 1<<20, 1)
	holders := fresh.Holders()
	members[0].Reset("unix:/elsewhere")
	told, _ := old.TellPrompts(0)
	fresh.HearPrompts(told, holders)
	fresh.HearPrompts(Prompts{Members: []string{"chat-0"}, Entries: []byte("not whole")}, fresh.Holders())
	fresh.HearPrompts(Prompts{Entries: make([]byte, 10*promptSize)}, fresh.Holders())
	for next := 0; next >= 0; {
		told, next = fresh.TellPrompts(next)
		if len(told.Entries) > 0 {
			t.Errorf("%d bytes are known", len(told.Entries))
		}
	}
}
