package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// suffer does what the schedule says, each at its time, and waits until all of
// it is done.
func (s *stack) suffer(ctx context.Context, events []event) {
	began := time.Now()
	for _, e := range events {
		select {
		case <-time.After(time.Until(began.Add(e.at))):
		case <-ctx.Done():
			return
		}
		s.note("%v", e)
		s.commands.Go(func() { s.do(ctx, e) })
	}
	select {
	case <-time.After(time.Until(began.Add(s.o.round))):
	case <-ctx.Done():
	}
}

func (s *stack) do(ctx context.Context, e event) {
	switch e.kind {
	case killEngine:
		s.strike(s.engines(), e, syscall.SIGKILL)
	case exitEngine:
		s.strike(s.engines(), e, []syscall.Signal{syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGABRT}[e.how%3])
	case pauseEngine:
		s.pause(s.engines(), e, e.how%3 == 0)
	case killKeeper:
		s.strike(s.keepers(), e, syscall.SIGKILL)
	case pauseKeeper:
		s.pause(s.keepers(), e, false)
	case killMaster, pauseMaster, killElder, upgrade, failUpgrade:
		s.doToMaster(ctx, e)
	case reload, hup, badReload, reopenLogs:
		s.doToConfig(ctx, e)
	case drainWorker, resumePool, stopWorker, restartOne, restartPool, scalePool:
		s.order(ctx, e)
	case crashAtStart:
		path := filepath.Join(s.dir, "crash")
		_ = os.WriteFile(path, nil, 0o600)
		time.Sleep(e.long)
		_ = os.Remove(path)
	case burst:
		s.burst(20+e.how%40, e.pick)
	}
}

// strike signals one of the processes.
func (s *stack) strike(pids []int, e event, sig syscall.Signal) {
	if len(pids) > 0 {
		pid := pids[e.pick%len(pids)]
		s.note("  %s to %d: %v", unix.SignalName(sig), pid, s.kill(pid, sig))
	}
}

// pause stops one of the processes for a while, or for ever.
func (s *stack) pause(pids []int, e event, forEver bool) {
	if len(pids) == 0 {
		return
	}
	pid := pids[e.pick%len(pids)]
	s.note("  STOP to %d: %v", pid, s.kill(pid, syscall.SIGSTOP))
	if !forEver {
		time.Sleep(e.long)
		s.note("  CONT to %d: %v", pid, s.kill(pid, syscall.SIGCONT))
	}
}

func (s *stack) doToMaster(ctx context.Context, e event) {
	switch e.kind {
	case pauseMaster:
		s.pause([]int{s.master()}, e, false)
	case killMaster:
		pid := s.master()
		over := s.outage("kill the master")
		s.held.Store(e.how%2 == 0) // the next one comes a while later
		s.note("  KILL to %d: %v", pid, s.kill(pid, syscall.SIGKILL))
		if e.how%2 == 0 {
			time.Sleep(e.long)
			s.held.Store(false)
		}
		_ = s.await(ctx, 20*time.Second, "", func() string {
			if err := s.ask(ctx, "/livez", nil); err != nil {
				return err.Error()
			}
			return ""
		})
		over()
	case killElder:
		var now status
		if s.ask(ctx, "/status", &now) == nil && len(now.Older) > 0 {
			over := s.outage("kill an older generation")
			s.note("  KILL to %d: %v", now.Older[0].PID, s.kill(now.Older[0].PID, syscall.SIGKILL))
			over()
		}
	case upgrade:
		s.upgrade(ctx)
	case failUpgrade:
		over := s.outage("an upgrade in which somebody dies")
		_ = os.WriteFile(filepath.Join(s.dir, "points"), []byte(failures[e.how%len(failures)]), 0o600)
		s.upgrade(ctx)
		_ = os.Remove(filepath.Join(s.dir, "points"))
		_ = s.await(ctx, 20*time.Second, "", func() string {
			if err := s.ask(ctx, "/livez", nil); err != nil {
				return err.Error()
			}
			return ""
		})
		over()
	default:
	}
}

