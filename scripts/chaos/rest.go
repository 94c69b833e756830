package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// How long everything may take to become whole again when nobody disturbs it
// any more: an engine that was stopped for ever is found out, drained, given
// its grace and killed.
const recovery = 45 * time.Second

// rest undoes what the round has done, waits until everything is whole, and
// looks at what must be as it was.
func (s *stack) rest(ctx context.Context, c *crowd) {
	s.commands.Wait()
	for pid := range s.processes() {
		s.kill(pid, syscall.SIGCONT)
	}
	_ = os.Remove(filepath.Join(s.dir, "crash"))
	s.change(func(b *settings) {
		version := b.version
		*b = s.baseline()
		b.version = version // else everything rolled now
	})
	s.awaitMaster(ctx)
	s.note("at rest")
	_ = s.command(ctx, "reload")
	for _, pool := range s.poolNames() {
		_ = s.command(ctx, "resume", pool)
	}
	if err := s.await(ctx, recovery, "everything whole again", s.whole); err != nil {
		s.violated("%v", err)
		return
	}
	s.askAll(c)
	if err := s.await(ctx, recovery, "nothing but what belongs there", s.settled); err != nil {
		s.violated("%v", err)
	}
	s.readNotes()
	s.readLog()
}

// whole says what is missing for everything to be as configured and ready.
func (s *stack) whole() string {
	now, err := s.status(context.Background())
	if err != nil {
		return err.Error()
	}
	if len(now.Older) > 0 {
		return "an older generation lives"
	}
	if len(now.Pools) != len(s.poolNames()) {
		return fmt.Sprintf("%d pools", len(now.Pools))
	}
	for _, pool := range now.Pools {
		if want := s.settings.workers[pool.Name]; len(pool.Workers) != want {
			return fmt.Sprintf("%s has %d workers of %d", pool.Name, len(pool.Workers), want)
		}
		for _, w := range pool.Workers {
			if w.State != "ready" || w.InFlight != 0 {
				return fmt.Sprintf("%s is %s (wish %s) with %d in flight", w.Name, w.State, w.Wish, w.InFlight)
			}
		}
	}
	return ""
}

// askAll makes requests that all must be answered.
func (s *stack) askAll(c *crowd) {
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			one := newClient(c, s.o, 0)
			defer one.wire.close()
			for turn := range 10 {
				r := one.wire.do(&spec{
					id: fmt.Sprintf("rest-%d-%d-%d", time.Now().UnixNano(), i, turn), pool: one.pools[turn%len(one.pools)],
					what: []what{item, stream, digest}[turn%3], manner: plain, size: 1000, events: 3, http2: i%2 == 0,
				}, s.address)
				if r.outcome != right {
					s.violated("a request while nothing was wrong: %s: %s", r.outcome, r.detail)
				}
			}
		})
	}
	all.Wait()
}

// figures are what must not grow.
type figures struct {
	descriptors, goroutines, memoryKiB int
	keepers                            int // descriptors of all keepers
}

// How much more than at the first rest there may be. Connections that clients
// and engines have just closed, and threads of the Go runtime, come and go.
const (
	moreDescriptors = 12
	moreGoroutines  = 15
	moreMemoryKiB   = 48 << 10
	// After this long none is left of the connections to engines that nobody uses.
	idle = 6 * time.Second
)

// settled says what is too many.
func (s *stack) settled() string {
	if missing := s.whole(); missing != "" {
		return missing
	}
	metrics, err := s.metrics()
	if err != nil {
		return err.Error()
	}
	for _, name := range []string{"stoker_requests_in_flight", "stoker_queue_length"} {
		if metrics[name] != 0 {
			return fmt.Sprintf("%s is %v", name, metrics[name])
		}
	}
	if wrong := s.strangers(); wrong != "" {
		return wrong
	}
	master := s.master()
	if s.first == nil || s.last {
		time.Sleep(idle)
	}
	// A keeper that the master has started, and not found, is a child that it has a
	// descriptor of.
	kinds := kindsOf(master)
	children := kinds["anon_inode:[pidfd]"] + kinds["pidfd"] // as older and newer kernels call it
	now := figures{
		descriptors: descriptors(master) - children, goroutines: int(metrics["go_goroutines"]), memoryKiB: residentKiB(master),
	}
	states := s.states()
	for _, k := range states {
		now.keepers += descriptors(k.KeeperPID)
	}
	if s.first == nil {
		s.first = &now
		s.note("at the first rest: %+v", now)
	}
	more := moreDescriptors
	if s.last {
		more /= 2
	}
	switch {
	case now.descriptors > s.first.descriptors+more:
		return fmt.Sprintf("%d descriptors, at first %d: %v", now.descriptors, s.first.descriptors, kindsOf(master))
	case children > len(states):
		return fmt.Sprintf("%d descriptors of children, and %d keepers", children, len(states))
	case now.goroutines > s.first.goroutines+moreGoroutines:
		return fmt.Sprintf("%d goroutines, at first %d", now.goroutines, s.first.goroutines)
	case now.keepers > s.first.keepers+moreDescriptors:
		return fmt.Sprintf("%d descriptors of keepers, at first %d", now.keepers, s.first.keepers)
	case !s.o.race && now.memoryKiB > s.first.memoryKiB+moreMemoryKiB:
		return fmt.Sprintf("%d KiB, at first %d", now.memoryKiB, s.first.memoryKiB)
	}
	s.note("at rest: %+v", now)
	return ""
}

