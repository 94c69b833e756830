package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestOptionsChangeWhileItServes: each option holds for the next request, and
// none is lost that was there before.
func TestOptionsChangeWhileItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := NewPool("p", PoolOptions{QueueLength: 2, QueueTimeout: time.Minute})
		a, b := p.Add("a", 1), p.Add("b", 1)
		waits := func() <-chan error {
			done := make(chan error, 1)
			go func() {
				m, err := p.Acquire(context.Background(), Want{})
				if m != nil {
					m.Release()
				}
				done <- err
			}()
			synctest.Wait()
			return done
		}
		began := time.Now()
		first, second := waits(), waits()
		p.SetOptions(PoolOptions{QueueLength: 1, QueueTimeout: time.Second, Policy: RoundRobin})
		if err := <-waits(); !errors.Is(err, ErrQueueFull) {
			t.Errorf("a third in a queue of one: %v", err)
		}
		time.Sleep(2 * time.Second)
		a.SetReady(true)
		if err := errors.Join(<-first, <-second); err != nil || time.Since(began) != 2*time.Second {
			t.Errorf("who waited by the old options: %v after %s", err, time.Since(began))
		}
		// Going round, weight 3 gets three of four.
		b.SetReady(true)
		b.SetWeight(3)
		picks := map[string]int{}
		for range 40 {
			m, err := p.Acquire(context.Background(), Want{})
			if err != nil {
				t.Fatal(err)
			}
			picks[m.Name()]++
		}
		if picks["b"] < 29 || picks["b"] > 31 {
			t.Errorf("picks: %v", picks)
		}
		// By load, who has the most less than the share gets all until it is even.
		for b.InFlight() > 20 {
			b.Release()
		}
		p.SetOptions(PoolOptions{Policy: LeastOutstanding})
		for range 5 {
			if m, err := p.Acquire(context.Background(), Want{}); err != nil || m != b {
				t.Errorf("picked %v with %d and %d in flight, %v", m.Name(), a.InFlight(), b.InFlight(), err)
			}
		}
		a.SetReady(false)
		b.SetReady(false)
		if _, err := p.Acquire(context.Background(), Want{}); err == nil {
			t.Error("a queue of none has a place")
		}
	})
}

func TestTransportGoesByNewLimits(t *testing.T) {
	p := NewPool("p", PoolOptions{Transport: TransportOptions{ConnectTimeout: time.Second}})
	m := p.Add("a", 1)
	m.Reset("127.0.0.1:1")
	p.SetOptions(PoolOptions{Transport: TransportOptions{ConnectTimeout: time.Minute, ResponseTimeout: time.Hour}})
	got := m.transport.Load().options.Load()
	if got.ConnectTimeout != time.Minute || got.ResponseTimeout != time.Hour || got.MaxIdle != DefaultMaxIdle {
		t.Errorf("%+v", got)
	}
}
