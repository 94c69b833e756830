package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestDoubt: who is doubted gets nothing new while others can serve or requests may wait.
func TestDoubt(t *testing.T) {
	acquire := func(p *Pool) *Member {
		m, _, err := p.claimOrQueue(&Want{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Run("others serve", func(t *testing.T) {
		p, members := breakerPool(2)
		members[0].Doubt(true)
		for range 5 {
			if m := acquire(p); m != members[1] {
				t.Fatalf("given to %s", m.Name())
			}
		}
		members[0].Doubt(false)
		if m := acquire(p); m != members[0] {
			t.Errorf("not used again at once")
		}
	})
	t.Run("the last one: requests wait until it is clear", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, members := breakerPool(1)
			members[0].Doubt(true)
			time.AfterFunc(3*time.Second, func() { members[0].Doubt(false) })
			began := time.Now()
			m, err := p.Acquire(context.Background(), Want{})
			if err != nil || m != members[0] || time.Since(began) != 3*time.Second {
				t.Errorf("%v, %v after %s", m, err, time.Since(began))
			}
		})
	})
	t.Run("the last one, and none may wait", func(t *testing.T) {
		p := NewPool("chat", PoolOptions{})
		m := p.Add("chat-0", 1)
		m.SetReady(true)
		m.Doubt(true)
		if got := acquire(p); got != m {
			t.Errorf("refused, though it may only be slow")
		}
	})
	t.Run("a new engine begins without", func(t *testing.T) {
		p, members := breakerPool(1)
		members[0].Doubt(true)
		members[0].Reset("127.0.0.1:1")
		members[0].SetReady(true)
		if m := acquire(p); m != members[0] {
			t.Error("still doubted")
		}
	})
	t.Run("the breaker of the other closes", func(t *testing.T) {
		p, members := breakerPool(2)
		failTimes(members[1], 5, 0)
		members[0].Doubt(true)
		if m := acquire(p); m != members[1] {
			t.Error("nobody serves")
		}
	})
}
