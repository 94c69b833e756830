package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// remnant writes what a dead keeper might have left, of an engine that is
// really the given process; the case then forges a part of it.
func remnant(t *testing.T, engine int, forge func(*Intent, *stateRecord)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "w")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p, err := readProcess(engine)
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	i := Intent{Name: "w-0", Nonce: "0123456789abcdef", StopSignal: int(syscall.SIGTERM)}
	s := stateRecord{State: State{
		Seq: 2, Phase: Running, Name: "w-0", Nonce: i.Nonce, KeeperPID: p.session,
		EnginePID: p.pid, EngineStart: p.start, BootID: boot,
	}}
	forge(&i, &s)
	for name, v := range map[string]any{intentName: i, stateName: s} {
		if err := writeFile(dir, name, v); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestStrangersAreNeverSignalled(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	for _, tc := range []struct {
		name  string
		forge func(*Intent, *stateRecord)
		tree  func(process) treeRecord
		spoil func(t *testing.T, dir string)
		want  error
	}{
		{name: "only the pipe's number fits", forge: func(_ *Intent, s *stateRecord) {
			s.Pipes = []uint64{pipeOf(t, s.EnginePID)}
			s.EnginePID, s.KeeperPID = 0, 4242
		}},
		{name: "pid was reused", forge: func(_ *Intent, s *stateRecord) { s.EngineStart-- }},
		{name: "record of another time", forge: func(_ *Intent, s *stateRecord) { s.EnginePID = 0 }, tree: func(p process) treeRecord {
			return treeRecord{Nonce: "0123456789abcdef", Processes: []recorded{{p.pid, p.start - 1}}}
		}},
		{name: "record of another keeper", forge: func(_ *Intent, s *stateRecord) { s.EnginePID = 0 }, want: ErrForeign, tree: func(p process) treeRecord {
			return treeRecord{Nonce: "fedcba", Processes: []recorded{{p.pid, p.start}}}
		}},
		{name: "record of another boot", forge: func(_ *Intent, s *stateRecord) { s.BootID = "another" }, tree: func(p process) treeRecord {
			return treeRecord{Nonce: "0123456789abcdef", Processes: []recorded{{p.pid, p.start}}}
		}},
		{name: "other boot", forge: func(_ *Intent, s *stateRecord) { s.BootID = "another" }},
		{name: "start time unknown", forge: func(_ *Intent, s *stateRecord) { s.EngineStart = 0 }},
		{name: "only the session's number fits", forge: func(_ *Intent, s *stateRecord) { s.EnginePID = 0; s.Pipes = []uint64{1, 2} }},
		{name: "other nonce", forge: func(_ *Intent, s *stateRecord) { s.Nonce = "fedcba" }, want: ErrForeign},
		{name: "engine is init", forge: func(_ *Intent, s *stateRecord) { s.EnginePID = 1; s.EngineStart = 0 }},
		{name: "directory open to others", forge: func(*Intent, *stateRecord) {}, want: ErrForeign, spoil: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "state is cut", forge: func(*Intent, *stateRecord) {}, want: ErrForeign, spoil: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Truncate(filepath.Join(dir, stateName), 20); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "state is a link", forge: func(*Intent, *stateRecord) {}, want: syscall.ELOOP, spoil: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Rename(filepath.Join(dir, stateName), filepath.Join(dir, "x")); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("x", filepath.Join(dir, stateName)); err != nil {
				t.Fatal(err)
			}
		}},
		{name: "files are another user's", forge: func(*Intent, *stateRecord) {}, want: ErrForeign, spoil: func(t *testing.T, dir string) {
			t.Helper()
			if err := os.Chown(filepath.Join(dir, stateName), 65534, 65534); err != nil {
				t.Skipf("SKIPPED: %v", err)
			}
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stranger := st.stranger(strings.ReplaceAll(tc.name, " ", "-"))
			dir := remnant(t, stranger.pid, tc.forge)
			if tc.tree != nil {
				p, _ := readProcess(stranger.pid)
				if err := writeFile(dir, treeName, tc.tree(p)); err != nil {
					t.Fatal(err)
				}
			}
			if tc.spoil != nil {
				tc.spoil(t, dir)
			}
			r, err := EndOrphan(testContext(t), dir, 0)
			if !errors.Is(err, tc.want) || r.Signalled != 0 || r.Forced {
				t.Errorf("report is %+v, %v, want %v", r, err, tc.want)
			}
			stranger.mustBeUntouched()
			_, serr := os.Lstat(filepath.Join(dir, intentName))
			if cleared := os.IsNotExist(serr); cleared != (tc.want == nil) {
				t.Errorf("the files were cleared: %v", cleared)
			}
		})
	}
	// The same remnant without a forgery, or the cases above could not fail.
	true1 := st.stranger("true")
	r, err := EndOrphan(testContext(t), remnant(t, true1.pid, func(*Intent, *stateRecord) {}), 0)
	if err != nil || r.Signalled != 1 {
		t.Errorf("report is %+v, %v", r, err)
	}
	true1.mustEnd()
}

