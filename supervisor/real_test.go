package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"

	"stoker/config"
	"stoker/upstream"
)

// These tests run real keepers and engines: the test binary, executed again.

// output collects what a supervisor logs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// master is one supervisor under test.
type master struct {
	*Supervisor
	t        *testing.T
	log      *output
	registry *prometheus.Registry
}

// realConfig has one pool "e" of engines with the given arguments, quick to probe.
// Its run directory's path is short: unix sockets take no long ones.
func realConfig(t *testing.T, workers int, args ...string) *config.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "s") //nolint:usetesting // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	c := config.Default()
	c.RunDir, c.OrphanTimeout = dir, config.Duration(20*time.Second)
	p := config.DefaultPool("e")
	p.Workers = workers
	p.Command = append([]string{os.Args[0], "engine"}, args...)
	p.Health.Interval = config.Duration(200 * time.Millisecond)
	p.Stop.Grace = config.Duration(10 * time.Second)
	p.StartTimeout = config.Duration(20 * time.Second)
	c.Pools = []config.Pool{p}
	return c
}

func startMaster(t *testing.T, c *config.Config) *master {
	t.Helper()
	return startMasterWith(t, c, os.Args[0], "keeper")
}

func startMasterWith(t *testing.T, c *config.Config, keeperArgv ...string) *master {
	t.Helper()
	epoch, err := NextEpoch(c.RunDir)
	if err != nil {
		t.Fatal(err)
	}
	pools := make(map[string]*upstream.Pool)
	for _, p := range c.Pools {
		pools[p.Name] = upstream.NewPool(p.Name, upstream.PoolOptions{})
	}
	m := &master{t: t, log: &output{}, registry: prometheus.NewRegistry()}
	engines, err := os.OpenFile(filepath.Join(c.RunDir, "engines.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engines.Close() })
	m.Supervisor, err = New(Options{
		Config: c, Pools: pools, Epoch: epoch, Registerer: m.registry, Stderr: engines,
		Log:        hclog.New(&hclog.LoggerOptions{Output: m.log, Level: hclog.Debug}),
		KeeperArgv: keeperArgv,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		m.Stop(ctx)
		if t.Failed() {
			t.Logf("log:\n%s", m.log)
		}
	})
	return m
}

// eventually waits for a fact of the outside world.
func (m *master) eventually(what string, fact func() bool) {
	m.t.Helper()
	eventually(m.t, what, fact)
}

func eventually(t *testing.T, what string, fact func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !fact(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
	}
}

func (m *master) allReady() {
	m.t.Helper()
	m.eventually("all ready", func() bool {
		ready, total := m.Ready()
		return ready == total
	})
}

func (m *master) worker(name string) WorkerStatus {
	m.t.Helper()
	for _, p := range m.Status() {
		for _, w := range p.Workers {
			if w.Name == name {
				return w
			}
		}
	}
	m.t.Fatalf("no worker %s", name)
	return WorkerStatus{}
}

// alive reports whether a process lives; a zombie that nobody reaps does not.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	return fields[0] != "Z" && fields[0] != "X"
}

func gone(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if pid == 0 {
			t.Error("no pid")
		}
		eventually(t, fmt.Sprintf("process %d is gone", pid), func() bool { return !alive(pid) })
	}
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no pid: %d", pid)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// get asks an engine on its address.
func get(t *testing.T, address, path string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			if socket, ok := strings.CutPrefix(address, "unix:"); ok {
				return net.Dial("unix", socket)
			}
			return net.Dial("tcp", address)
		},
	}}
	if answer, err := client.Get("http://engine" + path); err == nil { // /exit breaks its own answer
		answer.Body.Close()
	}
}
