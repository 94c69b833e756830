package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

//go:embed app.py
var app []byte

// stack is the stoker under test with its engines, and what the test knows of it.
type stack struct {
	*journal
	o        options
	dir      string
	binary   string    // the file that is run and replaced
	versions [2]string // what replaces it
	installs int
	address  string
	second   string // of the listener that comes and goes

	mu       sync.Mutex // of settings and outages
	settings settings
	outages  []outage

	guarding sync.WaitGroup // the guard, which starts a master when there is none
	unguard  context.CancelFunc
	started  sync.WaitGroup
	starting atomic.Int32 // masters that were started, and live
	held     atomic.Bool  // the guard starts none for now

	commands sync.WaitGroup // events that are still being done
	burst    func(n, pick int)

	first     *figures // at the first rest
	last      bool     // the rest that is to come is the last
	logRead   int64    // of the log, and of what engines noted
	notesRead int64
	served    map[string][]string // engines (processOf) by request
}

// outage is a time in which connections may be refused or lost: no master
// lives, or one is being killed with whatever it carries.
type outage struct{ from, to time.Time } // to is zero while it goes on

func newStack(ctx context.Context, o options, dir string, j *journal) (*stack, error) {
	s := &stack{journal: j, o: o, dir: dir, served: map[string][]string{}}
	s.binary = filepath.Join(dir, "stoker")
	for i, version := range []string{"one", "two"} {
		s.versions[i] = o.binary
		if o.binary == "" {
			s.versions[i] = filepath.Join(dir, version)
			if err := build(ctx, s.versions[i], version, o.race); err != nil {
				return nil, err
			}
		}
	}
	chance := rand.New(rand.NewPCG(o.seed, uint64(os.Getpid())))
	s.address, s.second = freeAddress(chance), freeAddress(chance)
	if exec.CommandContext(ctx, o.python, "-c", "import uvicorn, fastapi").Run() != nil {
		fmt.Printf("chaos: SKIPPED the pool of FastAPI: %q has no uvicorn and FastAPI\n", o.python)
		s.o.python = ""
	}
	s.settings = s.baseline()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), app, 0o600); err != nil {
		return nil, err
	}
	return s, errors.Join(s.install(), s.writeConfig())
}

func build(ctx context.Context, to, version string, race bool) error {
	args := []string{"build", "-trimpath", "-tags", "failpoints", "-ldflags", "-X main.version=" + version, "-o", to}
	if race {
		args = append(args, "-race")
	}
	out, err := exec.CommandContext(ctx, "go", append(args, "./cmd/stoker")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build stoker: %w: %s", err, out)
	}
	return nil
}

// freeAddress is one outside the range of which the kernel gives ports to
// clients: a listener that comes and goes must find its port again.
func freeAddress(chance *rand.Rand) string {
	for {
		address := fmt.Sprintf("127.0.0.1:%d", 15000+chance.IntN(15000))
		l, err := net.Listen("tcp", address) //nolint:noctx // it ends at once
		if err != nil {
			continue
		}
		_ = l.Close()
		return address
	}
}

// install replaces the binary as a package manager does: another file takes its name.
func (s *stack) install() error {
	text, err := os.ReadFile(s.versions[s.installs%2])
	if err == nil {
		err = os.WriteFile(s.binary+".new", text, 0o700) //nolint:gosec // it is to be executed
	}
	if err == nil {
		err = os.Rename(s.binary+".new", s.binary)
	}
	s.installs++
	return err
}

// begin starts the first master and waits until everything is ready.
func (s *stack) begin(ctx context.Context) error {
	guard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.unguard = cancel
	s.guarding.Go(func() { s.guard(guard) })
	s.guarding.Go(func() { s.watchEpochs(guard) })
	return s.await(ctx, recovery, "all workers ready", s.whole)
}

// guard is what a service manager does: it starts a master when there is none.
func (s *stack) guard(ctx context.Context) {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if s.lives(s.master()) || s.held.Load() {
			continue
		}
		// Its successor may live, and has not signed yet.
		time.Sleep(20 * time.Millisecond)
		if s.lives(s.master()) || s.held.Load() || ctx.Err() != nil {
			continue
		}
		now := time.Now()
		if first := s.master() == 0; !first && !s.excused(now, now) {
			s.violated("the master %d has ended, and nobody has ended it", s.master())
		}
		over := s.outage("no master lives: another is started")
		s.launch()
		_ = s.await(ctx, 20*time.Second, "a master serves", func() string {
			missing := s.serving(ctx)
			if missing != "" && s.starting.Load() == 0 && !s.lives(s.master()) && !s.held.Load() {
				s.launch() // it met one that was just ending
			}
			return missing
		})
		over()
	}
}

