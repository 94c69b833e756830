package supervisor

import (
	"context"
	"regexp"
	"sync"
	"time"
)

// voices decide whose output is logged as it comes. The engines of a pool run the
// same program, and what one prints of why it cannot start the others print, too, as
// will each that follows it. So of those of a pool that are not ready one alone, the
// herald, is heard at once. The others are held back by their keepers, for limit at most:
//
//	it becomes ready              its output is passed on
//	it lives for limit            likewise, by its keeper
//	it dies, the first in a row   likewise, unless one of the pool's has just died
//	                              saying the same; then its line refers to that one
//	it dies again                 its output is in the report of its death alone
//
// At a death the herald is held back, too: it is about to say the same.
// One pool's voices are shared by its workers' goroutines.
type voices struct {
	limit time.Duration // 0: nobody is held back, since there are no reports that have it instead

	mu     sync.Mutex
	of     map[string]*voice // by worker, of those that are not ready
	herald string
	// gist of what was last said by one that died, and who was the first to say it.
	gist, by string
}

// voice is that of one engine.
type voice struct {
	engine engine // nil: none runs
	until  time.Time
}

// muted says whether what it says at that time is held back. Its keeper's clock for it
// starts a moment later than ours.
func (v *voice) muted(at time.Time) bool { return at.Before(v.until.Add(time.Second)) }

func newVoices(limit time.Duration) *voices {
	return &voices{limit: limit, of: make(map[string]*voice)}
}

// starts says for how long the output of a worker's next engine is to be held back.
func (v *voices) starts(worker string, diedBefore bool) time.Duration {
	if v.limit == 0 {
		return 0
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	next := &voice{}
	v.of[worker] = next
	if !diedBefore && (v.herald == "" || v.herald == worker) {
		v.herald = worker
		return 0
	}
	next.until = time.Now().Add(v.limit)
	return v.limit
}

// runs tells of the engine that was started.
func (v *voices) runs(worker string, e engine) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if mine := v.of[worker]; mine != nil {
		mine.engine = e
	}
}

// settles tells that a worker is ready, or ends: nothing of it is held back any more.
// It returns whose output is to be passed on, nil if none is held.
func (v *voices) settles(worker string) engine {
	v.mu.Lock()
	defer v.mu.Unlock()
	mine := v.of[worker]
	delete(v.of, worker)
	if v.herald == worker {
		v.herald = ""
	}
	if mine == nil || !mine.muted(time.Now()) {
		return nil
	}
	return mine.engine
}

// epitaph is how a dead engine's output is told of in the line of its death.
type epitaph struct {
	// unseen: it is in the report alone.
	unseen bool
	// like is the worker whose engine has just died saying the same, if not this one's.
	like string
}

// died tells of an engine that has died with that output, at that time, and is
// still its keeper's; first: of several in a row.
func (v *voices) died(ctx context.Context, worker string, tail []byte, at time.Time, first bool) epitaph {
	v.mu.Lock()
	said := gistOf(tail)
	same := said != "" && said == v.gist
	var e epitaph
	if same && v.by != worker {
		e.like = v.by
	}
	if !same {
		v.gist, v.by = said, worker
	}
	mine := v.of[worker]
	e.unseen = mine != nil && mine.muted(at)
	herald := v.muteHerald(worker)
	v.mu.Unlock()

	if herald != nil {
		_ = herald.Hold(ctx, v.limit) // else all is said twice
	}
	if e.unseen && first && !same && mine.engine != nil && mine.engine.Hold(ctx, 0) == nil {
		e.unseen = false
	}
	return e
}

// muteHerald is the engine that is to be held back from now on, too; nil: none.
// The lock is held.
func (v *voices) muteHerald(dead string) engine {
	other := v.of[v.herald]
	if other == nil || other.engine == nil || v.herald == dead || other.muted(time.Now()) {
		return nil
	}
	other.until = time.Now().Add(v.limit)
	return other.engine
}

// varies is a word in which engines of a pool differ, as do lives of one: names,
// numbers, times, addresses.
var varies = regexp.MustCompile(`[0-9A-Za-z]*[0-9][0-9A-Za-z]*`)

// gistOf is the end of an engine's output, without what varies.
func gistOf(tail []byte) string {
	return varies.ReplaceAllString(lastLines(string(tail), 4, 1000), "#")
}
