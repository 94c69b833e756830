package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuestion: who is questioned gets nothing new until somebody has vouched for
// it after that, while others can serve or requests may wait.
func TestQuestion(t *testing.T) {
	kicked := func(m *Member) bool {
		select {
		case <-m.Kick():
			return true
		default:
			return false
		}
	}
	take := func(t *testing.T, p *Pool) *Member {
		t.Helper()
		m, _, err := p.claimOrQueue(&Want{})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Run("others serve", func(t *testing.T) {
		p, members := breakerPool(2)
		m := members[0]
		m.Question()
		before, _ := m.Questions()
		m.Question()
		if !kicked(m) {
			t.Error("it is not asked")
		}
		m.Vouch(before)
		for range 5 {
			if got := take(t, p); got != members[1] {
				t.Fatalf("given to %s", got.Name())
			}
		}
		m.Doubt(false) // which is another matter
		if got := take(t, p); got != members[1] {
			t.Fatalf("given to %s", got.Name())
		}
		asked, _ := m.Questions()
		m.Vouch(asked)
		if got := take(t, p); got != m {
			t.Error("not used again at once")
		}
	})
	t.Run("the only one: requests wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p, members := breakerPool(1)
			members[0].Question()
			time.AfterFunc(3*time.Second, func() { members[0].Vouch(1) })
			began := time.Now()
			if m, err := p.Acquire(context.Background(), Want{}); err != nil || m != members[0] || time.Since(began) != 3*time.Second {
				t.Errorf("%v, %v after %s", m, err, time.Since(began))
			}
		})
	})
	t.Run("the only one, and none may wait", func(t *testing.T) {
		p := NewPool("chat", PoolOptions{})
		m := p.Add("chat-0", 1)
		m.SetReady(true)
		m.Question()
		if got := take(t, p); got != m || !kicked(m) {
			t.Errorf("refused, or not asked: %v", got)
		}
	})
	t.Run("a new engine begins without", func(t *testing.T) {
		p, members := breakerPool(1)
		members[0].Question()
		members[0].Reset("127.0.0.1:1")
		members[0].Question() // of the one before
		members[0].SetReady(true)
		if got := take(t, p); got != members[0] {
			t.Error("still questioned")
		}
	})
}
