package keeper

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be a keeper, or a puppet: an engine, or any
// process of its tree, that does what a test tells it.
func TestMain(m *testing.M) {
	if len(os.Args) > 3 && os.Args[1] == "keeper" && os.Args[2] == "--dir" {
		os.Exit(Main(os.Args[3]))
	}
	if len(os.Args) > 3 && os.Args[1] == "puppet" {
		os.Exit(puppet(os.Args[2], os.Args[3], os.Args[4:]))
	}
	os.Setenv("GORACE", noExitSleep) // keepers inherit it
	os.Exit(m.Run())
}

// noExitSleep keeps the race detector from resting for a second at each exit.
const noExitSleep = "atexit_sleep_ms=0"

// limit bounds every wait; nothing that works comes near it.
const limit = 20 * time.Second

// puppet calls in at the stage and obeys until the stage is gone.
func puppet(stage, name string, flags []string) int {
	counts := make(chan os.Signal, 1000)
	for _, f := range flags {
		switch f {
		case "deaf":
			signal.Ignore(syscall.SIGTERM, syscall.SIGINT)
		case "counting":
			signal.Notify(counts)
		}
	}
	conn, err := net.Dial("unix", stage)
	if err != nil {
		return 98
	}
	fmt.Fprintf(conn, "%s %d\n", name, os.Getpid())
	for in := bufio.NewScanner(conn); in.Scan(); {
		words := strings.Fields(in.Text())
		switch words[0] {
		case "exit":
			code, _ := strconv.Atoi(words[1])
			return code
		case "spawn":
			if err := spawnPuppet(stage, words[1:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 97
			}
		case "print":
			fmt.Println(strings.Join(words[1:], " "))
		case "signals":
			got := []string{"got"}
			for len(counts) > 0 {
				if s := <-counts; s != syscall.SIGURG && s != syscall.SIGCHLD {
					got = append(got, s.String())
				}
			}
			fmt.Fprintln(conn, strings.Join(got, " "))
		}
	}
	return 99
}

// spawnPuppet starts another: NAME [setsid] [bare] [mute] [via] [flags for itself].
func spawnPuppet(stage string, words []string) error {
	cmd := exec.Command(os.Args[0], append([]string{"puppet", stage}, words...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	for _, w := range words[1:] {
		switch w {
		case "setsid":
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		case "bare":
			cmd.Env = []string{"BARE=1"}
		case "mute":
			cmd.Stdout, cmd.Stderr = nil, nil
		}
	}
	return cmd.Start()
}

// stage is where puppets call in.
type stage struct {
	t    *testing.T
	path string
	mu   sync.Mutex
	cast map[string]*actor
	came chan struct{} // 1-slot
}

// actor is a puppet that has called in.
type actor struct {
	t    *testing.T
	pid  int
	conn net.Conn
	gone chan struct{} // closed when the process has ended
	said chan string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, path: filepath.Join(t.TempDir(), "s"), cast: make(map[string]*actor), came: make(chan struct{}, 1)}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { s.follow(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		s.mu.Lock()
		for _, a := range s.cast {
			a.conn.Close()
		}
		s.mu.Unlock()
		wg.Wait()
	})
	return s
}

func (s *stage) follow(c net.Conn) {
	defer c.Close()
	in := bufio.NewScanner(c)
	if !in.Scan() {
		return
	}
	name, pid, _ := strings.Cut(in.Text(), " ")
	a := &actor{t: s.t, conn: c, gone: make(chan struct{}), said: make(chan string, 16)}
	a.pid, _ = strconv.Atoi(pid)
	defer close(a.gone)
	s.mu.Lock()
	s.cast[name] = a
	s.mu.Unlock()
	select {
	case s.came <- struct{}{}:
	default:
	}
	for in.Scan() {
		a.said <- in.Text()
	}
}

// enter waits until the puppet of that name has called in.
func (s *stage) enter(name string) *actor {
	s.t.Helper()
	deadline := time.After(limit)
	for {
		s.mu.Lock()
		a := s.cast[name]
		s.mu.Unlock()
		if a != nil {
			return a
		}
		select {
		case <-s.came:
		case <-deadline:
			s.t.Fatalf("puppet %s never came", name)
		}
	}
}

// argv is the command of a puppet.
func (s *stage) argv(name string, flags ...string) []string {
	return append([]string{os.Args[0], "puppet", s.path, name}, flags...)
}

// tell gives an order.
func (a *actor) tell(order string) {
	a.t.Helper()
	if _, err := fmt.Fprintln(a.conn, order); err != nil {
		a.t.Fatalf("tell %q: %v", order, err)
	}
}

// mustEnd waits for the process's end.
func (a *actor) mustEnd() {
	a.t.Helper()
	select {
	case <-a.gone:
	case <-time.After(limit):
		a.t.Fatalf("pid %d still lives", a.pid)
	}
}

// signals are those that the actor has got so far; it was started "counting".
func (a *actor) signals() string {
	a.t.Helper()
	a.tell("signals")
	select {
	case got := <-a.said:
		return strings.TrimPrefix(got, "got")
	case <-a.gone:
		a.t.Fatalf("pid %d was killed", a.pid)
	case <-time.After(limit):
		a.t.Fatalf("pid %d does not answer", a.pid)
	}
	return ""
}

// mustBeUntouched holds a stranger to be there and unsignalled.
func (a *actor) mustBeUntouched() {
	a.t.Helper()
	if got := a.signals(); got != "" {
		a.t.Errorf("pid %d, a stranger, got signals:%s", a.pid, got)
	}
}

// stranger is a process that no keeper has anything to do with.
func (s *stage) stranger(name string) *actor {
	s.t.Helper()
	cmd := exec.Command(os.Args[0], s.argv(name, "counting")[1:]...)
	cmd.Stdout = struct{ io.Writer }{io.Discard} // not a file: os/exec makes a pipe
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return s.enter(name)
}

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// options are those of a keeper for argv in a new directory.
func options(t *testing.T, argv ...string) SpawnOptions {
	t.Helper()
	return SpawnOptions{
		Argv: []string{os.Args[0], "keeper"},
		Dir:  filepath.Join(t.TempDir(), "w"),
		Intent: Intent{
			Name: "w-0", Argv: argv, Env: []string{"PATH=" + os.Getenv("PATH"), "GORACE=" + noExitSleep},
			StopSignal: int(syscall.SIGTERM), StopGrace: 100 * time.Millisecond, Epoch: 1,
			OrphanTimeout: time.Minute, // should the test itself be killed
		},
		Stderr: stderrFile(t),
	}
}

// stderrFile takes what keepers say; a failed test shows it.
func stderrFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if b, _ := os.ReadFile(f.Name()); t.Failed() && len(b) > 0 {
			t.Logf("stderr of the keeper:\n%s", b[:min(len(b), 4000)])
		}
		f.Close()
	})
	return f
}

