package upstream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestManyAreTriedSoon: thirty wait for the only member, each stays for a minute,
// and passes soon. They come beside each other, one on trial at a time; where few
// wait, they are tried one by one.
func TestManyAreTriedSoon(t *testing.T) {
	for _, tc := range []struct {
		name          string
		waiting, room int
		takes, passes time.Duration // after it has begun
		all           time.Duration // have begun, at most
		together      int           // at most
	}{
		{"many that take long", 30, 0, time.Minute, 300 * time.Millisecond, 15 * time.Second, 30},
		{"many that never pass", 30, 0, time.Second, time.Hour, 30 * time.Second, 1},
		{"few that are short", 4, 0, 2 * time.Second, 100 * time.Millisecond, 8 * time.Second, 1},
		{"few that take long", 4, 0, time.Minute, 100 * time.Millisecond, 12 * time.Second, 4},
		{"no more than there is room for", 30, 3, 5 * time.Second, 100 * time.Millisecond, time.Minute, 3},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, PoolOptions{MaxConcurrency: tc.room, QueueLength: 100, QueueTimeout: time.Minute}, "a")
				var all sync.WaitGroup
				var mu sync.Mutex
				began, on, onTrial, together, last := time.Now(), 0, 0, 0, time.Duration(0)
				for range tc.waiting {
					all.Go(func() {
						a, err := s.pool.AcquireAlone(t.Context(), WantAlone{Patience: patient})
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						on++
						onTrial++
						together, last = max(together, on), max(last, time.Since(began))
						if onTrial > 1 {
							t.Errorf("%d on trial", onTrial)
						}
						mu.Unlock()
						time.Sleep(min(tc.passes, tc.takes))
						mu.Lock()
						onTrial-- // before others are let on
						mu.Unlock()
						if tc.passes < tc.takes {
							a.Pass()
							time.Sleep(tc.takes - tc.passes)
						}
						mu.Lock()
						on--
						mu.Unlock()
						a.Release()
					})
				}
				all.Wait()
				if last > tc.all || together > tc.together {
					t.Errorf("the last began after %v, and up to %d were together", last, together)
				}
				if m := s.members["a"]; m.alone.yielded != 0 || m.alone.trial != nil || m.alone.held {
					t.Errorf("left: %+v", m.alone)
				}
			})
		})
	}
}

// TestTheYoungestGoesFirst of those that wait.
func TestTheYoungestGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a")
		first := <-s.alone(WantAlone{Age: time.Hour})
		var waiting []<-chan *Alone
		for _, age := range []int{3, 1, 2, 1} {
			waiting = append(waiting, s.alone(WantAlone{Age: time.Duration(age)}))
		}
		first.Release()
		for _, next := range []int{1, 3, 2, 0} {
			synctest.Wait()
			select {
			case a := <-waiting[next]:
				a.Release()
			default:
				t.Fatalf("number %d is not next", next)
			}
		}
	})
}

// TestOthersGoBetweenSuspects: whoever waits for a member that one suspect has
// passed on is served before the next one is.
func TestOthersGoBetweenSuspects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a")
		first, second := <-s.alone(WantAlone{}), s.alone(WantAlone{})
		served := make(chan *Member, 1)
		go func() {
			m, err := s.pool.Acquire(t.Context(), Want{})
			if err != nil {
				t.Error(err)
			}
			served <- m
		}()
		time.Sleep(keptAtMost / 2)
		if len(served) > 0 {
			t.Fatal("beside the first, on trial")
		}
		first.Pass()
		time.Sleep(soonBegun)
		if len(served) == 0 || on(second) == "" {
			t.Fatal("somebody still waits")
		}
		if !first.HasYielded() {
			t.Error("the first has not yielded")
		}
		first.Share() // late: the member is kept for the second
		(<-served).Release()
		first.Release()
	})
}
