package upstream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

var (
	under = &EngineLoad{Pressure: PressureUnder, Waiting: 0, CacheUsage: .1}
	over  = &EngineLoad{Pressure: PressureOver, Waiting: 9, CacheUsage: .99}
)

// TestWhoIsOverGetsNothingWhileAnotherIsUnder plays the table of pressure.go.
func TestWhoIsOverGetsNothingWhileAnotherIsUnder(t *testing.T) {
	for _, tc := range []struct {
		name  string
		loads []*EngineLoad
		then  func(p *Pool, members []*Member)
		want  string // who is asked
	}{
		{"nothing is known", []*EngineLoad{nil, nil, nil}, nil, "abc"},
		{"one is over", []*EngineLoad{under, over, under}, nil, "ac"},
		{"all are over", []*EngineLoad{over, over, over}, nil, "abc"},
		{"all but one", []*EngineLoad{over, under, over}, nil, "b"},
		{"unknown is not under", []*EngineLoad{nil, over, over}, nil, "abc"},
		{"nor over", []*EngineLoad{nil, over, under}, nil, "ac"},
		{"what was known is old", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[0].SetLoad(nil) }, "abc"},
		{"what was over is old", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[1].SetLoad(nil) }, "ab"},
		{"the one that is under is not ready", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[0].SetReady(false) }, "bc"},
		{"and ready again", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[0].SetReady(false); m[0].SetReady(true) }, "a"},
		{"is doubted", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[0].Doubt(true) }, "bc"},
		{"is removed", []*EngineLoad{under, over, over}, func(p *Pool, m []*Member) { p.Remove(m[0]) }, "bc"},
		{"is a backup", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[0].SetTier(1) }, "bc"},
		{"has a request under suspicion alone", []*EngineLoad{under, over, over}, func(p *Pool, _ []*Member) {
			if _, err := p.AcquireAlone(context.Background(), WantAlone{}); err != nil {
				panic(err)
			}
		}, "bc"},
		{"comes down", []*EngineLoad{under, over, over}, func(_ *Pool, m []*Member) { m[2].SetLoad(under) }, "ac"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, members := weighingPool(PoolOptions{}, 3)
			members = append([]*Member(nil), members...)
			for i, l := range tc.loads {
				members[i].SetLoad(l)
			}
			if tc.then != nil {
				tc.then(p, members)
			}
			asked := map[string]bool{}
			for range 9 {
				asked[mustAcquire(t, p, nil).Name()] = true
			}
			got := ""
			for _, m := range members {
				if asked[m.Name()] {
					got += m.Name()
				}
			}
			if got != tc.want {
				t.Errorf("%q were asked, want %q", got, tc.want)
			}
		})
	}
}

// Who waits gets a member that comes down, or that is needed after all.
func TestPressureServesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, members := weighingPool(PoolOptions{MaxConcurrency: 1}, 2)
		members[0].SetLoad(under)
		members[1].SetLoad(over)
		if m := mustAcquire(t, p, nil); m != members[0] {
			t.Fatal(m.Name())
		}
		granted := make(chan *Member, 1)
		go func() {
			m, _ := p.Acquire(context.Background(), Want{})
			granted <- m
		}()
		synctest.Wait()
		time.Sleep(time.Second)
		if len(granted) > 0 {
			t.Fatal("who is over was given a request while another is under")
		}
		members[0].SetLoad(over)
		if m := <-granted; m != members[1] {
			t.Errorf("%s was granted", m.Name())
		}
	})
}