// serving says why no master serves clients: one that leaves answers operators a while
// longer, and one that comes a while sooner.
func (s *stack) serving(ctx context.Context) (missing string) {
	now, err := s.status(ctx)
	if err != nil {
		return err.Error()
	}
	if now.State == "draining" || now.State == "stopping" {
		return fmt.Sprintf("master %d is %s", now.PID, now.State)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
	if err != nil {
		return err.Error()
	}
	_ = conn.Close()
	return ""
}

// master is the pid of who holds the run directory, 0 if that is unknown.
func (s *stack) master() int {
	text, err := os.ReadFile(filepath.Join(s.runDir(), "lock"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return pid
}

func (s *stack) runDir() string { return filepath.Join(s.dir, "run") }

// launch starts a master, and does not wait for it.
func (s *stack) launch() {
	cmd := exec.CommandContext(context.Background(), s.binary, "run", "-c", filepath.Join(s.dir, "stoker.toml"))
	cmd.Env = append(os.Environ(), dirVariable+"="+s.dir, "STOKER_FAILPOINTS="+filepath.Join(s.dir, "points"), "GORACE=halt_on_error=0")
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is meant for the test
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		cmd.Stdout, cmd.Stderr = log, log
		err = cmd.Start()
	}
	if err != nil {
		s.violated("start a master: %v", err)
		return
	}
	_ = log.Close()
	s.note("started master %d", cmd.Process.Pid)
	s.starting.Add(1)
	s.started.Go(func() { _ = cmd.Wait(); s.starting.Add(-1) })
}

// outage begins a time in which connections may fail, and returns its end.
func (s *stack) outage(why string) (over func()) {
	s.note("outage: %s", why)
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.outages)
	s.outages = append(s.outages, outage{from: time.Now()})
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.outages[n].to = time.Now()
	})
}

// excused says whether an outage touched the time between from and to.
func (s *stack) excused(from, to time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	const slack = 100 * time.Millisecond // until a death is seen everywhere
	return slices.ContainsFunc(s.outages, func(o outage) bool {
		return o.from.Before(to) && (o.to.IsZero() || o.to.Add(slack).After(from))
	})
}

// status is what GET /status promises, as far as the test looks at it.
type status struct {
	PID        int
	State      string
	Generation int
	Older      []struct{ PID int }
	Pools      []struct {
		Name    string
		Workers []struct {
			Name      string
			State     string
			Wish      string
			PID       int `json:"pid"`
			KeeperPID int `json:"keeper_pid"`
			InFlight  int `json:"in_flight"`
		}
	}
}

// status asks the admin socket how everything is.
func (s *stack) status(ctx context.Context) (now status, err error) {
	text, err := s.askText(ctx, "/status")
	if err != nil {
		return status{}, err
	}
	return now, json.Unmarshal(text, &now)
}

func (s *stack) askText(ctx context.Context, path string) ([]byte, error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(s.runDir(), "admin.sock"))
	}}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://admin"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %d %.200q", path, response.StatusCode, text)
	}
	return text, err
}

// command runs a stoker command and notes how it ended. One that does not end
// is a violation: each is bounded by the configuration.
func (s *stack) command(ctx context.Context, words ...string) error {
	const bound = 90 * time.Second
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	// The binary on disk may just be no program, or another version.
	cmd := exec.CommandContext(ctx, s.versions[0], append(words, "--run-dir", s.runDir())...)
	out, err := cmd.CombinedOutput()
	s.note("  stoker %s: %v: %s", strings.Join(words, " "), cmp.Or(fmt.Sprint(err), "done"), bytes.TrimSpace(out))
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.violated("stoker %s did not end within %v", strings.Join(words, " "), bound)
	}
	return err
}

// await polls until condition says nothing more.
func (s *stack) await(ctx context.Context, limit time.Duration, what string, condition func() (missing string)) error {
	began, missing := time.Now(), ""
	for time.Since(began) < limit && ctx.Err() == nil {
		if missing = condition(); missing == "" {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%s: %w, in %v: %s", what, errNoTime, limit, missing)
}

// alive says whether a process of ours exists and is no zombie.
func alive(pid int) bool {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && pid > 0 && len(command) > 0
}

// processOf names a process as no other is named: pids are few, and soon another's.
func processOf(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // what runs here has no such thing in its name
	fields := bytes.Fields(rest)
	if len(fields) < 20 {
		return ""
	}
	return fmt.Sprintf("%d@%s", pid, fields[19])
}

// lives says whether a process exists and is one of ours: who held a lock may be dead,
// and its pid a stranger's.
func (s *stack) lives(pid int) bool { return s.commandOf(pid) != "" }

// kill signals a process if it is one of ours: pids come from files that may be old.
func (s *stack) kill(pid int, sig syscall.Signal) bool {
	return pid > 1 && s.commandOf(pid) != "" && syscall.Kill(pid, sig) == nil
}

// processes are all that descend from the masters, by pid.
func (s *stack) processes() map[int]string {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	found := map[int]string{}
	for _, entry := range entries {
		pid, _ := strconv.Atoi(filepath.Base(entry))
		if command := s.commandOf(pid); command != "" {
			found[pid] = command
		}
	}
	return found
}

// commandOf is the command line of a living process that descends from the
// masters, by its environment, or, for keepers, by what it was told; else "".
func (s *stack) commandOf(pid int) string {
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	env, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if pid == os.Getpid() || !bytes.Contains(command, []byte(s.dir+"/")) && !bytes.Contains(env, []byte(dirVariable+"="+s.dir+"\x00")) {
		return ""
	}
	return strings.TrimSpace(string(bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
}

// killAll leaves nothing behind, whatever came before.
func (s *stack) killAll() {
	s.held.Store(true)
	if s.unguard != nil {
		s.unguard()
		s.guarding.Wait()
	}
	for range 100 {
		left := s.processes()
		if len(left) == 0 {
			break
		}
		for pid := range left {
			s.kill(pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.started.Wait()
}
