package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What a change of the master costs: engines of the binary itself run on while
// it is upgraded, and while it is killed and started again.

const surviveWorkers = 2

// rest is how long nobody has asked anything of a keeper that is at rest.
const rest = 10 * time.Second

// survivor is a run directory whose masters come and go.
type survivor struct {
	stoker, dir, address string
	masters              []*exec.Cmd // which we started, for the end
}

// survive measures n upgrades and n crashes, and returns Markdown.
func survive(ctx context.Context, o options) (report string, err error) {
	dir, err := os.MkdirTemp("", "stoker-bench")
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := &survivor{dir: dir}
	if s.stoker, err = filepath.Abs(o.stoker); err != nil {
		return "", err
	}
	if s.address, err = freeAddress(ctx); err != nil {
		return "", err
	}
	config := fmt.Sprintf("listen = [%q]\nrun_dir = %q\naccess_log = \"off\"\norphan_timeout = \"20s\"\nshutdown.idle_grace = \"200ms\"\n[[pools]]\nname = \"p\"\nworkers = %d\ncommand = [%q, \"engine\", \"--load-time\", \"0s\", \"--socket\", \"{socket}\"]\n",
		s.address, filepath.Join(dir, "run"), surviveWorkers, s.stoker)
	if err := os.WriteFile(filepath.Join(dir, "stoker.toml"), []byte(config), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	defer s.end(context.WithoutCancel(ctx))
	if err := s.start(ctx); err != nil {
		return "", err
	}
	if err := s.firstAnswer(ctx); err != nil {
		return "", err
	}
	var upgrades, gaps, crashes, memory, atRest []float64
	for range o.tries {
		took, gap, err := s.upgrade(ctx)
		if err != nil {
			return "", err
		}
		upgrades, gaps = append(upgrades, took), append(gaps, gap)
	}
	for range o.tries {
		took, err := s.crash(ctx)
		if err != nil {
			return "", err
		}
		crashes = append(crashes, took)
	}
	if memory, err = s.keeperMemory(ctx); err != nil {
		return "", err
	}
	time.Sleep(rest)
	if atRest, err = s.keeperMemory(ctx); err != nil {
		return "", err
	}
	return fmt.Sprintf("\n## Upgrade and crash (%d tries each, %d engines)\n\n| | median | least–greatest |\n|---|---|---|\n"+
		"| `stoker upgrade` to the new generation serving, ms | %s |\n| longest time between two answers on new connections during an upgrade, ms | %s |\n"+
		"| kill -9 of the master to the first answer of the next, ms | %s |\n"+
		"| resident memory of a keeper just after that, MB | %s |\n| … %s later, MB | %s |\n",
		o.tries, surviveWorkers, spread(upgrades), spread(gaps), spread(crashes), spread(memory), rest, spread(atRest)), nil
}

func spread(values []float64) string {
	slices.Sort(values)
	return fmt.Sprintf("%.1f | %.1f–%.1f", values[len(values)/2], values[0], values[len(values)-1])
}

func (s *survivor) start(ctx context.Context) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), s.stoker, "run", "-c", filepath.Join(s.dir, "stoker.toml"))
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start a master: %w", err)
	}
	s.masters = append(s.masters, cmd)
	return nil
}

// firstAnswer waits until a request is answered by an engine.
func (s *survivor) firstAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var last error
	for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
		if last = s.ask(ctx); last == nil {
			return nil
		}
	}
	return fmt.Errorf("%s does not serve: %w", s.address, last)
}

func (s *survivor) ask(ctx context.Context) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.address+"/v1/models", nil)
	if err != nil {
		return err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer func() { _ = response.Body.Close() }()
	if _, err = io.Copy(io.Discard, response.Body); err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d", response.StatusCode)
	}
	return err
}

