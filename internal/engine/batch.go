package engine

import (
	"context"
	"slices"
	"sync"
	"time"
)

// promptPerStep bounds the prompt tokens that one step takes in, so that a long
// prompt slows the others down instead of stopping them.
const promptPerStep = 512

// longestCatchUp is how far steps may be behind their schedule.
const longestCatchUp = 50 * time.Millisecond

// batch is the engine's clock: it says when each request has its next token.
// One goroutine, run, makes the steps; requests join and leave at any time.
type batch struct {
	slots   int
	prefill float64 // prompt tokens per second, 0: instantly
	decode  float64 // steps per second, 0: instantly

	wake chan struct{} // one token: there may be work

	mu      sync.Mutex
	running []*sequence
	waiting []*sequence
	frozen  bool
	most    int // that ever ran at once
	tokens  int // that were ever made
}

// sequence is one request's place in the batch. Its fields are the batch's,
// under its lock.
type sequence struct {
	prompt int // tokens still to take in
	left   int // tokens still to generate
	made   int
	// more holds a token when made has grown.
	more chan struct{}

	chunk int // prompt tokens that the current step takes in
	turn  bool
}

func newBatch(slots int, prefill, decode float64) *batch {
	return &batch{slots: slots, prefill: prefill, decode: decode, wake: make(chan struct{}, 1)}
}

// join queues a request with so many prompt tokens for so many tokens.
func (b *batch) join(prompt, tokens int) *sequence {
	s := &sequence{prompt: prompt, left: tokens, more: make(chan struct{}, 1)}
	b.mu.Lock()
	b.waiting = append(b.waiting, s)
	b.mu.Unlock()
	b.rouse()
	return s
}

// leave takes a request out, whether it has everything or gave up. It returns
// how many tokens were generated.
func (b *batch) leave(s *sequence) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running = slices.DeleteFunc(b.running, func(o *sequence) bool { return o == s })
	b.waiting = slices.DeleteFunc(b.waiting, func(o *sequence) bool { return o == s })
	return s.made
}

// await returns how many tokens there are once there are more than seen.
func (b *batch) await(ctx context.Context, s *sequence, seen int) (int, error) {
	for {
		b.mu.Lock()
		made := s.made
		b.mu.Unlock()
		if made > seen {
			return made, nil
		}
		select {
		case <-ctx.Done():
			return made, ctx.Err()
		case <-s.more:
		}
	}
}

// freeze stops all steps for ever.
func (b *batch) freeze() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.frozen = true
}

// load is how many requests run and wait, and the most that ever ran at once.
func (b *batch) load() (running, waiting, most int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.running), len(b.waiting), b.most
}

// generated is how many tokens were ever made, as it goes.
func (b *batch) generated() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tokens
}

func (b *batch) rouse() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run makes steps until ctx ends.
func (b *batch) run(ctx context.Context) {
	due := time.Now()
	for ctx.Err() == nil {
		takes, work := b.begin()
		if !work {
			select {
			case <-ctx.Done():
				return
			case <-b.wake:
				due = time.Now()
			}
			continue
		}
		// Steps follow each other on schedule, so that the timer's coarseness
		// does not add up; but what a stalled machine missed is not made up for.
		due = due.Add(takes)
		if late := time.Since(due); late > longestCatchUp {
			due = due.Add(late)
		}
		if !sleepUntil(ctx, due) {
			return
		}
		b.end()
	}
}

// begin plans a step over whoever runs now, and says how long it takes.
func (b *batch) begin() (takes time.Duration, work bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	free := min(b.slots-len(b.running), len(b.waiting))
	b.running = append(b.running, b.waiting[:free]...)
	b.waiting = slices.Delete(b.waiting, 0, free)
	b.most = max(b.most, len(b.running))
	if b.frozen || len(b.running) == 0 {
		return 0, false
	}
	decoding, prompts := 0, 0
	for _, s := range b.running {
		s.turn = s.prompt == 0
		s.chunk = min(s.prompt, promptPerStep-prompts)
		prompts += s.chunk
		if s.turn {
			decoding++
		}
	}
	return b.duration(decoding, prompts), true
}

func (b *batch) duration(decoding, prompts int) time.Duration {
	seconds := 0.0
	if decoding > 0 && b.decode > 0 {
		seconds = (1 + float64(decoding-1)/float64(b.slots)) / b.decode
	}
	if prompts > 0 && b.prefill > 0 {
		seconds += float64(prompts) / b.prefill
	}
	return time.Duration(seconds * float64(time.Second))
}

// end gives those that were in the step what it made.
func (b *batch) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.frozen {
		return
	}
	b.running = slices.DeleteFunc(b.running, func(s *sequence) bool {
		s.prompt -= s.chunk
		if !s.turn {
			return false
		}
		s.made++
		s.left--
		b.tokens++
		select {
		case s.more <- struct{}{}:
		default:
		}
		return s.left <= 0
	})
}

func sleepUntil(ctx context.Context, due time.Time) bool {
	d := time.Until(due)
	if d <= 0 {
		return true
	}
	return sleep(ctx, d)
}

// sleep waits d and tells whether ctx still goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
