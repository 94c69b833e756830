package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
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
	pools := s.poolNames()
	pool := pools[e.pick%len(pools)]
	worker := pool + "-" + strconv.Itoa(e.how%3)
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
	case killMaster:
		s.killMaster(ctx, e)
	case pauseMaster:
		s.pause([]int{s.master()}, e, false)
	case stopMaster:
		s.stopMaster(ctx, e)
	case killElder:
		s.killElder(ctx)
	case upgrade:
		s.upgrade(ctx)
	case failUpgrade:
		s.failUpgrade(ctx, e)
	case reload:
		s.change(func(b *settings) { b.vary(pools, e) })
		_ = s.command(ctx, "reload")
	case hup:
		s.change(func(b *settings) { b.vary(pools, e) })
		s.kill(s.master(), syscall.SIGHUP)
	case badReload:
		s.change(func(b *settings) { b.broken = true })
		_ = s.command(ctx, "reload") // which goes well only if another event has mended the file meanwhile
		s.change(func(*settings) {}) // a master that starts just now must be able to
	case reopenLogs:
		_ = os.Rename(filepath.Join(s.dir, "access.log"), filepath.Join(s.dir, "access.log.1"))
		s.kill(s.master(), syscall.SIGUSR1)
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

// killMaster kills the master; the next one comes at once, or a while later.
func (s *stack) killMaster(ctx context.Context, e event) {
	pid := s.master()
	over := s.outage("kill the master")
	defer over()
	late := e.how%2 == 0
	s.held.Store(late)
	s.note("  SIGKILL to %d: %v", pid, s.kill(pid, syscall.SIGKILL))
	s.awaitEnd(ctx, pid)
	if late {
		time.Sleep(e.long)
		s.held.Store(false)
	}
	s.awaitMaster(ctx)
}

// stopMaster has the master end, with its engines, and another one start.
func (s *stack) stopMaster(ctx context.Context, e event) {
	pid := s.master()
	over := s.outage("stop the master")
	defer over()
	s.note("  SIGTERM to %d: %v", pid, s.kill(pid, syscall.SIGTERM))
	if e.how%3 == 0 {
		time.Sleep(e.long)
		s.note("  SIGTERM to %d again: %v", pid, s.kill(pid, syscall.SIGTERM))
	}
	s.awaitEnd(ctx, pid)
	s.awaitMaster(ctx)
}

// killElder kills the generation that finishes its requests, if there is one.
func (s *stack) killElder(ctx context.Context) {
	if now, err := s.status(ctx); err == nil && len(now.Older) > 0 {
		over := s.outage("kill an older generation")
		defer over()
		s.note("  SIGKILL to %d: %v", now.Older[0].PID, s.kill(now.Older[0].PID, syscall.SIGKILL))
		s.awaitEnd(ctx, now.Older[0].PID)
	}
}

// awaitMaster waits until a master serves.
func (s *stack) awaitMaster(ctx context.Context) {
	if err := s.await(ctx, recovery, "a master that serves", func() string { return s.serving(ctx) }); err != nil && ctx.Err() == nil {
		s.violated("%v", err)
	}
}

// awaitEnd waits until a master that is ended, if it only by a signal that nobody can
// refuse, has ended: on a busy machine that takes a while, in which its connections live.
func (s *stack) awaitEnd(ctx context.Context, pid int) {
	if err := s.await(ctx, recovery, fmt.Sprintf("the end of master %d", pid), func() string {
		if s.lives(pid) {
			return "it lives"
		}
		return ""
	}); err != nil && ctx.Err() == nil {
		s.violated("%v", err)
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

// failUpgrade upgrades, and has somebody die of it.
func (s *stack) failUpgrade(ctx context.Context, e event) {
	over := s.outage("an upgrade in which somebody dies")
	defer over()
	points := filepath.Join(s.dir, "points")
	failure := failures[e.how%len(failures)]
	s.note("  %q", failure)
	old := s.master()
	_ = os.Remove(points + ".hits")
	_ = os.WriteFile(points, []byte(failure), 0o600)
	s.upgrade(ctx)
	_ = os.Remove(points)
	// Who has come to the point dies of it, if maybe a moment from now.
	hits, _ := os.ReadFile(points + ".hits") //nolint:gosec // the test's own directory
	if strings.Contains(failure, "old-") && bytes.Contains(hits, []byte("old-")) {
		s.awaitEnd(ctx, old)
	}
	s.awaitMaster(ctx)
}

// change writes the configuration with something else in it.
func (s *stack) change(what func(*settings)) {
	s.mu.Lock()
	s.settings.broken = false
	what(&s.settings)
	s.mu.Unlock()
	if err := s.writeConfig(); err != nil {
		s.violated("write the configuration: %v", err)
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
