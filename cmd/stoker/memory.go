package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"stoker/supervisor/keeper"
)

const (
	// settled is when nothing of the start is needed any more.
	settled = 2 * time.Second
	// much is the memory, in bytes, of what lives and of goroutines' stacks, from
	// which on the collector lets little more pile up; below little it may double
	// again. Ten thousand open streams have 120 MiB, make no garbage while they
	// stream, and kept as much again of what their beginnings had left.
	much, little                 = 32 << 20, 24 << 20
	thriftyPercent, usualPercent = 30, 100
	// calm is how long after a collection there is one more if none has come by
	// itself, and what is free goes back to the kernel: what was left would else lie
	// there until others allocate as much again. At the beginning of a large crowd it
	// is soon, and again and again, since not all of it begins at once.
	calm, soon = 3 * time.Second, time.Second
	// part is a fiftieth: what differs by less is as it was.
	part = 50
)

// beLean keeps the master's memory near to what it needs, until stop is called.
func beLean() (stop func()) {
	start := time.AfterFunc(settled, keeper.Shed)
	t := &thrift{percent: usualPercent}
	t.again = time.AfterFunc(calm, t.shed)
	t.again.Stop()
	t.watch()
	return func() {
		start.Stop()
		t.again.Stop()
	}
}

// thrift is looked at after each collection.
type thrift struct {
	percent int
	again   *time.Timer
	mu      sync.Mutex // the runtime looks, the timer sheds
	seen    uint64     // collections that nobody had asked for
	// shedding has found so much last; 0: it has not begun.
	left uint64
	// crowd is how many goroutines there were when it had found nothing any more.
	crowd uint64
}

// watch has look called after the next collection, and each that follows.
func (t *thrift) watch() {
	runtime.SetFinalizer(&collected{t}, func(c *collected) {
		c.by.look()
		c.by.watch()
	})
}

// collected is garbage from the start on.
type collected struct{ by *thrift }

func (t *thrift) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := weigh()
	if percent := thrifty(t.percent, now.lives); percent != t.percent {
		t.percent = percent
		debug.SetGCPercent(percent)
	}
	if now.automatic != t.seen {
		t.left = 0
		if t.isNew(now.goroutines) {
			t.again.Reset(soon)
		} else {
			t.again.Reset(calm)
		}
	}
	t.seen = now.automatic
}

// isNew says whether there is a large crowd that was not there before. The lock is held.
func (t *thrift) isNew(crowd uint64) bool {
	return t.percent == thriftyPercent && crowd > t.crowd+t.crowd/part
}

// shed gives back what was left. Of a crowd that is new that is much: each stream
// leaves a buffer of 4 KiB to a pool, which lets go of it at the second collection
// from then on, and streams that are open allocate nothing that would bring one about.
func (t *thrift) shed() {
	crowd := weigh().goroutines
	t.mu.Lock()
	isNew := t.isNew(crowd)
	t.mu.Unlock()
	if isNew {
		runtime.GC()
		keeper.Shed() // which collects, too
	} else {
		debug.FreeOSMemory()
	}
	lives := weigh().lives
	t.mu.Lock()
	defer t.mu.Unlock()
	if !isNew || t.left != 0 && lives >= t.left-t.left/part {
		t.crowd = crowd
		return
	}
	t.left = lives
	t.again.Reset(soon)
}

// weight is what the runtime tells: how much lives, as the last collection has found,
// with goroutines' stacks; how many collections nobody has asked for.
type weight struct{ lives, automatic, goroutines uint64 }

func weigh() weight {
	samples := []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/gc/cycles/automatic:gc-cycles"},
		{Name: "/sched/goroutines:goroutines"},
	}
	metrics.Read(samples)
	return weight{samples[0].Value.Uint64() + samples[1].Value.Uint64(), samples[2].Value.Uint64(), samples[3].Value.Uint64()}
}

// thrifty is how much garbage, as a share of what lives, is let pile up.
func thrifty(now int, lives uint64) int {
	switch {
	case lives >= much:
		return thriftyPercent
	case lives < little:
		return usualPercent
	}
	return now
}
