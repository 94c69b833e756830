package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"stoker/config"
	"stoker/supervisor/keeper"
	"stoker/upstream"
)

func TestKilledEngineAndKeeper(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}", "--load", "100ms")
	byPort := c.Pools[0]
	byPort.Name, byPort.Workers, byPort.Command = "p", 1, []string{os.Args[0], "engine", "--port", "{port}"}
	c.Pools = append(c.Pools, byPort)
	m := startMaster(t, c)
	m.allReady()

	first := m.worker("e-0")
	kill(t, first.PID)
	back := func(before WorkerStatus) func() bool {
		return func() bool {
			now := m.worker(before.Name)
			return now.KeeperPID != before.KeeperPID && now.State == Ready
		}
	}
	m.eventually("e-0 is back", back(first))
	second := m.worker("e-0")
	if second.PID == first.PID || second.LastExit == nil || second.LastExit.Signal != "SIGKILL" || second.LastExit.Code != -1 {
		t.Errorf("after a kill: %+v, last exit %+v", second, second.LastExit)
	}

	before := m.worker("p-0")
	began := time.Now()
	kill(t, before.KeeperPID)
	m.eventually("p-0 is back", back(before))
	t.Logf("back %s after its keeper was killed", time.Since(began))
	gone(t, before.PID, before.KeeperPID)
	after := m.worker("p-0")
	if after.KeeperPID == before.KeeperPID || after.Address == before.Address {
		t.Errorf("keeper and port are to be new: %+v", after)
	}
	if untouched := m.worker("e-1"); untouched.Restarts != 0 {
		t.Errorf("a bystander was restarted: %+v", untouched)
	}
	want := `
		# HELP stoker_worker_restarts_total Engines started again, by why the one before ended.
		# TYPE stoker_worker_restarts_total counter
	`
	for _, w := range []string{"e e-0 signaled", "p p-0 keeper_lost", "e e-1 "} {
		f := strings.Split(w, " ")
		for _, r := range restartReasons {
			n := 0
			if string(r) == f[2] {
				n = 1
			}
			want += fmt.Sprintf("stoker_worker_restarts_total{cause=%q,pool=%q,worker=%q} %d\n", r, f[0], f[1], n)
		}
	}
	if err := testutil.GatherAndCompare(m.registry, strings.NewReader(want), "stoker_worker_restarts_total"); err != nil {
		t.Error(err)
	}

	report := m.Stop(t.Context())
	if len(report.Forced)+len(report.Stuck) > 0 {
		t.Errorf("stop: %+v", report)
	}
	gone(t, second.PID, second.KeeperPID, after.PID, after.KeeperPID)
	if s := m.worker("e-0"); s.State != Stopped || s.PID != 0 || s.Address != "" {
		t.Errorf("after the stop: %+v", s)
	}
}

func TestStatusDocument(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}")
	remote := config.DefaultPool("r")
	remote.Servers = []config.Server{{Address: "127.0.0.1:1", Name: "far", Weight: 3, Down: true}}
	c.Pools = append(c.Pools, remote)
	m := startMaster(t, c)
	m.allReady()
	var w WorkerStatus
	m.eventually("its health is watched, and good", func() bool {
		w = m.worker("e-0") // a probe that a busy machine answers late is a doubt, until the next one
		return w.Health != nil && w.Health.State == "well"
	})
	w.Since = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	text, err := json.Marshal([]any{w, m.Status()[1]})
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`[{"name":"e-0","state":"ready","wish":"run","pid":%d,"keeper_pid":%d,"address":"unix:%s","in_flight":0,"breaker":"closed","health":{"state":"well"},"restarts":0,`+
		`"since":"2030-01-02T03:04:05Z","last_exit":null},`+
		`{"name":"r","workers":[],"servers":[{"name":"far","address":"127.0.0.1:1","state":"down","in_flight":0,"breaker":"closed","health":null,"weight":3,"tier":0,"wish":"run"}]}]`,
		w.PID, w.KeeperPID, c.EngineSocket("e-0"))
	if string(text) != want {
		t.Errorf("\n got %s\nwant %s", text, want)
	}
	if ready, total := m.Ready(); ready != 1 || total != 1 {
		t.Errorf("ready %d of %d: a server that is down does not count", ready, total)
	}
}

