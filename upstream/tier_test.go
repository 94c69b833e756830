package upstream

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// backupPool has two members that serve first, and one backup; all are ready.
func backupPool(o PoolOptions) (p *Pool, a, b, backup *Member) {
	p = NewPool("chat", o)
	a, b, backup = p.Add("a", 1), p.Add("b", 1), p.Add("backup", 1)
	backup.SetTier(1)
	for _, m := range p.members {
		m.SetReady(true)
	}
	return p, a, b, backup
}

// gets says to whom the next requests go, all at once.
func gets(t *testing.T, p *Pool, n int) map[string]int {
	t.Helper()
	got := map[string]int{}
	var held []*Member
	for range n {
		m := mustAcquire(t, p, nil)
		got[m.Name()]++
		held = append(held, m)
	}
	for _, m := range held {
		m.Release()
	}
	return got
}

func TestBackupServesOnlyWhileNobodyElseCan(t *testing.T) {
	o := PoolOptions{QueueLength: 3, QueueTimeout: time.Minute, Breaker: BreakerOptions{Failures: 2, Within: time.Minute, Open: time.Minute}}
	tests := []struct {
		name   string
		before func(a, b, backup *Member)
		want   map[string]int
	}{
		{"all are well", func(_, _, _ *Member) {}, map[string]int{"a": 2, "b": 2}},
		{"one is left", func(a, _, _ *Member) { a.SetReady(false) }, map[string]int{"b": 4}},
		{"none is left", func(a, b, _ *Member) { a.SetReady(false); b.Refused() }, map[string]int{"backup": 4}},
		{"one comes back", func(a, b, _ *Member) { a.SetReady(false); b.SetReady(false); a.SetReady(true) }, map[string]int{"a": 4}},
		{"one is doubted, the other gone", func(a, b, _ *Member) { a.Doubt(true); b.SetReady(false) }, map[string]int{"backup": 4}},
		{"doubted no more", func(a, b, _ *Member) { a.Doubt(true); b.SetReady(false); a.Doubt(false) }, map[string]int{"a": 4}},
		{"removed", func(a, b, _ *Member) { a.Pool().Remove(a); b.Pool().Remove(b) }, map[string]int{"backup": 4}},
		{"breakers are open", func(a, b, _ *Member) { a.Failed(); a.Failed(); b.Failed(); b.Failed() }, map[string]int{"backup": 4}},
		{"it is a backup no more", func(_, b, backup *Member) { b.SetReady(false); backup.SetTier(0) }, map[string]int{"a": 2, "backup": 2}},
		{"so is everybody", func(a, b, _ *Member) { a.SetTier(1); b.SetTier(1) }, map[string]int{"a": 1, "b": 1, "backup": 1}},
		{"a third tier", func(a, b, backup *Member) {
			a.SetReady(false)
			b.SetTier(2)
			backup.SetReady(false)
		}, map[string]int{"b": 4}},
		{"all are gone and one comes back", func(a, b, backup *Member) {
			for _, m := range []*Member{a, b, backup} {
				m.SetReady(false)
			}
			a.SetReady(true)
		}, map[string]int{"a": 4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, a, b, backup := backupPool(o)
				defer p.Close()
				tt.before(a, b, backup)
				n := 0
				for _, count := range tt.want {
					n += count
				}
				got := gets(t, p, n)
				for name, count := range tt.want {
					if got[name] != count {
						t.Errorf("got %v, want %v", got, tt.want)
						break
					}
				}
			})
		})
	}
}

func TestBusyIsNoReasonToTurnToTheBackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, b, backup := backupPool(PoolOptions{MaxConcurrency: 1, QueueLength: 3, QueueTimeout: time.Minute})
		mustAcquire(t, p, nil)
		mustAcquire(t, p, nil)
		got := make(chan *Member)
		go func() {
			m, err := p.Acquire(t.Context(), Want{})
			if err != nil {
				t.Error(err)
			}
			got <- m
		}()
		synctest.Wait()
		if p.Stats().Queued != 1 || backup.InFlight() != 0 {
			t.Errorf("queued %d, on the backup %d", p.Stats().Queued, backup.InFlight())
		}
		// Who waits is served by the backup once the busy ones are gone.
		a.SetReady(false)
		b.SetReady(false)
		if m := <-got; m != backup {
			t.Errorf("got %s", m.Name())
		}
	})
}

// What is on a backup goes on when its turn is over.
func TestRequestsStayOnABackup(t *testing.T) {
	p, a, b, backup := backupPool(PoolOptions{})
	a.SetReady(false)
	b.SetReady(false)
	held := mustAcquire(t, p, nil)
	a.SetReady(true)
	if held != backup || backup.InFlight() != 1 || !backup.Ready() {
		t.Errorf("%s: %d in flight", held.Name(), backup.InFlight())
	}
	if m := mustAcquire(t, p, a); m != a {
		t.Errorf("a request went to %s", m.Name())
	}
	held.Release()
}

func TestQuarantinedNeverTakeABackup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, a, b, _ := backupPool(PoolOptions{QueueTimeout: time.Second})
		first, err := p.AcquireAlone(t.Context(), WantAlone{})
		if err != nil {
			t.Fatal(err)
		}
		if first.Member != a && first.Member != b {
			t.Errorf("tried on %s", first.Name())
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		cancel(gone)
		if second, err := p.AcquireAlone(ctx, WantAlone{}); !errors.Is(err, gone) {
			t.Errorf("a second was tried on %v: %v", second, err)
		}
		first.Release()
	})
}
