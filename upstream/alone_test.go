package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// stage is a pool of named members for these tests.
type stage struct {
	t       *testing.T
	pool    *Pool
	members map[string]*Member
}

func newStage(t *testing.T, o PoolOptions, ready ...string) *stage {
	t.Helper()
	if o.QueueTimeout == 0 {
		o.QueueLength, o.QueueTimeout = 100, time.Minute
	}
	s := &stage{t: t, pool: NewPool("p", o), members: map[string]*Member{}}
	for _, name := range ready {
		s.members[name] = s.pool.Add(name, 1)
		s.members[name].SetReady(true)
	}
	return s
}

// busy gives a member so many requests.
func (s *stage) busy(name string, n int) {
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	for range n {
		s.pool.claim(s.members[name], nil, nil)
	}
}

// alone asks for a place, and delivers it.
func (s *stage) alone(want WantAlone) <-chan *Alone {
	got := make(chan *Alone, 1)
	go func() {
		a, err := s.pool.AcquireAlone(s.t.Context(), want)
		if err != nil {
			s.t.Errorf("alone: %v", err)
		}
		got <- a
	}()
	synctest.Wait()
	return got
}

// on is whom a place is on; empty: it waits.
func on(got <-chan *Alone) string {
	synctest.Wait()
	select {
	case a := <-got:
		return a.Name()
	default:
		return ""
	}
}

func (s *stage) picks(n int) map[string]int {
	s.t.Helper()
	picks := map[string]int{}
	for range n {
		m, err := s.pool.Acquire(s.t.Context(), Want{})
		if err != nil {
			s.t.Fatal(err)
		}
		picks[m.Name()]++
	}
	return picks
}

const patient = 3 * time.Second

func TestAloneTakesWhoIsIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a", "b", "c")
		s.busy("a", 2)
		s.busy("c", 1)
		got := <-s.alone(WantAlone{Patience: patient})
		if got.Name() != "b" {
			t.Fatalf("on %s", got.Name())
		}
		if picks := s.picks(10); picks["b"] > 0 {
			t.Errorf("others were put beside it: %v", picks)
		}
		got.Share()
		if picks := s.picks(5); picks["b"] != 5 {
			t.Errorf("after Share: %v", picks)
		}
		// It is still there: no second one comes beside it.
		if other := on(s.alone(WantAlone{})); other == "b" {
			t.Error("two suspects on one member")
		}
		got.Release()
	})
}

// TestAloneWaitsUntilOthersHaveFinished, for so long and no longer.
func TestAloneWaitsUntilOthersHaveFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{MaxConcurrency: 9}, "a", "b", "c", "d")
		for name, n := range map[string]int{"a": 2, "b": 1, "c": 3, "d": 3} {
			s.busy(name, n)
		}
		first := s.alone(WantAlone{Patience: patient})
		if name := on(first); name != "" {
			t.Fatalf("at once on %s, which is busy", name)
		}
		if picks := s.picks(3); picks["b"] > 0 {
			t.Errorf("others are put where it will be: %v", picks)
		}
		s.members["b"].Release()
		a := <-first
		if a.Name() != "b" {
			t.Errorf("on %s", a.Name())
		}
		began := time.Now()
		second := <-s.alone(WantAlone{Patience: patient})
		if time.Since(began) != patient || second.Name() == "b" {
			t.Errorf("on %s after %s", second.Name(), time.Since(began))
		}
		// Half of them are kept: the third waits.
		third := s.alone(WantAlone{Patience: patient})
		time.Sleep(2 * patient)
		if name := on(third); name != "" {
			t.Errorf("a third of four is kept: %s", name)
		}
		a.Release()
		if name := on(third); name != "b" {
			t.Errorf("then on %q", name)
		}
	})
}

// TestAloneGoesFirstOntoWhoComesBack, and leaves the one that serves alone.
func TestAloneGoesFirstOntoWhoComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{MaxConcurrency: 2}, "a", "b")
		s.members["b"].SetReady(false)
		s.members["b"].SetExpected(true)
		s.busy("a", 2)
		got := s.alone(WantAlone{Patience: patient})
		queued := make(chan string, 1)
		go func() {
			if m, err := s.pool.Acquire(t.Context(), Want{}); err == nil {
				queued <- m.Name()
			}
		}()
		time.Sleep(2 * patient)
		if name := on(got); name != "" {
			t.Fatalf("on %s, the last that serves", name)
		}
		s.members["b"].SetExpected(false)
		s.members["b"].SetReady(true)
		a := <-got
		if a.Name() != "b" || len(queued) > 0 {
			t.Errorf("on %s, %d from the queue went before", a.Name(), len(queued))
		}
		a.Release()
		synctest.Wait()
		if len(queued) != 1 {
			t.Error("the queue still waits")
		}
	})
}

