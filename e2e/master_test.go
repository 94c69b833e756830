//go:build e2e

package e2e

import (
	"bufio"
	"cmp"
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
	"testing"
	"time"

	"stoker/internal/steady"
)

// patience bounds every wait for something that must happen by itself. It is
// long because a shared machine is slow, not because anything here may be.
const patience = 40 * time.Second

// master is one running stoker with its own run directory and door.
type master struct {
	t       *testing.T
	cmd     *exec.Cmd
	runDir  string
	address string // of the door
	events  string // file in which engines note what befell them
	stdout  string // files that hold what was printed
	stderr  string
	mark    string // in the environment of everything that descends from it
	ended   chan struct{}
	stopped time.Time // when it was asked to stop
}

// setup is how a master is started, beyond its configuration.
type setup struct {
	// args replace "run -c FILE"; {listen} and {run_dir} are replaced in them.
	args []string
	// env is added to the environment.
	env []string
	// below is a command that runs the master's command line, as unshare does.
	below []string
	// user runs the master; nil: who runs the tests.
	user *syscall.Credential
	// binary is run instead of the one under test.
	binary string
	// group makes the master the leader of a process group, as a shell does.
	group bool
}

// start runs stoker with a configuration file: lines for the top level and
// the pools, to which the addresses are added.
func start(t *testing.T, config string) *master {
	t.Helper()
	return startAs(t, config, setup{args: []string{"run", "-c", "{config}"}})
}

func startAs(t *testing.T, config string, s setup) *master {
	t.Helper()
	dir := shortDir(t)
	m := &master{
		t: t, runDir: filepath.Join(dir, "run"), address: freeAddress(t),
		events: filepath.Join(dir, "events"), stdout: filepath.Join(dir, "stdout"), stderr: filepath.Join(dir, "stderr"),
		mark: "STOKER_E2E_MARK=" + filepath.Base(dir), ended: make(chan struct{}),
	}
	file := filepath.Join(dir, "stoker.toml")
	head := fmt.Sprintf("listen = [%q]\nrun_dir = %q\nlog_format = \"json\"\n", m.address, m.runDir)
	if err := os.WriteFile(file, []byte(head+config), 0o644); err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer("{config}", file, "{listen}", m.address, "{run_dir}", m.runDir)
	args := slices.Clone(s.args)
	for i := range args {
		args[i] = replace.Replace(args[i])
	}
	line := append(slices.Clone(s.below), append([]string{cmp.Or(s.binary, binary)}, args...)...)
	m.cmd = exec.Command(line[0], line[1:]...)
	m.cmd.Env = append(os.Environ(), append([]string{m.mark, "STOKER_E2E_EVENTS=" + m.events}, s.env...)...)
	m.cmd.Dir = dir
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user, Setpgid: s.group}
	m.launch()
	return m
}

// again starts another master like this one, in the same run directory.
func (m *master) again() *master {
	m.t.Helper()
	next := *m
	next.cmd = exec.Command(m.cmd.Path, m.cmd.Args[1:]...)
	next.cmd.Env, next.cmd.Dir, next.cmd.SysProcAttr = m.cmd.Env, m.cmd.Dir, m.cmd.SysProcAttr
	next.ended = make(chan struct{})
	next.launch()
	return &next
}

