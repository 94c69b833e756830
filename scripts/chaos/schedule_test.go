package main

import (
	"slices"
	"testing"
	"time"
)

func TestSameSeedSameSchedule(t *testing.T) {
	o := options{seed: 7, round: time.Minute, pace: 100 * time.Millisecond}
	first := schedule(o, 3)
	if !slices.Equal(first, schedule(o, 3)) {
		t.Error("the same seed has two schedules")
	}
	if slices.Equal(first, schedule(o, 4)) {
		t.Error("two rounds are the same")
	}
	seen := make(map[kind]bool)
	for _, e := range schedule(o, 4) {
		seen[e.kind] = true
	}
	for i, e := range first {
		if slices.Contains(ofMasters, e.kind) {
			t.Errorf("%s in a round in which the master stays", e.kind)
		}
		seen[e.kind] = true
		if i > 0 && e.at < first[i-1].at || e.at >= o.round {
			t.Errorf("event %d at %v", i, e.at)
		}
	}
	for _, w := range weights {
		if !seen[w.kind] {
			t.Errorf("%s never happens in %d events", w.kind, len(first))
		}
	}
	o.seed++
	if slices.Equal(first, schedule(o, 3)) {
		t.Error("two seeds have one schedule")
	}
}

// TestLeavingKindsOutMovesNothing: a failure is narrowed down with -only.
func TestLeavingKindsOutMovesNothing(t *testing.T) {
	o := options{seed: 7, round: time.Minute, pace: 100 * time.Millisecond}
	all := schedule(o, 0)
	o.only = "kill-engine,upgrade"
	some := schedule(o, 0)
	if len(some) == 0 || len(some) == len(all) {
		t.Fatalf("%d of %d events", len(some), len(all))
	}
	for _, e := range some {
		if !slices.Contains(all, e) || e.kind != killEngine && e.kind != upgrade {
			t.Errorf("%v at %v", e, e.at)
		}
	}
}

func TestSameSeedSameRequests(t *testing.T) {
	draws := func(client int) (specs []spec) {
		c := newClient(nil, options{seed: 7}, client)
		for range 200 {
			specs = append(specs, c.next())
		}
		return specs
	}
	if !slices.Equal(draws(1), draws(1)) || slices.Equal(draws(1), draws(2)) {
		t.Error("requests do not follow from the seed and the client")
	}
}
