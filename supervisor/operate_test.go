package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"stoker/config"
	"stoker/upstream"
)

// TestSettingsDuringALife: new settings hold from the moment they are heard,
// and the engine goes on.
func TestSettingsDuringALife(t *testing.T) {
	change := func(f func(*config.Pool)) func(*life) {
		return func(l *life) {
			p := *testPool()
			f(&p)
			l.w.ask(context.Background(), request{settings: &p})
		}
	}
	stop := func(l *life) { l.w.ask(context.Background(), request{wish: wishStop}) }
	drain := func(limit time.Duration) func(*life) {
		return func(l *life) {
			l.w.ask(context.Background(), request{wish: wishStop, drain: true, limit: limit})
		}
	}
	requests := func(n int) func(*life) { return func(l *life) { l.member.requests(n) } }
	type act struct {
		after time.Duration
		do    func(*life)
	}
	cases := []struct {
		name   string
		script []behaviour
		acts   []act
		want   string
	}{
		{
			"another grace",
			[]behaviour{{deaf: true}},
			[]act{{time.Minute, change(func(p *config.Pool) { p.Stop.Grace = config.Duration(5 * time.Second) })}, {time.Minute, stop}},
			"loading 0s, ready 0s, stopping 2m0s, stopped 2m5s",
		},
		{
			"another start time-out, while loading",
			[]behaviour{{loads: time.Hour, ends: time.Second}},
			[]act{{time.Minute, change(func(p *config.Pool) {
				p.StartTimeout = config.Duration(2 * time.Minute)
				p.Restart.MaxFailures = 1
			})}},
			"loading 0s, stopping 2m0s, failed 2m1s",
		},
		{
			"fewer failures are enough",
			[]behaviour{{sickFrom: 10 * time.Minute}, {}},
			[]act{{time.Minute, change(func(p *config.Pool) { p.Health.Failures = 1 })}},
			"loading 0s, ready 0s, stopping 10m2s, backoff 10m2s, starting 10m2s, loading 10m2s, ready 10m2s",
		},
		{
			"a drain's own limit",
			[]behaviour{{ends: time.Second}},
			[]act{{0, requests(1)}, {time.Minute, drain(3 * time.Second)}},
			"loading 0s, ready 0s, draining 1m0s, stopping 1m3s, stopped 1m4s",
		},
		{
			"a drain's limit changes while it drains",
			[]behaviour{{ends: time.Second}},
			[]act{{0, requests(1)}, {time.Minute, drain(time.Hour)}, {time.Minute, drain(10 * time.Second)}},
			"loading 0s, ready 0s, draining 1m0s, stopping 2m10s, stopped 2m11s",
		},
		{
			"new settings do not undo a drain",
			[]behaviour{{ends: time.Second}},
			[]act{{0, requests(1)}, {time.Minute, drain(time.Hour)}, {time.Minute, change(func(p *config.Pool) { p.DrainTimeout = 0 })}, {time.Minute, requests(0)}},
			"loading 0s, ready 0s, draining 1m0s, stopping 3m0s, stopped 3m1s",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLife(t, testPool(), c.script...)
				l.begin()
				for _, a := range c.acts {
					time.Sleep(a.after)
					synctest.Wait()
					a.do(l)
				}
				time.Sleep(30 * time.Minute)
				l.want(strings.Split(c.want, ", ")...)
				l.stop(request{wish: wishStop, hurry: true})
			})
		})
	}
}

// TestNewSettingsAfterARefusedDial: new settings must not leave a worker out that a refused
// dial has taken out.
func TestNewSettingsAfterARefusedDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLife(t, testPool(), behaviour{})
		l.begin()
		time.Sleep(time.Minute)
		synctest.Wait()
		l.member.onReady = nil // what is refused is out of the pool, and yet ready
		l.member.SetReady(false)
		l.member.kick <- struct{}{}
		p := *testPool()
		p.Health.Failures = 9
		l.w.ask(context.Background(), request{settings: &p})
		time.Sleep(time.Minute)
		synctest.Wait()
		if !l.member.isReady() {
			t.Error("it answers its probes, and is not in the pool")
		}
		l.stop(request{wish: wishStop})
	})
}