// failures are what befalls an upgrade.
var failures = []string{
	"exec=kill", "inherited=kill", "before-ready=kill", "before-ready=exit", "before-ready=pause=300ms\nold-before-ready=kill",
	"old-after-ready=kill", "old-draining=kill", "after-ready=kill", "after-ready=pause=300ms\nold-after-ready=kill", "before-ready=kill\nold-before-ready=kill",
}

func (s *stack) upgrade(ctx context.Context) {
	s.mu.Lock()
	err := s.install()
	s.mu.Unlock()
	if err != nil {
		s.violated("install another binary: %v", err)
	}
	_ = s.command(ctx, "upgrade")
}

func (s *stack) doToConfig(ctx context.Context, e event) {
	s.mu.Lock()
	switch e.kind {
	case badReload:
		s.settings.broken = true
	case reload, hup:
		s.settings.broken = false
		s.settings.vary(s.poolNames(), e)
	default:
	}
	s.mu.Unlock()
	if err := s.writeConfig(); err != nil {
		s.violated("write the configuration: %v", err)
	}
	switch e.kind {
	case hup:
		s.kill(s.master(), syscall.SIGHUP)
	case reopenLogs:
		_ = os.Rename(filepath.Join(s.dir, "access.log"), filepath.Join(s.dir, "access.log.1"))
		s.kill(s.master(), syscall.SIGUSR1)
	case badReload:
		if s.command(ctx, "reload") == nil {
			s.violated("a file that makes no sense was loaded")
		}
		s.mu.Lock()
		s.settings.broken = false
		s.mu.Unlock()
		_ = s.writeConfig() // a master that starts just now must be able to
	default:
		_ = s.command(ctx, "reload")
	}
}

// order is what an operator asks of a worker or a pool.
func (s *stack) order(ctx context.Context, e event) {
	pools := s.poolNames()
	pool := pools[e.pick%len(pools)]
	worker := pool + "-" + strconv.Itoa(e.how%3)
	switch e.kind {
	case drainWorker:
		_ = s.command(ctx, "drain", worker)
	case resumePool:
		_ = s.command(ctx, "resume", pool)
	case stopWorker:
		_ = s.command(ctx, "stop", worker)
	case restartOne:
		_ = s.command(ctx, "restart", worker)
	case restartPool:
		_ = s.command(ctx, "restart", pool)
	case scalePool:
		_ = s.command(ctx, "scale", pool, strconv.Itoa(1+e.how%4))
	default:
	}
}

// kept is what a keeper writes of its engine.
type kept struct {
	Name      string
	Phase     string
	Nonce     string
	KeeperPID int `json:"keeper_pid"`
	EnginePID int `json:"engine_pid"`
	Epoch     uint64
	path      string
}

// states are all keepers', by the files that tell of them even while no master lives.
func (s *stack) states() []kept {
	paths, _ := filepath.Glob(filepath.Join(s.runDir(), "keepers", "*", "state.json"))
	var all []kept
	for _, path := range paths {
		text, err := os.ReadFile(path) //nolint:gosec // the test's own directory
		one := kept{path: path}
		if err == nil && json.Unmarshal(text, &one) == nil {
			all = append(all, one)
		}
	}
	return all
}

func (s *stack) engines() []int {
	return s.pids(func(k kept) int { return k.EnginePID })
}

func (s *stack) keepers() []int {
	return s.pids(func(k kept) int { return k.KeeperPID })
}

func (s *stack) pids(of func(kept) int) []int {
	var pids []int
	for _, k := range s.states() {
		if pid := of(k); alive(pid) && k.Phase == "running" {
			pids = append(pids, pid)
		}
	}
	return slices.Compact(pids)
}

// watchEpochs sees to it that no keeper ever gets an owner of a lower epoch.
func (s *stack) watchEpochs(ctx context.Context) {
	highest := map[string]uint64{}
	for ; ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		for _, k := range s.states() {
			if k.Epoch < highest[k.Nonce] {
				s.violated("keeper of %s: epoch %d after %d", k.Name, k.Epoch, highest[k.Nonce])
			}
			highest[k.Nonce] = k.Epoch
		}
	}
}