// upgrade returns how long it took by the command's own clock, and the longest
// time between two answers on new connections meanwhile, both in milliseconds.
// A connection counts as accepted when it is answered: the kernel completes it
// before anybody has called accept.
func (s *survivor) upgrade(ctx context.Context) (took, gap float64, err error) {
	over, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		last := time.Now()
		for {
			if err := s.ask(ctx); err != nil {
				failed <- fmt.Errorf("a request during an upgrade: %w", err)
				return
			}
			now := time.Now()
			gap, last = max(gap, now.Sub(last).Seconds()*1e3), now
			select {
			case <-over:
				failed <- nil
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	began := time.Now()
	out, err := exec.CommandContext(ctx, s.stoker, "upgrade", "--run-dir", filepath.Join(s.dir, "run")).CombinedOutput()
	took = time.Since(began).Seconds() * 1e3
	if err != nil {
		err = fmt.Errorf("upgrade: %w: %s", err, out)
	}
	// The old generation ends in this time: the next upgrade would wait for it.
	time.Sleep(500 * time.Millisecond)
	close(over)
	return took, gap, errors.Join(err, <-failed)
}

// awaitDeath waits until the killed master holds the run directory no more: on
// a busy machine that takes longer than the start of the next, which would give up.
func (s *survivor) awaitDeath() error {
	lock, err := os.Open(filepath.Join(s.dir, "run", "lock"))
	if err != nil {
		return fmt.Errorf("open the run directory's lock: %w", err)
	}
	defer func() { _ = lock.Close() }() // which gives it back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH); err != nil {
		return fmt.Errorf("wait for the end of the killed master: %w", err)
	}
	return nil
}

// crash returns the milliseconds from the kill to the next master's first answer.
func (s *survivor) crash(ctx context.Context) (float64, error) {
	pid, _, err := s.status(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, fmt.Errorf("kill master %d: %w", pid, err)
	}
	if err := s.awaitDeath(); err != nil {
		return 0, err
	}
	if err := s.start(ctx); err != nil {
		return 0, err
	}
	if err := s.firstAnswer(ctx); err != nil {
		return 0, err
	}
	return time.Since(began).Seconds() * 1e3, nil
}

// status returns the master's process id and those of the keepers.
func (s *survivor) status(ctx context.Context) (master int, keepers []int, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.dir, "run", "admin.sock"))
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin/status", nil)
	if err != nil {
		return 0, nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, nil, fmt.Errorf("ask for the status: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	var document struct {
		PID   int `json:"pid"`
		Pools []struct {
			Workers []struct {
				KeeperPID int `json:"keeper_pid"`
			} `json:"workers"`
		} `json:"pools"`
	}
	if err := json.NewDecoder(response.Body).Decode(&document); err != nil {
		return 0, nil, fmt.Errorf("read the status: %w", err)
	}
	for _, pool := range document.Pools {
		for _, w := range pool.Workers {
			keepers = append(keepers, w.KeeperPID)
		}
	}
	if document.PID == 0 || len(keepers) != surviveWorkers {
		return 0, nil, fmt.Errorf("status tells of master %d and %d keepers", document.PID, len(keepers))
	}
	return document.PID, keepers, nil
}

// keeperMemory is each keeper's VmRSS in MB.
func (s *survivor) keeperMemory(ctx context.Context) ([]float64, error) {
	_, keepers, err := s.status(ctx)
	if err != nil {
		return nil, err
	}
	var sizes []float64
	for _, pid := range keepers {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			return nil, fmt.Errorf("read a keeper's memory: %w", err)
		}
		_, rest, _ := strings.Cut(string(text), "VmRSS:")
		words := strings.Fields(rest)
		if len(words) == 0 {
			return nil, fmt.Errorf("no VmRSS of keeper %d", pid)
		}
		kib, err := strconv.ParseFloat(words[0], 64)
		if err != nil {
			return nil, fmt.Errorf("VmRSS of keeper %d: %w", pid, err)
		}
		sizes = append(sizes, kib*1024/1e6)
	}
	return sizes, nil
}

// end stops what runs; orphan_timeout ends what a failure leaves.
func (s *survivor) end(ctx context.Context) {
	if out, err := exec.CommandContext(ctx, s.stoker, "shutdown", "--run-dir", filepath.Join(s.dir, "run")).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "shutdown: %v: %s\n", err, out)
	}
	for _, master := range s.masters {
		_ = master.Process.Kill()
		_ = master.Wait()
	}
}