// A child in a session of its own, deaf to TERM, as tensor-parallel workers are.
func TestWholeTreeIsEnded(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}", "--child", "{socket}.child")
	c.Pools[0].Stop.Grace = config.Duration(200 * time.Millisecond)
	m := startMaster(t, c)
	m.allReady()
	child := func(not int) (pid int) {
		m.eventually("the child runs", func() bool {
			text, _ := os.ReadFile(c.EngineSocket("e-0") + ".child")
			pid, _ = strconv.Atoi(string(text))
			return pid != 0 && pid != not && alive(pid)
		})
		return pid
	}
	first := child(0)
	kill(t, m.worker("e-0").PID)
	m.eventually("back", func() bool { return m.worker("e-0").Restarts == 1 && m.worker("e-0").State == Ready })
	if alive(first) {
		t.Error("a new engine runs while the first one's child lives")
	}
	second := child(first)
	report := m.Stop(t.Context())
	gone(t, second)
	if !slices.Equal(report.Forced, []string{"e-0"}) {
		t.Errorf("something had to be killed, the report is %+v", report)
	}
}

func TestStopsAllAtOnce(t *testing.T) {
	m := startMaster(t, realConfig(t, 5, "--socket", "{socket}", "--ends", "1s"))
	m.allReady()
	report := m.Stop(t.Context())
	if report.Duration > 3*time.Second || report.Duration < time.Second || len(report.Forced) > 0 {
		t.Errorf("five engines that need 1 s each: %+v", report)
	}
}

func TestHurriedStop(t *testing.T) {
	m := startMaster(t, realConfig(t, 2, "--socket", "{socket}", "--deaf"))
	m.allReady()
	pids := []int{m.worker("e-0").PID, m.worker("e-1").PID}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	report := m.Stop(ctx)
	if !slices.Equal(report.Forced, []string{"e-0", "e-1"}) || report.Duration > 5*time.Second {
		t.Errorf("%+v", report)
	}
	gone(t, pids...)
}

// A new master goes on with the engines of the last one, unless something about
// them has changed or nobody wants them any more.
func TestAdoption(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	first := startMaster(t, c)
	first.allReady()
	e0, e1 := first.worker("e-0"), first.worker("e-1")
	release(t, first)

	second := startMaster(t, c)
	began := time.Now()
	second.allReady()
	t.Logf("serving after %s", time.Since(began))
	for _, before := range []WorkerStatus{e0, e1} {
		if after := second.worker(before.Name); after.PID != before.PID || after.KeeperPID != before.KeeperPID || after.Restarts != 0 {
			t.Errorf("%s was not adopted: %+v, before %+v", before.Name, after, before)
		}
	}
	release(t, second)

	changed := *c
	changed.Pools = slices.Clone(c.Pools)
	changed.Pools[0].Workers = 1
	changed.Pools[0].Command = append(slices.Clone(c.Pools[0].Command), "--load", "10ms")
	third := startMaster(t, &changed)
	third.allReady()
	if after := third.worker("e-0"); after.PID == e0.PID {
		t.Errorf("adopted with another command: %+v", after)
	}
	gone(t, e0.PID, e0.KeeperPID, e1.PID, e1.KeeperPID)
	third.Stop(t.Context())
	if _, err := os.Stat(c.KeeperDir("e-1")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory of a worker that is not configured any more: %v", err)
	}
}

// After a worker was removed from its pool every upgrade was refused, as what
// was left of its directory was taken for a worker that runs.
func TestUpgradeAfterAWorkerWasRemoved(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	m := startMaster(t, c)
	m.allReady()
	fewer := changed(c, func(p *config.Pool) { p.Workers = 1 })
	successor := func() error {
		next, err := New(Options{Config: fewer, Pools: map[string]*upstream.Pool{"e": upstream.NewPool("e", upstream.PoolOptions{})}, KeeperArgv: []string{os.Args[0], "keeper"}, Registerer: prometheus.NewRegistry()})
		if err != nil {
			t.Fatal(err)
		}
		_, err = next.Prepare(t.Context())
		return err
	}
	if err := successor(); !errors.Is(err, errOtherConfiguration) {
		t.Errorf("a worker runs that is not configured: %v", err)
	}
	m.Adopt(fewer, map[string]*upstream.Pool{"e": upstream.NewPool("e", upstream.PoolOptions{})})
	m.Roll(t.Context(), "e")
	if err := successor(); err != nil {
		t.Errorf("it was removed: %v", err)
	}
}

