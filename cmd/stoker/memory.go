package main

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
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
	// itself, and what is free goes back to the kernel: what a crowd has left would
	// else lie there until others allocate as much again.
	calm = 3 * time.Second
)

// beLean keeps the master's memory near to what it needs, until stop is called.
func beLean() (stop func()) {
	start := time.AfterFunc(settled, keeper.Shed)
	t := &thrift{percent: usualPercent, samples: []metrics.Sample{
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
	}}
	t.again = time.AfterFunc(calm, func() {
		t.asked.Store(true)
		debug.FreeOSMemory()
	})
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
	samples []metrics.Sample
	again   *time.Timer
	asked   atomic.Bool // for the collection that is going on
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
	metrics.Read(t.samples)
	lives := uint64(0)
	for _, s := range t.samples {
		lives += s.Value.Uint64()
	}
	if percent := thrifty(t.percent, lives); percent != t.percent {
		t.percent = percent
		debug.SetGCPercent(percent)
	}
	if asked := t.asked.Swap(false); !asked {
		t.again.Reset(calm)
	}
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