// pipeOf is the inode of the pipe that a process has as its stdout.
func pipeOf(t *testing.T, pid int) (inode uint64) {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/1", pid))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(link, "pipe:[%d]", &inode); err != nil {
		t.Fatalf("stdout is %s: %v", link, err)
	}
	return inode
}

// impostor listens where a keeper would and says the given hello.
func impostor(t *testing.T, dir string, forge func(*frame)) (heard <-chan string) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		self, _ := readProcess(os.Getpid())
		boot, _ := bootID()
		f := frame{
			Op: opHello, Min: 1, Max: 1, KeeperStart: self.start,
			State: &State{Phase: Running, Nonce: "0123456789abcdef", KeeperPID: os.Getpid(), BootID: boot},
		}
		forge(&f)
		b, _ := f.encode()
		c.Write(b)
		got, err := newFrameReader(c, maxRequest).next()
		if err == nil {
			said <- got.Op
			b, _ := (&frame{Op: opReply, ID: got.ID}).encode()
			c.Write(b)
		} else {
			said <- ""
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return said
}

func TestImpostorsHearNothing(t *testing.T) {
	for _, tc := range []struct {
		name  string
		forge func(*frame)
		want  error
	}{
		{"nothing is wrong", func(*frame) {}, nil},
		{"other nonce", func(f *frame) { f.State.Nonce = "x" }, ErrForeign},
		{"no nonce", func(f *frame) { f.State.Nonce = "" }, ErrForeign},
		{"other pid", func(f *frame) { f.State.KeeperPID++ }, ErrForeign},
		{"other start", func(f *frame) { f.KeeperStart++ }, ErrForeign},
		{"other boot", func(f *frame) { f.State.BootID = "x" }, ErrForeign},
		{"no state", func(f *frame) { f.State = nil }, ErrForeign},
		{"no hello", func(f *frame) { f.Op = opState }, ErrForeign},
		{"newer than we", func(f *frame) { f.Min, f.Max = maxVersion+1, maxVersion+7 }, ErrVersion},
		{"also newer", func(f *frame) { f.Max = 9 }, nil},
		{"full", func(f *frame) { f.refuse(errTooMany) }, errTooMany},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := remnant(t, os.Getpid(), func(*Intent, *stateRecord) {})
			heard := impostor(t, dir, tc.forge)
			c, err := Attach(testContext(t), dir)
			if !errors.Is(err, tc.want) {
				t.Errorf("attach: %v, want %v", err, tc.want)
			}
			if err == nil {
				defer c.Close()
			}
			if op := <-heard; (op != "") != (tc.want == nil) {
				t.Errorf("it heard %q", op)
			}
		})
	}
}

func TestAnotherUserHearsNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root to be another user")
	}
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	start(t, o)
	st.enter("engine")
	for _, tc := range []struct {
		uid  int
		want bool
	}{{0, true}, {65534, false}} {
		n, err := readAs(tc.uid, filepath.Join(o.Dir, socketName))
		if err != nil || (n > 0) != tc.want {
			t.Errorf("uid %d got %d bytes, %v", tc.uid, n, err)
		}
	}
}

// readAs connects and reads as another user, who is let through to the socket
// by all that comes before the keeper's own check.
func readAs(uid int, path string) (n int, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		unix.RawSyscall(unix.SYS_SETFSUID, 0, 0, 0)
		var fd int
		if fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return
		}
		defer unix.Close(fd)
		if err = unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			return
		}
		n, err = unix.Read(fd, make([]byte, 100))
	}()
	<-done
	return n, err
}

