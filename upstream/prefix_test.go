package upstream

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// prefixPool has ready members, each with an engine.
func prefixPool(t *testing.T, percent, memory, n int) (*Pool, []*Member) {
	t.Helper()
	p := NewPool("chat", PoolOptions{AffinityLoad: percent, PrefixMemory: memory, QueueLength: 3})
	for i := range n {
		m := p.Add(fmt.Sprint("chat-", i), 1)
		m.Reset("unix:/nowhere")
		m.SetReady(true)
	}
	return p, p.members
}

// promptOf is a prompt of so many chunks of each number's.
func promptOf(parts ...int) Prefix {
	var p Prefix
	last := uint64(1)
	for i := 0; i < len(parts); i += 2 {
		for range parts[i+1] {
			last = mix(last ^ uint64(parts[i]))
			p = append(p, last)
		}
	}
	return p
}

func prompted(t *testing.T, p *Pool, prompt Prefix) *Member {
	t.Helper()
	m, err := p.Acquire(t.Context(), Want{Prefix: prompt})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestPromptsGoWhereTheirBeginningIs(t *testing.T) {
	p, members := prefixPool(t, 0, 1<<20, 4)
	at := map[int]*Member{}
	for c := range 40 {
		at[c] = prompted(t, p, promptOf(-1, 4, c, 10))
		at[c].Release()
	}
	for c := range 40 { // the next turns, in which the last chunk is another
		if m := prompted(t, p, promptOf(-1, 4, c, 9, 1000+c, 5)); m != at[c] {
			t.Errorf("conversation %d was at %s, and goes to %s", c, at[c].Name(), m.Name())
		} else {
			m.Release()
		}
	}
	// A prompt that only begins as all do goes to one of those who have that.
	before := p.Stats().Affinity
	prompted(t, p, promptOf(-1, 4, 99, 4)).Release()
	prompted(t, p, promptOf(-2, 4)).Release()
	if got := p.Stats().Affinity; got.Hits != before.Hits+1 || got.New != before.New+1 {
		t.Errorf("%+v, then %+v", before, got)
	}
	if members[0].InFlight() != 0 {
		t.Error("places were not given back")
	}
}

func TestNobodyHasMoreThanItsPartByPrompts(t *testing.T) {
	const n, each = 8, 50
	p, members := prefixPool(t, 125, 1<<20, n)
	for i := range n * each {
		prompted(t, p, promptOf(7, 30, i, 1)) // all begin alike
		total, most := 0, 0
		for _, m := range members {
			total, most = total+m.InFlight(), max(most, m.InFlight())
		}
		if bound := (total*125 + 100*n - 1) / (100 * n); most > bound {
			t.Fatalf("%d of %d requests are on one of %d members", most, total, n)
		}
	}
	if c := p.Stats().Affinity; c.Hits == 0 || c.Spilled == 0 || c.Hits < c.Spilled {
		t.Errorf("%+v", c)
	}
}

func TestAnEngineThatIsReplacedHoldsNothing(t *testing.T) {
	for name, replace := range map[string]func(*Pool, *Member){
		"another engine":    func(_ *Pool, m *Member) { m.Reset("unix:/elsewhere"); m.SetReady(true) },
		"nobody listens":    func(_ *Pool, m *Member) { m.Refused(); m.SetReady(true) },
		"it is taken out":   func(p *Pool, m *Member) { p.Remove(m) },
		"out, and refusing": func(p *Pool, m *Member) { p.Remove(m); m.Refused() },
	} {
		t.Run(name, func(t *testing.T) {
			p, _ := prefixPool(t, 0, 1<<20, 3)
			m := prompted(t, p, promptOf(1, 20))
			m.Release()
			if again := prompted(t, p, promptOf(1, 20)); again != m {
				t.Fatal("it is not known at all")
			}
			m.Release()
			replace(p, m)
			before := p.Stats().Affinity
			prompted(t, p, promptOf(1, 20))
			if got := p.Stats().Affinity; got.New != before.New+1 {
				t.Errorf("%+v, then %+v", before, got)
			}
			if len(p.prefixes.live) > len(p.members) {
				t.Errorf("%d holders for %d members", len(p.prefixes.live), len(p.members))
			}
		})
	}
}

func TestPromptsGoElsewhereMeanwhile(t *testing.T) {
	p, _ := prefixPool(t, 0, 1<<20, 3)
	m := prompted(t, p, promptOf(1, 20))
	m.Release()
	m.SetReady(false)
	other := prompted(t, p, promptOf(1, 19, 2, 5))
	other.Release()
	if other == m || p.Stats().Affinity.Moved != 1 {
		t.Fatalf("%s, %+v", other.Name(), p.Stats().Affinity)
	}
	m.SetReady(true) // as after a drain that was called off: its engine is the same
	if got := prompted(t, p, promptOf(1, 20)); got != m {
		t.Errorf("%s has the longer beginning, %s was asked", m.Name(), got.Name())
	}
	if got, err := p.Acquire(t.Context(), Want{Prefix: promptOf(1, 20), Avoid: m}); err != nil || got == m {
		t.Errorf("%v, %v: who has failed it is not to be avoided", got, err)
	}
}

// Memory is bounded, the latest prompts are known, and those long past are not.
func TestPromptsAreForgotten(t *testing.T) {
	const memory = 64 << 10 // of 4096 slots
	p, _ := prefixPool(t, 0, memory, 2)
	const prompts, chunks = 1000, 40
	for i := range prompts {
		prompted(t, p, promptOf(i, chunks)).Release()
	}
	if got := len(p.prefixes.slots) * prefixSlotSize; got != memory {
		t.Errorf("%d bytes are taken of %d", got, memory)
	}
	known := func(i int) bool {
		h := p.prefixes.find(promptOf(i, chunks))
		return h.n > 0 && h.chunks > chunks/2
	}
	for i := prompts - 50; i < prompts; i++ {
		if !known(i) {
			t.Errorf("prompt %d of %d is forgotten", i, prompts)
		}
	}
	for i := range 50 {
		if known(i) {
			t.Errorf("prompt %d of %d is known", i, prompts)
		}
	}
	o := p.options
	o.PrefixMemory = memory / 2
	p.SetOptions(o)
	prompted(t, p, promptOf(1, 1)).Release()
	if got := len(p.prefixes.slots) * prefixSlotSize; got != memory/2 {
		t.Errorf("%d bytes after less was allowed", got)
	}
}

// A beginning that everybody has does not drive out what only one has.
func TestOneBeginningDoesNotFillTheTable(t *testing.T) {
	p, members := prefixPool(t, 0, 1<<20, 20)
	shared := promptOf(5, 3)
	for _, m := range members {
		p.prefixes.note(shared, m.holder.Load(), 1<<20)
	}
	held := 0
	for _, s := range p.prefixes.slots {
		if s.entry == shared[0] && s.holder != 0 {
			held++
		}
	}
	if held != prefixHolders {
		t.Errorf("%d slots are one beginning's", held)
	}
	if h := p.prefixes.find(shared); h.n != prefixHolders || h.members[0] == h.members[1] {
		t.Errorf("%+v", h)
	}
}

func BenchmarkAcquireByPrefix(b *testing.B) {
	for _, chunks := range []int{8, 80, 2048} { // of 500, 5000 and 130 000 tokens
		b.Run(fmt.Sprint(chunks, " chunks"), func(b *testing.B) {
			p := NewPool("chat", PoolOptions{AffinityLoad: 125, PrefixMemory: 4 << 20})
			for i := range 8 {
				m := p.Add(fmt.Sprint("chat-", i), 1)
				m.Reset("unix:/nowhere")
				m.SetReady(true)
			}
			r := rand.New(rand.NewPCG(1, 2))
			prompts := make([]Prefix, 64)
			for i := range prompts {
				prompts[i] = promptOf(i, chunks)
			}
			b.ReportAllocs()
			for b.Loop() {
				m, err := p.Acquire(b.Context(), Want{Prefix: prompts[r.IntN(len(prompts))]})
				if err != nil {
					b.Fatal(err)
				}
				m.Release()
			}
		})
	}
}
