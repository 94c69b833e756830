package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// weighingPool has ready members, and 1000 tokens weigh as one request.
func weighingPool(o PoolOptions, n int) (*Pool, []*Member) {
	o.PromptTokens, o.QueueLength, o.QueueTimeout = 1000, 10, time.Minute
	p := NewPool("chat", o)
	for i := range n {
		m := p.Add(string(rune('a'+i)), 1)
		m.Reset("unix:/nowhere")
		m.SetReady(true)
	}
	return p, p.members
}

func TestLongPromptsWeighMore(t *testing.T) {
	p, _ := weighingPool(PoolOptions{}, 2)
	get := func(tokens int) (*Member, int) {
		t.Helper()
		charged := -1
		m, err := p.Acquire(t.Context(), Want{Tokens: tokens, Charged: &charged})
		if err != nil {
			t.Fatal(err)
		}
		return m, charged
	}
	long, charged := get(100_000)
	if charged != 100_000 {
		t.Errorf("charged %d", charged)
	}
	short := 0
	for range 50 {
		if m, _ := get(10); m != long {
			short++
		}
	}
	if short != 50 {
		t.Errorf("%d of 50 short requests went where no long prompt is read", short)
	}
	long.Relieve(charged)
	for range 20 {
		if m, _ := get(10); m != long {
			t.Fatal("its prompt is read, and still it gets nothing")
		}
	}
}

func TestWhatIsHeldWeighsNothing(t *testing.T) {
	p, _ := weighingPool(PoolOptions{PrefixMemory: 1 << 20}, 3)
	m := prompted(t, p, promptOf(1, 20))
	charged := 0
	again, err := p.Acquire(t.Context(), Want{Prefix: promptOf(1, 20, 2, 5), Tokens: 25 * ChunkTokens, Charged: &charged})
	if err != nil || again != m || charged != 5*ChunkTokens {
		t.Errorf("%v, %v: charged %d", again, err, charged)
	}
}

// What was charged is taken off, whatever has changed meanwhile.
func TestNothingIsLeftOfAPrompt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := weighingPool(PoolOptions{MaxConcurrency: 1}, 1)
		first, waited := 0, 0
		m, err := p.Acquire(t.Context(), Want{Tokens: 5000, Charged: &first})
		if err != nil {
			t.Fatal(err)
		}
		granted := make(chan *Member)
		go func() {
			m, _ := p.Acquire(context.Background(), Want{Tokens: 7000, Charged: &waited})
			granted <- m
		}()
		synctest.Wait()
		m.Relieve(first)
		m.Release()
		if m := <-granted; m != members[0] || waited != 7000 || m.burden != 7000 {
			t.Errorf("%v was charged %d, who waited", m, waited)
		}
		o := p.options
		o.PromptTokens = 0
		p.SetOptions(o)
		members[0].Relieve(waited)
		members[0].Release()
		o.PromptTokens = 1000
		p.SetOptions(o)
		if b := members[0].burden; b != 0 || p.affinity.load != 0 {
			t.Errorf("%d tokens are left, %d in all", b, p.affinity.load)
		}
	})
}

func BenchmarkAcquireWeighed(b *testing.B) {
	for name, tokens := range map[string]int{"not weighed": 0, "weighed": 1000} {
		b.Run(name, func(b *testing.B) {
			p, _ := weighingPool(PoolOptions{}, 8)
			charged := 0
			want := Want{Tokens: tokens, Charged: &charged}
			b.ReportAllocs()
			for b.Loop() {
				m, err := p.Acquire(b.Context(), want)
				if err != nil {
					b.Fatal(err)
				}
				if charged > 0 {
					m.Relieve(charged)
				}
				m.Release()
			}
		})
	}
}
