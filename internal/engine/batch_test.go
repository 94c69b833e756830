package engine

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// startBatch starts a batch inside a bubble.
func startBatch(t *testing.T, slots int, prefill, decode float64) *batch {
	t.Helper()
	b := newBatch(slots, prefill, decode)
	ctx, stop := context.WithCancel(context.Background())
	var runs sync.WaitGroup
	runs.Go(func() { b.run(ctx) })
	t.Cleanup(func() { stop(); runs.Wait() })
	return b
}

// finishSequence waits for all tokens of a sequence and says how long that took.
func finishSequence(t *testing.T, b *batch, s *sequence, tokens int) time.Duration {
	t.Helper()
	began := time.Now()
	for made := 0; made < tokens; {
		var err error
		if made, err = b.await(t.Context(), s, made); err != nil {
			t.Error(err)
			return 0
		}
	}
	return time.Since(began)
}

func TestTimeGrowsWithPromptAndLoad(t *testing.T) {
	for name, c := range map[string]struct {
		requests, prompt, tokens int
		want                     time.Duration // of the last one
	}{
		"alone":             {1, 100, 10, time.Second/10 + time.Second},
		"long prompt":       {1, 2000, 10, 2*time.Second + time.Second},
		"full batch":        {4, 100, 10, 4*time.Second/10 + 1750*time.Millisecond},
		"twice the slots":   {8, 100, 10, 2 * (4*time.Second/10 + 1750*time.Millisecond)},
		"prompts in pieces": {2, 1024, 1, 2048*time.Millisecond + 125*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := startBatch(t, 4, 1000, 10)
				var all sync.WaitGroup
				began := time.Now()
				for range c.requests {
					s := b.join(c.prompt, c.tokens)
					all.Go(func() { finishSequence(t, b, s, c.tokens); b.leave(s) })
				}
				all.Wait()
				took := time.Since(began)
				if took < c.want-c.want/10 || took > c.want+c.want/10 {
					t.Errorf("took %v, want about %v", took, c.want)
				}
				if running, waiting, most := b.load(); running+waiting != 0 || most != min(c.requests, 4) {
					t.Errorf("%d run, %d wait, at most %d ran", running, waiting, most)
				}
			})
		})
	}
}

// TestLeavingFreesTheSlotAtOnce: who waits behind a client that hung up does not
// wait for an answer that nobody reads.
func TestLeavingFreesTheSlotAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBatch(t, 1, 0, 10)
		endless := b.join(1, maxTokens)
		next := b.join(1, 1)
		ctx, hangUp := context.WithTimeout(t.Context(), time.Second)
		defer hangUp()
		for made, err := 0, error(nil); err == nil; {
			if made, err = b.await(ctx, endless, made); err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		if made := b.leave(endless); made < 9 || made > 11 {
			t.Errorf("%d tokens in a second, want about 10", made)
		}
		if took := finishSequence(t, b, next, 1); took > 200*time.Millisecond {
			t.Errorf("the next one took %v", took)
		}
	})
}

func TestFrozenBatchMakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := startBatch(t, 2, 0, 10)
		s := b.join(1, 100)
		finishSequence(t, b, s, 5)
		b.freeze()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if made, err := b.await(ctx, s, 5); err == nil {
			t.Errorf("%d tokens after it froze", made)
		}
	})
}