// changed is c with its first pool changed.
func changed(c *config.Config, change func(*config.Pool)) *config.Config {
	next := *c
	next.Pools = slices.Clone(c.Pools)
	change(&next.Pools[0])
	return &next
}

// ups are upstream pools for a configuration.
func ups(c *config.Config) map[string]*upstream.Pool {
	pools := make(map[string]*upstream.Pool)
	for _, p := range c.Pools {
		pools[p.Name] = upstream.NewPool(p.Name, upstream.PoolOptions{})
	}
	return pools
}

// succeeded fails the test unless an operation went as asked for n members.
func succeeded(t *testing.T, r *Report, err error, n int) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if failed := r.Failed(); len(failed) > 0 || len(r.Members) != n {
		t.Fatalf("%d members, of which failed: %+v; all: %+v", len(r.Members), failed, r.Members)
	}
}

func TestOperationsOnEngines(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	first := m.worker("e-0")

	r, err := m.Drain(t.Context(), "e-0", time.Second, true)
	succeeded(t, r, err, 1)
	gone(t, first.PID, first.KeeperPID)
	if w := m.worker("e-0"); w.State != Stopped || w.Wish != "stop" || w.PID != 0 {
		t.Errorf("drained: %+v", w)
	}
	if ready, total := m.Ready(); ready != 1 || total != 1 {
		t.Errorf("ready %d of %d: what an operator has stopped is not missed", ready, total)
	}
	r, err = m.Restart(t.Context(), "e")
	succeeded(t, r, err, 2)
	if w := m.worker("e-0"); w.State != Stopped {
		t.Errorf("its pool's restart has started it: %+v", w)
	}
	r, err = m.Resume(t.Context(), "e-0")
	succeeded(t, r, err, 1)
	if w := m.worker("e-0"); w.State != Ready || w.Wish != "run" || w.Restarts != 1 || w.LastExit == nil {
		t.Errorf("resumed: %+v", w)
	}
	before := []WorkerStatus{m.worker("e-0"), m.worker("e-1")}
	r, err = m.Restart(t.Context(), "e")
	succeeded(t, r, err, 2)
	for _, w := range before {
		if now := m.worker(w.Name); now.State != Ready || now.PID == w.PID {
			t.Errorf("restarted: %+v", now)
		}
	}
	var unknown *UnknownNameError
	if _, err := m.StopNow(t.Context(), "x"); !errors.As(err, &unknown) || !slices.Equal(unknown.Known, []string{"e", "e-0", "e-1"}) {
		t.Errorf("an unknown name: %v", err)
	}
}

func TestScaleAndForget(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	pools := map[string]*upstream.Pool{"e": m.pools[0].upstream}
	for _, workers := range []int{3, 1, 2} {
		m.Adopt(changed(c, func(p *config.Pool) { p.Workers = workers }), pools)
		r := m.Roll(t.Context(), "e")
		if failed := r.Failed(); len(failed) > 0 {
			t.Fatalf("to %d: %+v", workers, failed)
		}
		if ready, total := m.Ready(); ready != workers || total != workers {
			t.Errorf("to %d: ready %d of %d", workers, ready, total)
		}
		series := testutil.ToFloat64(m.metrics.drains.WithLabelValues("e", "e-0")) // one that exists
		if n := testutil.CollectAndCount(m.metrics.load); n != workers {
			t.Errorf("to %d: %d workers in the metrics, %g drains", workers, n, series)
		}
		if members := len(pools["e"].Stats().Members); members != workers {
			t.Errorf("to %d: %d members", workers, members)
		}
	}
}