// strangers says which process does not belong there, or which is missing:
// there is one master, and a keeper, an engine and its child for each worker.
func (s *stack) strangers() string {
	now, err := s.status(context.Background())
	if err != nil {
		return err.Error()
	}
	owner := s.masterEpoch()
	left := s.processes()
	delete(left, now.PID)
	engines := 0
	states := map[string]kept{}
	for _, k := range s.states() {
		if alive(k.KeeperPID) {
			states[k.Name] = k
		}
	}
	for _, pool := range now.Pools {
		for _, w := range pool.Workers {
			k := states[w.Name]
			switch {
			case left[w.PID] == "" || left[w.KeeperPID] == "":
				return fmt.Sprintf("%s: engine %d or keeper %d is missing", w.Name, w.PID, w.KeeperPID)
			case k.EnginePID != w.PID || k.KeeperPID != w.KeeperPID:
				return fmt.Sprintf("%s: its keeper's file says %+v, the master %+v", w.Name, k, w)
			case k.Epoch != owner:
				return fmt.Sprintf("%s: its keeper's epoch is %d, the master's %d", w.Name, k.Epoch, owner)
			}
			delete(left, w.PID)
			delete(left, w.KeeperPID)
			delete(states, w.Name)
			if pool.Name != "app" {
				engines++
			}
		}
	}
	if len(states) > 0 {
		return fmt.Sprintf("keepers that nobody knows: %v", states)
	}
	for pid, command := range left {
		if strings.HasSuffix(command, " sleeper") {
			engines--
			delete(left, pid)
		}
	}
	if len(left) > 0 || engines != 0 {
		return fmt.Sprintf("processes that belong to nobody: %v, and %d children of engines missing", left, engines)
	}
	return ""
}

func (s *stack) masterEpoch() uint64 {
	text, _ := os.ReadFile(filepath.Join(s.runDir(), "epoch"))
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// metrics are the sums over all labels.
func (s *stack) metrics() (map[string]float64, error) {
	text, err := s.askText(context.Background(), "/metrics")
	if err != nil {
		return nil, err
	}
	sums := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		name := line[:max(0, strings.IndexAny(line, "{ "))]
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err == nil && name != "#" {
			sums[name] += value
		}
	}
	return sums, nil
}

func descriptors(pid int) int {
	names, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(names)
}

func kindsOf(pid int) map[string]int {
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	kinds := map[string]int{}
	for _, link := range links {
		target, _ := os.Readlink(link)
		if kind, _, numbered := strings.Cut(target, ":["); numbered && kind != "anon_inode" {
			target = kind
		}
		kinds[target]++
	}
	return kinds
}

func residentKiB(pid int) int {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}

// readNotes reads what engines have noted since the last time.
func (s *stack) readNotes() {
	for _, line := range s.since("served", &s.notesRead) {
		words := strings.Fields(line)
		switch {
		case len(words) != 3:
			s.violated("an engine noted %q", line)
		case words[0] == "two":
			s.violated("two engines were on slot %s: %s came before the other had gone", words[1], words[2])
		case words[0] == "swapped":
			s.violated("an engine got the head of request %s with the target %s", words[1], words[2])
		default:
			s.reached(words[1], words[2])
		}
	}
}

// reached notes that a request has come to an engine. Another may have it
// again only if the first has died of something, and a third if that was most
// likely another's doing.
func (s *stack) reached(id, engine string) {
	before := s.served[id]
	s.served[id] = append(before, engine)
	if len(before) == 0 {
		return
	}
	lives := func(engine string) bool {
		pid, _, _ := strings.Cut(engine, "@")
		n, _ := strconv.Atoi(pid)
		return alive(n) && processOf(n) == engine
	}
	if slices.Contains(before, engine) || len(before) > 2 || slices.ContainsFunc(before, lives) {
		s.violated("request %s reached engines %v", id, s.served[id])
	}
}

// readLog looks for what no log may have in it.
func (s *stack) readLog() {
	lines := s.since("log", &s.logRead)
	for i, line := range lines {
		for _, bad := range []string{"DATA RACE", "panic: ", "fatal error: ", "concurrent map", "slice bounds out of range", "nil pointer dereference"} {
			// An engine's SIGABRT prints its goroutines, prefixed with its name.
			if strings.Contains(line, bad) && !strings.Contains(line, "SIGABRT") {
				s.violated("the log says:\n%s", strings.Join(lines[i:min(i+60, len(lines))], "\n"))
				return
			}
		}
	}
}

// since returns the lines that have come to a file since *read.
func (s *stack) since(name string, read *int64) []string {
	f, err := os.Open(filepath.Join(s.dir, name)) //nolint:gosec // the test's own directory
	if err != nil {
		s.violated("%v", err)
		return nil
	}
	defer f.Close() //nolint:errcheck // only read
	_, _ = f.Seek(*read, 0)
	var lines []string
	reader := bufio.NewReader(f)
	for {
		line, err := reader.ReadBytes('\n')
		if err != nil { // a line without its end is read the next time
			return lines
		}
		*read += int64(len(line))
		lines = append(lines, string(bytes.TrimSpace(line)))
	}
}

// finish ends the service, as the seed says, and looks at what is left.
func (s *stack) finish(ctx context.Context, seed uint64) {
	s.held.Store(true)
	master := s.master()
	s.note("the end")
	if seed%2 == 0 {
		s.kill(master, syscall.SIGTERM)
	} else {
		_ = s.command(ctx, "shutdown")
	}
	if err := s.await(ctx, recovery, "the end", func() string {
		if left := s.processes(); len(left) > 0 {
			return fmt.Sprintf("processes left: %v", slices.Sorted(maps.Values(left)))
		}
		return ""
	}); err != nil {
		s.violated("%v", err)
	}
	_ = filepath.WalkDir(s.runDir(), func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeSocket != 0 {
			s.violated("socket left after the end: %s", path)
		}
		return nil
	})
	s.readLog()
}
