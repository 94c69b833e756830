package upstream

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestSuspectsDoNotStarveOthers: the only engine was killed with thirty requests
// on it. While they were tried one by one, alone, for a minute nobody else was
// served, and who came later was told 429.
func TestSuspectsDoNotStarveOthers(t *testing.T) {
	for _, takes := range []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, time.Minute} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t, PoolOptions{}, "a")
				s.members["a"].SetReady(false)
				s.members["a"].SetExpected(true)
				var all sync.WaitGroup
				var mu sync.Mutex
				suspects, together, tried := 0, 0, 0
				for range 30 {
					all.Go(func() {
						a, err := s.pool.AcquireAlone(t.Context(), WantAlone{Patience: patient})
						if err != nil {
							return // the queue's time-out
						}
						mu.Lock()
						suspects++
						tried++
						together = max(together, suspects)
						mu.Unlock()
						time.Sleep(takes)
						mu.Lock()
						suspects--
						mu.Unlock()
						a.Release()
					})
				}
				time.Sleep(time.Second)
				s.members["a"].SetReady(true)
				longest := time.Duration(0)
				for range 200 {
					all.Go(func() {
						began := time.Now()
						m, err := s.pool.Acquire(t.Context(), Want{})
						if err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						longest = max(longest, time.Since(began))
						mu.Unlock()
						time.Sleep(200 * time.Millisecond)
						m.Release()
					})
					time.Sleep(250 * time.Millisecond)
				}
				all.Wait()
				if longest > keptAtMost {
					t.Errorf("others waited for up to %v", longest)
				}
				if together != 1 || tried < min(30, int(50*time.Second/takes)) {
					t.Errorf("%d suspects were tried, up to %d at a time", tried, together)
				}
			})
		})
	}
}

// TestOthersAreServedWhenTheirsDies: one of two is kept for a suspect, and the
// other, which served everybody else, dies.
func TestOthersAreServedWhenTheirsDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{MaxConcurrency: 2}, "a", "b")
		a := <-s.alone(WantAlone{Patience: patient})
		other := map[string]string{"a": "b", "b": "a"}[a.Name()]
		s.busy(other, 2)
		got := make(chan string, 1)
		go func() {
			if m, err := s.pool.Acquire(t.Context(), Want{}); err == nil {
				got <- m.Name()
			}
		}()
		time.Sleep(10 * time.Second)
		if len(got) > 0 {
			t.Fatal("beside the suspect, though another serves")
		}
		s.members[other].SetReady(false)
		synctest.Wait()
		if len(got) == 0 {
			t.Fatal("others wait for the suspect's end")
		}
		a.Release()
	})
}