// TestAloneIfShared goes beside others where nobody can be kept for it.
func TestAloneIfShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a", "b")
		s.members["b"].SetReady(false)
		s.members["b"].SetExpected(true)
		time.Sleep(settling)
		s.busy("a", 2)
		if name := on(s.alone(WantAlone{Shared: true})); name != "a" {
			t.Errorf("on %q", name)
		}
		s.members["b"].SetReady(true)
		if name := on(s.alone(WantAlone{Shared: true})); name != "b" {
			t.Errorf("with another: on %q", name)
		}
	})
}

func TestAloneOnTheOnlyMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a")
		got := <-s.alone(WantAlone{Patience: patient})
		served := make(chan bool, 1)
		go func() {
			m, err := s.pool.Acquire(t.Context(), Want{})
			served <- err == nil
			m.Release()
		}()
		synctest.Wait()
		if len(served) > 0 {
			t.Error("another beside it")
		}
		got.Release()
		if !<-served {
			t.Error("the queue is not served after it")
		}
	})
}

// TestAloneIsTold: every way out of the wait.
func TestAloneIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{QueueLength: 1, QueueTimeout: 10 * time.Second}, "a")
		s.members["a"].SetExpected(true)
		s.members["a"].SetReady(false)
		began := time.Now()
		if _, err := s.pool.AcquireAlone(t.Context(), WantAlone{}); !errors.Is(err, ErrNoneReady) || !errors.Is(err, ErrQueueTimeout) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		limited, cancel := context.WithTimeoutCause(t.Context(), time.Second, context.Canceled)
		defer cancel()
		if _, err := s.pool.AcquireAlone(limited, WantAlone{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		closed := make(chan error, 1)
		go func() {
			_, err := s.pool.AcquireAlone(t.Context(), WantAlone{})
			closed <- err
		}()
		synctest.Wait()
		s.pool.Close()
		if err := <-closed; !errors.Is(err, ErrPoolClosed) {
			t.Error(err)
		}
		if len(s.pool.lonely) != 0 {
			t.Error("somebody waits in a closed pool")
		}
	})
}

// TestWhoIsWaitedForMayDie: then another is waited for.
func TestWhoIsWaitedForMayDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a", "b", "c")
		s.busy("a", 1)
		s.busy("b", 2)
		s.busy("c", 2)
		got := s.alone(WantAlone{Patience: time.Hour})
		s.members["a"].SetReady(false)
		s.members["b"].Release()
		s.members["b"].Release()
		time.Sleep(settling)
		if name := on(got); name != "b" {
			t.Errorf("on %q", name)
		}
		s.members["a"].SetReady(true)
		if picks := s.picks(1); picks["a"] != 1 {
			t.Errorf("who came back is still kept: %v", picks)
		}
	})
}

// TestAloneWaitsForOthersThatDie: engines that are killed one after the other, each
// within moments of the one before, leave the pool before any of them gets who was
// on the first; nobody else is kept waiting.
func TestAloneWaitsForOthersThatDie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t, PoolOptions{}, "a", "b", "c", "d")
		s.members["a"].SetReady(false)
		began := time.Now()
		got := s.alone(WantAlone{Shared: true})
		for _, name := range []string{"b", "c"} {
			time.Sleep(settling - time.Millisecond)
			if name := on(got); name != "" {
				t.Fatalf("on %s, %v after the last has left", name, settling-time.Millisecond)
			}
			if picks := s.picks(1); picks["d"]+picks["c"]+picks["b"] != 1 {
				t.Errorf("who may be on any is on %v", picks)
			}
			s.members[name].SetReady(false)
		}
		if name := (<-got).Name(); name != "d" || time.Since(began) != 3*settling-2*time.Millisecond {
			t.Errorf("on %s after %v", name, time.Since(began))
		}
	})
}

func TestDeathIsToldOnce(t *testing.T) {
	s := newStage(t, PoolOptions{}, "a")
	told := 0
	s.pool.OnDeath(func(string, time.Time) { told++ })
	a := s.members["a"]
	a.Died(time.Now()) // nobody has served
	a.Reset("127.0.0.1:1")
	life := a.Life()
	a.Died(time.Now())
	a.Died(time.Now())
	select {
	case <-life.Over():
	default:
		t.Error("its life goes on")
	}
	a.Reset("127.0.0.1:1")
	if a.Life() == life || told != 1 {
		t.Errorf("told %d times", told)
	}
}
