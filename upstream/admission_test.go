package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMaxConcurrencyKeepsTheOthersWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("chat", PoolOptions{MaxConcurrency: 2, QueueLength: 10, QueueTimeout: time.Minute})
		members := []*Member{p.Add("chat-0", 1), p.Add("chat-1", 1)}
		for _, m := range members {
			m.SetReady(true)
		}
		for range 4 {
			mustAcquire(t, p, nil)
		}
		got := make(chan *Member)
		go func() {
			m, err := p.Acquire(t.Context(), Want{Avoid: members[1]})
			if err != nil {
				t.Error(err)
			}
			got <- m
		}()
		synctest.Wait()
		if s := p.Stats(); s.Queued != 1 || s.Members[0].InFlight != 2 || s.Members[1].InFlight != 2 {
			t.Errorf("full: %+v", s)
		}
		members[1].Release()
		if m := <-got; m != members[1] {
			t.Errorf("got %s, and chat-1 was the one with a place", m.Name())
		}
	})
}

func TestSetOptionsServesWhomTheNewLimitLetsIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := PoolOptions{MaxConcurrency: 1, QueueLength: 10, QueueTimeout: time.Minute}
		p := NewPool("chat", o)
		m := p.Add("chat-0", 1)
		m.SetReady(true)
		var served sync.WaitGroup
		for range 4 {
			served.Go(func() {
				if _, err := p.Acquire(t.Context(), Want{}); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if m.InFlight() != 1 {
			t.Errorf("%d in flight with a limit of 1", m.InFlight())
		}
		o.MaxConcurrency, o.Policy = 0, RoundRobin
		p.SetOptions(o)
		served.Wait()
		o.MaxConcurrency, o.QueueLength = 1, 0
		p.SetOptions(o)
		if _, err := p.Acquire(t.Context(), Want{}); !errors.Is(err, ErrQueueFull) {
			t.Errorf("4 in flight, a limit of 1 and no queue: %v", err)
		}
	})
}

// outcome of a request that waited.
type outcome struct {
	name string
	err  error
}

func TestQueueServesByPriorityThenByAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("chat", PoolOptions{MaxConcurrency: 1, QueueLength: 4, QueueTimeout: time.Minute})
		m := p.Add("chat-0", 1)
		m.SetReady(true)
		mustAcquire(t, p, nil)
		ended := make(chan outcome, 16)
		enter := func(name string, priority int) {
			go func() {
				_, err := p.Acquire(t.Context(), Want{Priority: priority})
				ended <- outcome{name, err}
			}()
			synctest.Wait()
		}
		enter("low", -3)
		enter("first", 0)
		enter("second", 0)
		enter("lower", -40) // as low as there is
		// The queue is full: equals are refused, the better takes the place of the worst.
		enter("late", -9)
		enter("high", 90)
		enter("third", 0)
		enter("fourth", 0)
		want := []outcome{{"late", ErrQueueFull}, {"lower", ErrQueueFull}, {"low", ErrQueueFull}, {"fourth", ErrQueueFull}}
		for range 4 {
			m.Release()
			synctest.Wait()
		}
		for _, name := range []string{"high", "first", "second", "third"} {
			want = append(want, outcome{name, nil})
		}
		close(ended)
		var got []outcome
		for o := range ended {
			got = append(got, o)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	})
}

// What an operator expects while nobody is ready: whoever starts a model has
// requests wait while it loads, whoever has a crash loop has them refused.
func TestNobodyIsKeptWaitingForNobody(t *testing.T) {
	const patience = time.Minute
	tests := []struct {
		name string
		// before happens to the only member, and then a request comes.
		before func(m *Member)
		want   error
		after  time.Duration
	}{
		{"the master has just begun", func(*Member) {}, ErrQueueTimeout, patience},
		{"a model loads for long", func(m *Member) {
			m.SetExpected(true)
			time.Sleep(20 * patience)
		}, ErrQueueTimeout, patience},
		{"it is ready just in time", func(m *Member) {
			m.SetExpected(true)
			time.Sleep(20 * patience)
			time.AfterFunc(patience/2, func() { m.SetReady(true) })
		}, nil, patience / 2},
		{"engines die at start, for less than the time-out", func(*Member) { time.Sleep(patience - 1) }, ErrQueueTimeout, patience},
		{"engines die at start, for longer", func(*Member) { time.Sleep(patience) }, ErrNoneReady, 0},
		{"the one that served died a moment ago", func(m *Member) {
			m.SetReady(true)
			time.Sleep(20 * patience)
			m.SetReady(false)
		}, ErrQueueTimeout, patience},
		{"it died and the next ones too", func(m *Member) {
			m.SetReady(true)
			m.SetReady(false)
			m.SetExpected(true)
			time.Sleep(20 * patience)
			m.SetExpected(false)
		}, ErrNoneReady, 0},
		{"it left for good", func(m *Member) {
			m.SetReady(true)
			m.SetExpected(true)
			m.Pool().Remove(m)
			m.SetReady(true)
			m.SetExpected(true)
			time.Sleep(patience)
		}, ErrNoneReady, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewPool("chat", PoolOptions{QueueLength: 3, QueueTimeout: patience})
				tt.before(p.Add("chat-0", 1))
				start := time.Now()
				_, err := p.Acquire(t.Context(), Want{})
				if !errors.Is(err, tt.want) || time.Since(start) != tt.after {
					t.Errorf("%v after %v, want %v after %v", err, time.Since(start), tt.want, tt.after)
				}
				if err != nil && !errors.Is(err, ErrNoneReady) {
					t.Errorf("%v does not say that nobody is ready", err)
				}
			})
		})
	}
}