// start spawns, and sees to it that nothing outlives the test.
func start(t *testing.T, o SpawnOptions) *Client {
	t.Helper()
	c, err := Spawn(testContext(t), o)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, c, o.Dir)
	return c
}

func cleanUp(t *testing.T, c *Client, dir string) {
	t.Helper()
	keeper := process{pid: c.State().KeeperPID, start: c.hello.KeeperStart}
	t.Cleanup(func() {
		c.Close()
		if _, err := keeper.send(syscall.SIGKILL); err != nil {
			t.Errorf("clean up: %v", err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		defer cancel()
		if _, err := EndOrphan(ctx, dir, 0); err != nil && !errors.Is(err, ErrNoKeeper) {
			t.Errorf("clean up: %v", err)
		}
	})
}

// until waits for a state.
func until(t *testing.T, c *Client, what string, ok func(State) bool) State {
	t.Helper()
	deadline := time.After(limit)
	for {
		if s := c.State(); ok(s) {
			return s
		}
		select {
		case <-c.Updates():
		case <-c.Lost():
			t.Fatalf("lost the keeper while waiting for %s; last state %+v", what, c.State())
		case <-deadline:
			t.Fatalf("no %s; last state %+v", what, c.State())
		}
	}
}

func phase(p Phase) func(State) bool { return func(s State) bool { return s.Phase == p } }

// mustAck ends the keeper and looks at what it leaves.
func mustAck(t *testing.T, c *Client, dir string) {
	t.Helper()
	if err := c.Ack(testContext(t)); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != lockName {
			t.Errorf("after the ack %s is left", e.Name())
		}
	}
}

// mustHold retries what has no event of its own, such as a file that another process writes.
func mustHold(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func lost(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Lost():
	case <-time.After(limit):
		t.Fatal("the keeper's end was not noticed")
	}
}

// raw is a connection that speaks for itself.
func raw(t *testing.T, dir string) (*net.UnixConn, *frameReader) {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(dir, socketName), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(limit))
	return c, newFrameReader(c, maxAnswer)
}

func mustEOF(t *testing.T, r io.Reader) {
	t.Helper()
	if _, err := io.Copy(io.Discard, r); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection was not closed: %v", err)
	}
}