// TestRollSuperseded: while a change rolls that never gets ready, a newer one
// takes over, and every worker has the newest in the end.
func TestRollSuperseded(t *testing.T) {
	c := realConfig(t, 3, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	pools := map[string]*upstream.Pool{"e": m.pools[0].upstream}
	command := func(more ...string) *config.Config {
		return changed(c, func(p *config.Pool) { p.Command = append(slices.Clone(p.Command), more...) })
	}
	m.Adopt(command("--load", "1h"), pools)
	first := make(chan *Report)
	go func() { first <- m.Roll(context.Background(), "") }()
	m.eventually("the first one loads", func() bool { return m.worker("e-0").State == Loading })
	m.Adopt(command("--load", "1ms"), pools)
	second := m.Roll(t.Context(), "")
	if failed := second.Failed(); len(failed) > 0 || len(second.Members) != 3 {
		t.Errorf("the newer one: %+v", second)
	}
	if failed := (<-first).Failed(); len(failed) != 3 || !strings.Contains(failed[0].Error, "superseded") {
		t.Errorf("the older one: %+v", failed)
	}
	if ready, _ := m.Ready(); ready != 3 {
		t.Errorf("%d ready", ready)
	}
	for w, restart := range m.Restarts(command("--load", "1ms")) {
		if restart {
			t.Errorf("%s has not the newest engine", w)
		}
	}
}

// TestSurge: one more is ready before the first leaves, and gone in the end.
func TestSurge(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}", "--load", "50ms")
	m := startMaster(t, c)
	m.allReady()
	old := m.worker("e-0")
	pools := map[string]*upstream.Pool{"e": m.pools[0].upstream}
	m.Adopt(changed(c, func(p *config.Pool) { p.Surge, p.Env = 1, map[string]string{"A": "1"} }), pools)
	over := make(chan struct{})
	fewest := make(chan int)
	go func() {
		least := 9
		for {
			ready := 0
			for _, member := range pools["e"].Stats().Members {
				if member.Ready {
					ready++
				}
			}
			least = min(least, ready)
			select {
			case <-over:
				fewest <- least
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	r := m.Roll(t.Context(), "")
	close(over)
	succeeded(t, r, nil, 1)
	if least := <-fewest; least < 1 {
		t.Errorf("at some time %d were ready", least)
	}
	if s := m.Status()[0].Workers; len(s) != 1 || s[0].Name != "e-0" || s[0].PID == old.PID {
		t.Errorf("after: %+v", s)
	}
}

// TestPoolsComeAndGo removes a pool and adds one of its name at once: the new
// one begins when the old one's workers have left their directories.
func TestPoolsComeAndGo(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}", "--ends", "300ms")
	m := startMaster(t, c)
	m.allReady()
	before := m.worker("e-1")
	other := config.DefaultPool("r")
	other.Servers = []config.Server{{Address: "127.0.0.1:1", Name: "far", Weight: 1, Down: true}}
	without := *c
	without.Pools = []config.Pool{other}
	m.Adopt(&without, ups(&without))
	removed := make(chan *Report)
	go func() { removed <- m.Roll(context.Background(), "") }()
	m.Adopt(c, ups(c))
	r := m.Roll(t.Context(), "")
	<-removed
	if failed := r.Failed(); len(failed) > 0 {
		t.Errorf("%+v", failed)
	}
	gone(t, before.PID, before.KeeperPID)
	if s := m.Status(); len(s) != 1 || len(s[0].Workers) != 2 || s[0].Workers[1].State != Ready {
		t.Errorf("after: %+v", s)
	}
}

// TestStopDuringARoll: the end does not wait for a change that does not end.
func TestStopDuringARoll(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	m.Adopt(changed(c, func(p *config.Pool) { p.Command = append(slices.Clone(p.Command), "--load", "1h") }),
		map[string]*upstream.Pool{"e": m.pools[0].upstream})
	rolled := make(chan *Report)
	go func() { rolled <- m.Roll(context.Background(), "") }()
	m.eventually("it loads", func() bool { return m.worker("e-0").State == Loading })
	m.Stop(t.Context())
	if failed := (<-rolled).Failed(); len(failed) == 0 {
		t.Error("the roll says that it went well")
	}
	if r, err := m.Resume(t.Context(), "e-0"); err != nil || len(r.Failed()) != 1 {
		t.Errorf("resume after the end: %+v, %v", r, err)
	}
}

func TestRemoteDrain(t *testing.T) {
	c := config.Default()
	c.RunDir = t.TempDir()
	p := config.DefaultPool("r")
	p.Servers = []config.Server{{Address: "127.0.0.1:1", Name: "a", Weight: 1}, {Address: "127.0.0.1:2", Name: "b", Weight: 1}}
	c.Pools = []config.Pool{p}
	m := startMaster(t, c)
	up := m.pools[0].upstream
	a := m.pools[0].remote[0].member
	a.SetReady(true)
	held, err := up.Acquire(t.Context(), upstream.Want{})
	if err != nil || held.Name() != "a" {
		t.Fatalf("%v, %v", held, err)
	}
	r, err := m.Drain(t.Context(), "a", 20*time.Millisecond, false)
	if err != nil || len(r.Failed()) != 1 {
		t.Errorf("with a request: %+v, %v", r, err)
	}
	held.Release()
	r, err = m.Drain(t.Context(), "a", time.Minute, false)
	succeeded(t, r, err, 1)
	if s := m.Status()[0].Servers[0]; s.State != ServerDrained || s.Wish != "stop" || a.Ready() {
		t.Errorf("drained: %+v", s)
	}
	// A reload that changes its weight leaves it out.
	m.Adopt(changed(c, func(p *config.Pool) {
		p.Servers = slices.Clone(p.Servers)
		p.Servers[0].Weight = 5
	}), map[string]*upstream.Pool{"r": up})
	if s := m.Status()[0].Servers[0]; s.State != ServerDrained || s.Weight != 5 {
		t.Errorf("drained, after a reload: %+v", s)
	}
	r, err = m.Resume(t.Context(), "a")
	succeeded(t, r, err, 1)
	if s := m.Status()[0].Servers[0]; s.Wish != "run" || s.State == ServerDrained {
		t.Errorf("resumed: %+v", s)
	}
}

func TestDevicesOfAddedWorkers(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}")
	c.Pools[0].GPUsPerWorker, c.Pools[0].GPUs = 1, []string{"a", "b", "c"}
	m := startMaster(t, c)
	m.allReady()
	pools := map[string]*upstream.Pool{"e": m.pools[0].upstream}
	m.Adopt(changed(c, func(p *config.Pool) { p.Workers = 2 }), pools)
	if failed := m.Roll(t.Context(), "").Failed(); len(failed) > 0 {
		t.Fatal(failed)
	}
	for i, gpu := range []string{"a", "b"} {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", m.worker(fmt.Sprintf("e-%d", i)).PID))
		if err != nil || !strings.Contains(string(env), "CUDA_VISIBLE_DEVICES="+gpu+"\x00") {
			t.Errorf("e-%d has not %s: %v", i, gpu, err)
		}
	}
	if err := m.Check(changed(c, func(p *config.Pool) { p.Workers = 4 })); err == nil {
		t.Error("four workers on three devices are found good")
	}
}

// TestWishesOutlastAMaster: what an operator has stopped is down under the next
// master too, after a hand-over or a crash, but not after a graceful end.
func TestWishesOutlastAMaster(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	r, err := m.StopNow(t.Context(), "e-0")
	succeeded(t, r, err, 1)
	if err := m.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := startMaster(t, c)
	second.allReady()
	second.eventually("e-0 stopped", func() bool { return second.worker("e-0").State == Stopped })
	if w := second.worker("e-0"); w.Wish != "stop" || w.PID != 0 {
		t.Errorf("under the second master: %+v", w)
	}
	r, err = second.Resume(t.Context(), "e-0")
	succeeded(t, r, err, 1)
	r, err = second.StopNow(t.Context(), "e-1")
	succeeded(t, r, err, 1)
	second.Stop(t.Context())
	third := startMaster(t, c)
	third.allReady()
	if w := third.worker("e-1"); w.Wish != "run" || w.State != Ready {
		t.Errorf("after a graceful end: %+v", w)
	}
}