// Four times as many requests come as can be served. All the capacity is used,
// the answered are answered within the queue's time-out and two services, and
// the others are told so within the time-out.
func TestOverload(t *testing.T) {
	const (
		members, limit = 4, 4
		service        = time.Second
		patience       = 5 * time.Second
		offered        = 4 * members * limit // a second
		length         = time.Minute
	)
	for _, tt := range []struct {
		name  string
		queue int
		full  bool // most are refused at once rather than after waiting
	}{
		{"a short queue refuses at once", members * limit, true},
		{"a long queue refuses by time", 1 << 20, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := NewPool("chat", PoolOptions{MaxConcurrency: limit, QueueLength: tt.queue, QueueTimeout: patience})
				for i := range members {
					p.Add(fmt.Sprint("chat-", i), 1).SetReady(true)
				}
				var mu sync.Mutex
				var answered, refused []time.Duration
				atOnce := 0
				var all sync.WaitGroup
				for range int(length.Seconds()) * offered {
					all.Go(func() {
						start := time.Now()
						m, err := p.Acquire(t.Context(), Want{})
						if err == nil {
							time.Sleep(service)
							m.Release()
						}
						mu.Lock()
						defer mu.Unlock()
						switch took := time.Since(start); {
						case err == nil:
							answered = append(answered, took)
						case errors.Is(err, ErrQueueFull) || errors.Is(err, ErrQueueTimeout):
							refused = append(refused, took)
							if took == 0 {
								atOnce++
							}
						default:
							t.Error(err)
						}
					})
					time.Sleep(time.Second / offered)
				}
				all.Wait()
				if could := members * limit * int(length/service); len(answered) < could*99/100 {
					t.Errorf("%d were answered, capacity is %d", len(answered), could)
				}
				slices.Sort(answered)
				if p99 := answered[len(answered)*99/100]; p99 > patience+2*service {
					t.Errorf("p99 of the answered is %v", p99)
				}
				if longest := slices.Max(refused); longest > patience {
					t.Errorf("a request was refused after %v", longest)
				}
				if full := atOnce > len(refused)/2; full != tt.full {
					t.Errorf("%d of %d refusals were at once", atOnce, len(refused))
				}
				t.Logf("answered %d, p50 %v, p99 %v; refused %d, %d at once", len(answered),
					answered[len(answered)/2], answered[len(answered)*99/100], len(refused), atOnce)
			})
		})
	}
}

// A hundred requests hang up while they wait; the places behind them move up.
func TestPlacesOfThoseWhoLeaveAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("chat", PoolOptions{MaxConcurrency: 1, QueueLength: 101, QueueTimeout: time.Minute})
		m := p.Add("chat-0", 1)
		m.SetReady(true)
		mustAcquire(t, p, nil)
		errGone := errors.New("gone")
		ctx, hangUp := context.WithCancelCause(t.Context())
		var left sync.WaitGroup
		for range 100 {
			left.Go(func() {
				if _, err := p.Acquire(ctx, Want{}); !errors.Is(err, errGone) {
					t.Errorf("who hangs up gets %v", err)
				}
			})
		}
		synctest.Wait()
		var stays sync.WaitGroup
		stays.Go(func() { mustAcquire(t, p, nil) })
		synctest.Wait()
		hangUp(errGone)
		left.Wait()
		m.Release()
		stays.Wait()
		if s := p.Stats(); s.Queued != 0 || m.InFlight() != 1 {
			t.Errorf("queued %d, in flight %d", s.Queued, m.InFlight())
		}
	})
}
