package traffic

import (
	"testing"
	"time"
)

// oneByOne gives everything to engine 0.
type oneByOne struct{ flying int }

func (o *oneByOne) Acquire(*Request) (int, bool) { o.flying++; return 0, true }
func (*oneByOne) First(*Request)                 {}
func (o *oneByOne) Release(int) (*Request, int, bool) {
	o.flying--
	return nil, 0, false
}

// What the package's comment says, in numbers.
func TestTimesToTheFirstToken(t *testing.T) {
	ms := time.Millisecond
	spec := Spec{Slowness: 1, StepBase: 10 * ms, PrefillToken: ms / 10, ContextToken: ms / 1000, StepTokens: 1000, MaxRunning: 2, KVTokens: 10_000}
	slow := spec
	slow.Slowness = 2
	small := spec
	small.KVTokens = 1000
	tests := []struct {
		name     string
		spec     Spec
		requests []Request
		want     []time.Duration // sorted
		cached   float64
	}{
		{"alone: one step", spec, []Request{{Prompt: 100, Answer: 5}}, []time.Duration{20 * ms}, 0},
		{"on a slow engine", slow, []Request{{Prompt: 100, Answer: 5}}, []time.Duration{40 * ms}, 0},
		{"a prompt of three steps", spec, []Request{{Prompt: 2500, Answer: 1}}, []time.Duration{280 * ms}, 0},
		{
			"two share a step", spec,
			[]Request{{Prompt: 100, Answer: 1}, {Prompt: 100, Answer: 1, Conversation: 1}},
			// The first step began before the second came.
			[]time.Duration{20 * ms, 40 * ms},
			0,
		},
		{
			"one that decodes makes a step longer", spec,
			[]Request{{Prompt: 1000, Answer: 2}, {At: 50 * ms, Prompt: 100, Answer: 1, Conversation: 1}},
			[]time.Duration{81 * ms, 110 * ms},
			0, // to 110, then 10 + 10 + 1 (the context of 1001: 1.001)
		},
		{
			"the third waits for a place", spec,
			[]Request{{Prompt: 100, Answer: 2}, {Prompt: 100, Answer: 1, Conversation: 1}, {Prompt: 100, Answer: 1, Conversation: 2}},
			[]time.Duration{20 * ms, 40101 * time.Microsecond, 60101 * time.Microsecond},
			0,
		},
		{
			"a conversation goes on", spec,
			[]Request{{Prompt: 100, Answer: 1}, {At: time.Second, Prompt: 201, History: 101, Answer: 1}},
			[]time.Duration{20 * ms, 20 * ms},
			101. / 301,
		},
		{
			"an application's system prompt", spec,
			[]Request{{Prompt: 600, System: 500, History: 500, Answer: 1}, {At: time.Second, Conversation: 1, Prompt: 600, System: 500, History: 500, Answer: 1}},
			[]time.Duration{20 * ms, 70 * ms},
			500. / 1200,
		},
		{
			"a conversation that is not held any more", small,
			[]Request{{Prompt: 100, Answer: 1}, {At: time.Second, Conversation: 1, Application: 1, Prompt: 990, Answer: 1}, {At: 2 * time.Second, Prompt: 201, History: 101, Answer: 1}},
			[]time.Duration{20 * ms, 30100 * time.Microsecond, 109 * ms},
			0,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			chooser := &oneByOne{}
			got := Run(tt.requests, []Spec{tt.spec}, chooser, 0)
			if len(got.First) != len(tt.want) || chooser.flying != 0 {
				t.Fatalf("%v, %d not given back", got.First, chooser.flying)
			}
			for i, want := range tt.want {
				if d := got.First[i] - want; d < -100*time.Microsecond || d > 100*time.Microsecond {
					t.Errorf("first tokens after %v, want %v", got.First, tt.want)
				}
			}
			if d := got.Cached - tt.cached; d < -1e-9 || d > 1e-9 {
				t.Errorf("%v cached, want %v", got.Cached, tt.cached)
			}
		})
	}
}

func TestDrawnLoadIsWhatItSays(t *testing.T) {
	l := Load{
		Conversations: 10, Turns: 4, Applications: 5, HotShare: 0.5, System: 100,
		Text: LogNormal{Median: 100, Sigma: 1.2, Max: 1e6}, Answer: LogNormal{Median: 50, Sigma: 1, Max: 1e6}, Pause: LogNormal{Median: 1, Sigma: 0.1, Max: 9},
	}
	all := l.Draw(1, 20*time.Minute)
	hot, tail, alone := 0, 0, map[int]int{}
	for i, r := range all {
		if i > 0 && r.At < all[i-1].At {
			t.Fatal("not in order")
		}
		if r.Application == 0 {
			hot++
		}
		if r.Prompt-r.History > 1600 {
			tail++
		}
		alone[r.Conversation]++
		if r.History < r.System || alone[r.Conversation] == 1 && r.History != r.System {
			t.Fatalf("%+v", r)
		}
	}
	within := func(what string, got, low, high float64) {
		if got < low || got > high {
			t.Errorf("%s: %.3f", what, got)
		}
	}
	n := float64(len(all))
	within("conversations per second", float64(len(alone))/1200, 9.5, 10.5)
	within("turns", n/float64(len(alone)), 3.7, 4.2)
	within("of the hot application", float64(hot)/n, .46, .54)
	within("over 16 times the median", float64(tail)/n, .008, .013)
}
