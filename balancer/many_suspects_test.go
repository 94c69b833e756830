package balancer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// task is a request of these tests, and what an engine does with it.
type task struct {
	N int
	// First is when a stream's answer begins, 0 for what is no stream; Whole when it ends.
	First, Whole time.Duration
	// Kills is when the engine dies of it, KillsWithin at the latest if that is by chance.
	Kills, KillsWithin time.Duration
}

// perform is an engine's part. Nothing shows of a stream's first part while the
// engine is busy.
func (e *simEngine) perform(x *exchange.Exchange, sink exchange.Sink, dead chan struct{}) error {
	var t task
	if err := json.NewDecoder(x.Body).Decode(&t); err != nil {
		return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
	}
	began := time.Now()
	died := &upstream.Failure{Op: upstream.OpRead, Sent: true, Err: io.ErrUnexpectedEOF}
	lives := func(until time.Duration) bool {
		select {
		case <-dead:
			return false
		case <-time.After(time.Until(began.Add(until))):
			return true
		}
	}
	kills := t.Kills
	if t.KillsWithin > 0 {
		kills = time.Duration(1 + e.w.draw(int(t.KillsWithin)))
	}
	if kills > 0 {
		e.w.running.Go(func() {
			if lives(kills) {
				e.kill("poison")
			}
		})
	}
	if t.First > 0 {
		if !lives(t.First) {
			return died
		}
		_ = sink.Head(&http1.Response{Status: http.StatusOK}, -1)
		died.Begun = true
	}
	if !lives(t.Whole) {
		return died
	}
	if t.First == 0 {
		_ = sink.Head(&http1.Response{Status: http.StatusOK}, 0)
	}
	return sink.End(nil)
}

// TestManySuspectsOfOneDeath: the engines of a pool have thirty requests each when
// one dies, of a hand or of a request among them, which its client sends again. All
// others are answered without having to wait for each other's ends, and nobody is
// convicted for what another did.
//
// Two deaths are enough but where the second one broke streams that nobody may go on
// with: whether it was theirs no answer tells. Who kills by chance may cost more.
func TestManySuspectsOfOneDeath(t *testing.T) {
	const (
		each    = 30
		long    = 20 * time.Second
		patient = 60 * time.Second
	)
	innocents := map[string]task{
		"short": {Whole: time.Second}, "long": {Whole: long}, "streams": {First: 400 * time.Millisecond, Whole: long},
	}
	seeds := 6
	if raceEnabled || testing.Short() {
		seeds = 1
	}
	for _, tc := range []struct {
		by     string
		killer task
		deaths map[string]int // at most, by the innocents
		slow   bool           // thirty cannot all get as far as they were in the time that they may wait
	}{
		{by: "a hand"},
		{by: "poison", killer: task{Whole: patient, Kills: 50 * time.Millisecond}, deaths: map[string]int{"short": 2, "long": 2, "streams": 3}},
		{by: "poison in a stream", killer: task{First: 20 * time.Millisecond, Whole: patient, Kills: 40 * time.Millisecond}, deaths: map[string]int{"short": 2, "long": 2, "streams": 3}},
		{by: "poison, late", killer: task{First: 10 * time.Millisecond, Whole: patient, Kills: 4 * time.Second}, deaths: map[string]int{"short": 2, "long": 3, "streams": 3}, slow: true},
		{by: "poison, by chance", killer: task{Whole: patient, KillsWithin: 3 * time.Second}, deaths: map[string]int{"short": 6, "long": 6, "streams": 6}, slow: true},
	} {
		for kind, innocent := range innocents {
			for _, workers := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s, %s, %d", tc.by, kind, workers), func(t *testing.T) {
					for seed := range seeds {
						synctest.Test(t, func(t *testing.T) {
							s := manySuspects(t, uint64(seed), workers, workers*each, innocent, tc.killer)
							if s.convicted > 0 || s.statuses[http.StatusUnprocessableEntity] > 0 {
								t.Errorf("innocents convicted: %d, answered: %v", s.convicted, s.statuses)
							}
							if lost := s.lost(); lost > 0 && !tc.slow {
								t.Errorf("%d innocents had no answer: %v", lost, s.statuses)
							}
							if s.deaths > tc.deaths[kind] {
								t.Errorf("%d deaths of poison, which was answered %v", s.deaths, s.poison)
							}
							t.Logf("%d deaths of poison, answered %v, innocents %v, the last after %v", s.deaths, s.poison, s.statuses, s.last)
						})
					}
				})
			}
		}
	}
}

// many is what came of it.
type many struct {
	mu        sync.Mutex
	statuses  map[int]int // of innocents; 0: broken off
	poison    []int
	convicted int // innocents
	deaths    int
	last      time.Duration
}

// lost are innocents that were told that nobody could answer.
func (s *many) lost() int {
	return s.statuses[http.StatusBadGateway] + s.statuses[http.StatusServiceUnavailable] + s.statuses[http.StatusTooManyRequests]
}

func manySuspects(t *testing.T, seed uint64, workers, busy int, innocent, killer task) *many {
	t.Helper()
	w := newWorld(t, seed, workers, func(r *Rules) { r.QueueTimeout = time.Minute })
	w.tasks = true
	w.pool.SetOptions(upstream.PoolOptions{QueueLength: 1000, QueueTimeout: time.Minute})
	s := &many{statuses: map[int]int{}}
	send := func(k task) int {
		body, _ := json.Marshal(k)
		return w.ask(string(body))
	}
	var all sync.WaitGroup
	began := time.Now()
	for n := range busy {
		one := innocent
		one.N = n
		all.Go(func() {
			time.Sleep(time.Duration(w.draw(200)) * time.Millisecond)
			status := send(one)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.statuses[status]++
			s.last = max(s.last, time.Since(began))
		})
	}
	all.Go(func() {
		time.Sleep(time.Duration(w.draw(230)) * time.Millisecond)
		if killer == (task{}) {
			w.killAny()
			return
		}
		killer.N = -1
		for range 5 {
			s.poison = append(s.poison, send(killer))
			time.Sleep(100 * time.Millisecond)
		}
	})
	all.Wait()
	w.end()
	s.deaths = w.deaths["poison"]
	body, _ := json.Marshal(killer)
	for _, c := range w.court.List() {
		if c.Print != quarantine.Of("p", http.MethodPost, "/v1/chat/completions", body).Request {
			s.convicted++
		}
	}
	return s
}