func release(t *testing.T, m *master) {
	t.Helper()
	if err := m.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// An engine that ends while no master lives is reported once, exactly.
func TestExitWithoutMaster(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}")
	first := startMaster(t, c)
	first.allReady()
	address := first.worker("e-0").Address
	release(t, first)
	get(t, address, "/exit?code=37")
	eventually(t, "the exit is written down", func() bool {
		r, err := keeper.ReadExit(c.KeeperDir("e-0"))
		return err == nil && r.State.Phase == keeper.Ended
	})
	second := startMaster(t, c)
	second.allReady()
	if w := second.worker("e-0"); w.LastExit == nil || w.LastExit.Code != 37 || w.Restarts != 1 {
		t.Errorf("%+v, last exit %+v", w, w.LastExit)
	}
	report := `[WARN]  worker died: worker=e-0 cause="exited with code 37 while no master ran"`
	if n := strings.Count(second.log.String(), report); n != 1 {
		t.Errorf("reported %d times:\n%s", n, second.log)
	}
}

// Both are killed: the next master ends what is left before it starts anew.
func TestKeeperKilledWithoutMaster(t *testing.T) {
	c := realConfig(t, 1, "--socket", "{socket}")
	first := startMaster(t, c)
	first.allReady()
	before := first.worker("e-0")
	release(t, first)
	kill(t, before.KeeperPID)
	gone(t, before.KeeperPID)
	second := startMaster(t, c)
	second.allReady()
	gone(t, before.PID)
	if w := second.worker("e-0"); w.PID == before.PID || w.Restarts != 1 {
		t.Errorf("%+v", w)
	}
}

func TestCommandNotFound(t *testing.T) {
	c := realConfig(t, 1)
	c.Pools[0].Command = []string{"no-such-engine-anywhere"}
	c.Pools[0].Restart.MaxFailures = 2
	m := startMaster(t, c)
	m.eventually("failed", func() bool { return m.worker("e-0").State == Failed })
	if advice := "command not found: no-such-engine-anywhere; check pools.command and PATH"; strings.Count(m.log.String(), advice) != 2 {
		t.Errorf("log should say twice %q:\n%s", advice, m.log)
	}
}

// A keeper that never says hello must not hold up a stop, nor be left behind.
func TestStopDuringStart(t *testing.T) {
	c := realConfig(t, 2)
	mark := filepath.Join(c.RunDir, "pid")
	m := startMasterWith(t, c, "/bin/sh", "-c", "echo $$ >>"+mark+"; exec sleep 60")
	var pids []int
	m.eventually("both keepers run", func() bool {
		text, _ := os.ReadFile(mark)
		pids = nil
		for line := range strings.FieldsSeq(string(text)) {
			pid, _ := strconv.Atoi(line)
			pids = append(pids, pid)
		}
		return len(pids) == 2
	})
	report := m.Stop(t.Context())
	if report.Duration > 5*time.Second || len(report.Stuck) > 0 {
		t.Errorf("%+v", report)
	}
	gone(t, pids...)
}

func TestStopAtOnce(t *testing.T) {
	c := realConfig(t, 2, "--socket", "{socket}")
	m := startMaster(t, c)
	if report := m.Stop(t.Context()); report.Duration > 5*time.Second || len(report.Stuck) > 0 {
		t.Errorf("%+v", report)
	}
	for _, name := range []string{"e-0", "e-1"} {
		if w := m.worker(name); w.State != Stopped || w.PID != 0 {
			t.Errorf("%+v", w)
		}
		if _, err := keeper.Attach(t.Context(), c.KeeperDir(name)); !errors.Is(err, keeper.ErrNoKeeper) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStopWithoutStart(t *testing.T) {
	s, err := New(Options{Config: &config.Config{RunDir: t.TempDir()}, Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	if report := s.Stop(t.Context()); len(report.Forced)+len(report.Stuck) > 0 {
		t.Errorf("%+v", report)
	}
}

func TestNewRefuses(t *testing.T) {
	c := realConfig(t, 2)
	c.Pools[0].User = "no-such-user-here"
	pools := map[string]*upstream.Pool{"e": upstream.NewPool("e", upstream.PoolOptions{})}
	if _, err := New(Options{Config: c, Pools: pools, Log: hclog.NewNullLogger()}); err == nil || !strings.Contains(err.Error(), "pool e: user no-such-user-here") {
		t.Errorf("unknown user: %v", err)
	}
	c.Pools[0].User, c.Pools[0].GPUsPerWorker, c.Pools[0].GPUs = "", 2, []string{"0", "1", "2"}
	if _, err := New(Options{Config: c, Pools: pools, Log: hclog.NewNullLogger()}); err == nil || !strings.Contains(err.Error(), "need 4") {
		t.Errorf("too few GPUs: %v", err)
	}
}