func (m *master) launch() {
	m.t.Helper()
	// Files, not pipes: Wait would wait for every engine that holds a pipe.
	m.cmd.Stdout, m.cmd.Stderr = create(m.t, m.stdout), create(m.t, m.stderr)
	if err := m.cmd.Start(); err != nil {
		m.t.Fatalf("start %s: %v", binary, err)
	}
	go func() { _ = m.cmd.Wait(); close(m.ended) }()
	launched.Store(m, true)
	m.t.Cleanup(m.cleanUp)
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// cleanUp ends whatever a failed test left, and shows what was logged.
func (m *master) cleanUp() {
	if _, report, found := strings.Cut(m.logText(), "WARNING: DATA RACE"); found {
		m.t.Errorf("a data race:%s", report[:min(len(report), 8000)])
	}
	if m.t.Failed() {
		access, _ := os.ReadFile(m.stdout)
		log, _ := os.ReadFile(m.stderr)
		m.t.Logf("end of the access log, and of the log:\n%s\n%s", tail(string(access), 2000), tail(string(log), 8000))
	}
	m.endAll()
	launched.Delete(m)
}

// endAll kills the master and whatever came from it.
func (m *master) endAll() {
	_ = m.cmd.Process.Kill()
	<-m.ended
	// Descendants may be starting others just now: until none is left.
	for range 100 {
		left := m.descendants()
		if len(left) == 0 {
			break
		}
		for _, p := range left {
			_ = syscall.Kill(p.pid, syscall.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (m *master) running() bool {
	select {
	case <-m.ended:
		return false
	default:
		return true
	}
}

func (m *master) signal(sig syscall.Signal) {
	m.t.Helper()
	m.stopped = time.Now()
	if err := m.cmd.Process.Signal(sig); err != nil {
		m.t.Fatalf("signal %v to the master: %v", sig, err)
	}
}

// exit waits for the master's end and returns its exit code.
func (m *master) exit(limit time.Duration) int {
	m.t.Helper()
	select {
	case <-m.ended:
		return m.cmd.ProcessState.ExitCode()
	case <-time.After(limit):
		m.t.Fatalf("the master still runs %v later", limit)
		return -1
	}
}

// stop asks the master to end, and checks that it did so gracefully and that
// nothing is left.
func (m *master) stop() {
	m.t.Helper()
	m.signal(syscall.SIGTERM)
	if code := m.exit(patience); code != 0 {
		m.t.Errorf("exit code %d after TERM, want 0", code)
	}
	m.nothingLeft()
}

// nothingLeft fails unless every process is gone and no socket lies about, nor
// a directory of a worker.
func (m *master) nothingLeft() {
	m.t.Helper()
	if left := m.descendants(); len(left) > 0 {
		m.t.Errorf("processes left after the end: %v", left)
	}
	_ = filepath.WalkDir(m.runDir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeSocket != 0 {
			m.t.Errorf("socket left after the end: %s", path)
		}
		return nil
	})
	for _, dir := range []string{"keepers", "engines"} {
		if _, err := os.Stat(filepath.Join(m.runDir, dir)); err == nil {
			m.t.Errorf("directory left after the end: %s", dir)
		}
	}
}

// unlocked reports whether nobody holds a lock on a file. A process that was
// killed may do so for a moment after everything else of it has gone.
func (m *master) unlocked(path string) bool {
	m.t.Helper()
	lock, err := os.Open(path)
	if err != nil {
		m.t.Fatal(err)
	}
	defer lock.Close()
	return syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) == nil
}

// eventually polls for what has no event to wait on from outside.
func (m *master) eventually(what string, condition func() bool) {
	m.t.Helper()
	m.eventuallyWithin(patience, what, condition)
}

func (m *master) eventuallyWithin(limit time.Duration, what string, condition func() bool) {
	m.t.Helper()
	for deadline := time.Now().Add(limit); !condition(); {
		if time.Now().After(deadline) {
			m.t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ready waits until the master says that it serves.
func (m *master) ready() *master {
	m.t.Helper()
	m.eventually("ready", func() bool {
		if !m.running() {
			m.t.Fatalf("the master ended with code %d instead of becoming ready", m.exit(0))
		}
		code, _, err := m.admin("/readyz")
		return err == nil && code == http.StatusOK
	})
	return m
}

// allReady waits until every worker is ready.
func (m *master) allReady() *master {
	m.t.Helper()
	m.ready()
	m.eventually("every worker ready", func() bool {
		for _, w := range m.workers() {
			if w.State != "ready" {
				return false
			}
		}
		return true
	})
	return m
}

// admin asks the admin socket.
func (m *master) admin(path string) (status int, body string, err error) {
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.runDir, "admin.sock"))
	}}
	client := http.Client{Transport: transport, Timeout: 5 * time.Second}
	response, err := client.Get("http://admin" + path)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}

// statusDocument is what GET /status and stoker status --json promise.
type statusDocument struct {
	PID        int          `json:"pid"`
	State      string       `json:"state"`
	Generation int          `json:"generation"`
	Pools      []poolStatus `json:"pools"`
}

type poolStatus struct {
	Name    string         `json:"name"`
	Workers []workerStatus `json:"workers"`
	Servers []struct {
		Name    string `json:"name"`
		Address string `json:"address"`
		State   string `json:"state"`
	} `json:"servers"`
}

type workerStatus struct {
	Name      string          `json:"name"`
	State     string          `json:"state"`
	PID       int             `json:"pid"`
	KeeperPID int             `json:"keeper_pid"`
	Address   string          `json:"address"`
	InFlight  int             `json:"in_flight"`
	Restarts  int             `json:"restarts"`
	Since     time.Time       `json:"since"`
	LastExit  json.RawMessage `json:"last_exit"`
}

func (m *master) status() statusDocument {
	m.t.Helper()
	code, body, err := m.admin("/status")
	if err != nil || code != http.StatusOK {
		m.t.Fatalf("GET /status: %d %v", code, err)
	}
	var document statusDocument
	if err := json.Unmarshal([]byte(body), &document); err != nil {
		m.t.Fatalf("GET /status: %v in %s", err, body)
	}
	return document
}

// workers of all pools, in order.
func (m *master) workers() []workerStatus {
	m.t.Helper()
	var all []workerStatus
	for _, pool := range m.status().Pools {
		all = append(all, pool.Workers...)
	}
	return all
}

func (m *master) worker(name string) workerStatus {
	m.t.Helper()
	workers := m.workers()
	at := slices.IndexFunc(workers, func(w workerStatus) bool { return w.Name == name })
	if at < 0 {
		m.t.Fatalf("no worker %s in %v", name, workers)
	}
	return workers[at]
}

// metric sums the samples of a name whose labels contain all of the given parts.
func (m *master) metric(name string, labels ...string) float64 {
	m.t.Helper()
	_, body, err := m.admin("/metrics")
	if err != nil {
		m.t.Fatalf("GET /metrics: %v", err)
	}
	var sum float64
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if bare := line[:strings.IndexAny(line+" ", "{ ")]; bare != name {
			continue
		}
		// A label's value may hold a space: the number is the last word.
		value := line[strings.LastIndexByte(line, ' ')+1:]
		if slices.ContainsFunc(labels, func(part string) bool { return !strings.Contains(line, part) }) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			m.t.Fatalf("metric line %q: %v", line, err)
		}
		sum += number
	}
	return sum
}

// logText is everything printed so far.
func (m *master) logText() string {
	out, _ := os.ReadFile(m.stdout)
	err, _ := os.ReadFile(m.stderr)
	return string(out) + string(err)
}

// logLines are the printed lines that are JSON objects and hold the given field.
func (m *master) logLines(field string) []map[string]any {
	m.t.Helper()
	var lines []map[string]any
	scanner := bufio.NewScanner(strings.NewReader(m.logText()))
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var line map[string]any
		if json.Unmarshal(scanner.Bytes(), &line) == nil && line[field] != nil {
			lines = append(lines, line)
		}
	}
	return lines
}

// engineEvents are the lines that engines have noted so far.
func (m *master) engineEvents() []string {
	text, err := os.ReadFile(m.events)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}

func (m *master) url(path string) string { return "http://" + m.address + path }

func tail(text string, n int) string {
	if len(text) > n {
		return "… " + text[len(text)-n:]
	}
	return text
}

// freeAddress returns a loopback address on which nobody listens, nor will anybody
// but whom the test tells to: a port that is merely free may be another's in a moment,
// and that of a master that has ended be answered by somebody else.
func freeAddress(t *testing.T) string {
	t.Helper()
	return steady.Reserve(t, "127.0.0.1")
}