func TestKeeperKilledLeavesNothing(t *testing.T) {
	st := newStage(t)
	o, c, engine, deaf := family(t, st)
	// Its parent is gone, its environment too; session and output betray it.
	engine.tell("spawn old deaf bare")
	old := st.enter("old")
	mustBeRecorded(t, o.Dir, append(deaf, old)...)
	stranger := st.stranger("stranger")
	kill9(t, c)
	if _, err := Attach(testContext(t), o.Dir); !errors.Is(err, ErrKeeperDead) {
		t.Errorf("attach: %v", err)
	}
	if _, err := Spawn(testContext(t), o); !errors.Is(err, ErrKeeperDead) {
		t.Errorf("spawn: %v", err)
	}
	r, err := EndOrphan(testContext(t), o.Dir, 50*time.Millisecond)
	if err != nil || !r.Forced || r.Signalled < 5 || r.Exit != nil || r.State.EnginePID != engine.pid {
		t.Errorf("report is %+v, %v", r, err)
	}
	for _, a := range append(deaf, engine, old) {
		a.mustEnd()
	}
	stranger.mustBeUntouched()
	if _, err := EndOrphan(testContext(t), o.Dir, 0); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("once more: %v", err)
	}
	// The slot is free again.
	o.Intent.Nonce = ""
	o.Intent.Argv = st.argv("next")
	start(t, o)
	st.enter("next")
}

func TestKeeperAndEngineKilledLeaveNothing(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	// As vLLM's EngineCore, whose title overwrites its environment: no nonce, no
	// parent, but still the engine's session and pipe.
	engine.tell("spawn core deaf bare")
	core := st.enter("core")
	until(t, c, "engine", phase(Running))
	kill9(t, c)
	removeFile(filepath.Join(o.Dir, treeName)) // the keeper was not quick enough to record it
	engine.tell("exit 0")
	engine.mustEnd()
	r, err := EndOrphan(testContext(t), o.Dir, 0)
	if err != nil || r.Signalled == 0 {
		t.Errorf("report is %+v, %v", r, err)
	}
	core.mustEnd()
}

func TestKeeperKilledBeforeItWroteThePid(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	engine.tell("spawn apart setsid deaf bare mute") // known by its parent
	engine.tell("spawn parent bare mute")
	st.enter("parent").tell("spawn core deaf bare mute") // known by its session, once its parent is gone
	left := []*actor{engine, st.enter("apart"), st.enter("core")}
	st.enter("parent").tell("exit 0")
	st.enter("parent").mustEnd()
	until(t, c, "engine", phase(Running))
	kill9(t, c)
	for _, name := range []string{stateName, treeName} {
		if err := removeFile(filepath.Join(o.Dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := EndOrphan(testContext(t), o.Dir, 0)
	if err != nil || r.Signalled < len(left) { // and perhaps the keeper, on its way out
		t.Errorf("report is %+v, %v", r, err)
	}
	for _, a := range left {
		a.mustEnd()
	}
}

func TestKeeperKilledWhileEnding(t *testing.T) {
	st := newStage(t)
	o, c, engine, deaf := family(t, st)
	mustBeRecorded(t, o.Dir, deaf...)
	engine.tell("exit 37")
	until(t, c, "exit", func(s State) bool { return s.Exit != nil })
	kill9(t, c)
	r, err := EndOrphan(testContext(t), o.Dir, 0)
	if err != nil || r.Exit == nil || r.Exit.Code != 37 {
		t.Errorf("report is %+v, %v", r, err)
	}
	for _, a := range deaf {
		a.mustEnd()
	}
}

// mustBeRecorded waits until the keeper has written down that it has these.
func mustBeRecorded(t *testing.T, dir string, actors ...*actor) {
	t.Helper()
	for _, a := range actors {
		mustHold(t, fmt.Sprintf("pid %d is on record", a.pid), func() bool {
			var r treeRecord
			_ = readFile(dir, treeName, &r)
			return slices.ContainsFunc(r.Processes, func(p recorded) bool { return p.PID == a.pid })
		})
	}
}

// kill9 kills the keeper and holds the client to notice.
func kill9(t *testing.T, c *Client) {
	t.Helper()
	if err := syscall.Kill(c.State().KeeperPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.Lost():
	case <-time.After(5 * time.Second): // it takes no time at all, on a machine that has some
		t.Fatal("the keeper's death was not noticed")
	}
	if err := c.Stop(testContext(t), syscall.SIGTERM, 0); !errors.Is(err, ErrLost) {
		t.Errorf("a stop after that: %v", err)
	}
}
