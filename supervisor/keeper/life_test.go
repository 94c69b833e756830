package keeper

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestExitIsExact(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   Exit
	}{
		{"exit 0", Exit{Code: 0}},
		{"exit 37", Exit{Code: 37}},
		{"kill -SEGV $$", Exit{Code: -1, Signal: int(syscall.SIGSEGV)}},
		{"kill -KILL $$", Exit{Code: -1, Signal: int(syscall.SIGKILL)}},
	} {
		t.Run(tc.script, func(t *testing.T) {
			t.Parallel()
			o := options(t, "sh", "-c", "ulimit -c 0; echo bye; "+tc.script)
			o.Intent.Label = map[string]string{"address": "here"}
			c := start(t, o)
			s := until(t, c, "end", phase(Ended))
			got := *s.Exit
			if got.At.IsZero() || s.StartedAt.IsZero() || s.EnginePID == 0 || s.EngineStart == 0 || s.Label["address"] != "here" {
				t.Errorf("incomplete: %+v", s)
			}
			got.At = time.Time{}
			if got != tc.want {
				t.Errorf("exit is %+v, want %+v", got, tc.want)
			}
			r, err := ReadExit(o.Dir)
			if err != nil || r.State.Phase != Ended || r.State.Exit.Code != tc.want.Code || string(r.Tail) != "bye\n" {
				t.Errorf("exit.json has %+v, %v", r, err)
			}
			mustAck(t, c, o.Dir)
		})
	}
}

func TestCannotExecute(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	plain := write("plain", "x", 0o644)
	lost := write("lost", "#!/no/such/interpreter\n", 0o755)
	for _, tc := range []struct {
		name string
		argv []string
		dir  string
		cred *Credential
		want string
		root bool
	}{
		{name: "not in PATH", argv: []string{"no-such-engine"}, want: `"no-such-engine": not found in the PATH`},
		{name: "no such file", argv: []string{"/no/such/engine"}, want: "exec /no/such/engine"},
		{name: "not executable", argv: []string{plain}, want: "permission denied"},
		{name: "no interpreter", argv: []string{lost}, want: "interpreter or loader is missing"},
		{name: "no directory", argv: []string{"true"}, dir: "/no/such/dir", want: "working directory"},
		{name: "directory is a file", argv: []string{"true"}, dir: plain, want: "is not a directory"},
		{name: "no command", want: "command is empty"},
		{name: "user may not", argv: []string{os.Args[0]}, cred: &Credential{UID: 65534, GID: 65534}, want: "as uid 65534", root: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if tc.root && os.Geteuid() != 0 {
				t.Skip("SKIPPED: only root runs engines as another user")
			}
			o := options(t, tc.argv...)
			o.Intent.Dir, o.Intent.Credential = tc.dir, tc.cred
			if tc.root { // a binary that the user cannot reach
				o.Intent.Argv = []string{write("private", "", 0o700)}
			}
			c := start(t, o)
			s := until(t, c, "end", phase(Ended))
			if s.Exit.Code != -1 || !strings.Contains(s.Exit.Error, tc.want) {
				t.Errorf("exit is %+v, want an error with %q", s.Exit, tc.want)
			}
			mustAck(t, c, o.Dir)
		})
	}
}

func TestEngineRunsAsItsUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root runs engines as another user")
	}
	o := options(t, "sh", "-c", "id -u; id -g; id -G; : > /dev/stderr && echo opened")
	o.Intent.Dir, o.Intent.Credential = "/", &Credential{UID: 65534, GID: 65533, Groups: []uint32{65533, 7}}
	c := start(t, o)
	until(t, c, "end", phase(Ended))
	got, err := c.Tail(testContext(t))
	if err != nil || string(got) != "65534\n65533\n65533 7\nopened\n" {
		t.Errorf("engine says %q, %v", got, err)
	}
}

func TestEngineInheritsNothingButItsOutput(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stray, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 50) // without close-on-exec
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(stray)
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.Env = append(o.Intent.Env, "STOKER_NONCE=somebody-else's", "MINE=1")
	c := start(t, o)
	engine := st.enter("engine")
	link, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(stray))
	if err != nil {
		t.Fatal(err)
	}
	for who, pid := range map[string]int{"keeper": c.State().KeeperPID, "engine": engine.pid} {
		fds, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if got, _ := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + fd.Name()); got == link {
				t.Errorf("%s holds the listener %s as %s", who, link, fd.Name())
			}
		}
	}
	p, err := readProcess(engine.pid)
	if err != nil || p.group != engine.pid || p.session != c.State().KeeperPID || p.ppid != c.State().KeeperPID {
		t.Errorf("engine is %+v, %v", p, err)
	}
	if !p.hasEnv("STOKER_NONCE="+c.State().Nonce) || !p.hasEnv("MINE=1") || p.hasEnv("STOKER_NONCE=somebody-else's") {
		t.Error("the engine's environment is not as intended")
	}
	for sig := syscall.Signal(1); sig < 32; sig++ {
		if ignored(t, engine.pid, sig) {
			t.Errorf("the engine ignores signal %d, which it did not choose", sig)
		}
	}
}

// ignored says whether a process ignores sig.
func ignored(t *testing.T, pid int, sig syscall.Signal) bool {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "SigIgn:\t")
	mask, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return mask&(1<<(sig-1)) != 0
}

func TestDiskFullHarmsNobody(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	until(t, c, "engine", phase(Running))
	for _, name := range []string{stateName, exitName} { // where a file cannot be made
		if err := os.Mkdir(filepath.Join(o.Dir, name+".tmp"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Claim(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	if s := c.State(); s.Degraded == "" || s.Epoch != 2 {
		t.Errorf("state hides that files cannot be written: %+v", s)
	}
	engine.tell("exit 5")
	if s := until(t, c, "end", phase(Ended)); s.Exit.Code != 5 {
		t.Errorf("exit is %+v", s.Exit)
	}
	mustAck(t, c, o.Dir)
	if said, _ := os.ReadFile(o.Stderr.Name()); strings.Count(string(said), "cannot write its files") != 1 {
		t.Errorf("stderr says %q", said)
	}
}

func TestIntentIsWhatWasAsked(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	start(t, o)
	st.enter("engine")
	for _, name := range []string{intentName, stateName, lockName, socketName} {
		info, err := os.Stat(filepath.Join(o.Dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(o.Dir, intentName))
	if err != nil {
		t.Fatal(err)
	}
	var i Intent
	if err := json.Unmarshal(b, &i); err != nil || len(i.Nonce) != 32 || i.Dir == "" {
		t.Errorf("intent is %s", b)
	}
}

func TestMemoryStaysSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("SKIPPED: the race detector's memory is not the keeper's")
	}
	st := newStage(t)
	c := start(t, options(t, st.argv("engine")...))
	st.enter("engine")
	until(t, c, "engine", phase(Running))
	b, err := os.ReadFile("/proc/" + strconv.Itoa(c.State().KeeperPID) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kib, err := strconv.Atoi(strings.Fields(rest)[0])
	t.Logf("resident: %d KiB", kib)
	if err != nil || kib > 12<<10 {
		t.Errorf("keeper has %d KiB resident (%v)", kib, err)
	}
}

// TestOutputThatItsOwnerHolds: of an engine that has died it is passed on if its owner
// wants it before the ack; of one that lives it is held back, or not, as he says.
func TestOutputThatItsOwnerHolds(t *testing.T) {
	for _, tc := range []struct {
		name string
		held time.Duration // at its start
		then []time.Duration
		want string
	}{
		{"died", time.Hour, nil, ""},
		{"died, and wanted", time.Hour, []time.Duration{0}, "[w-0] why\n"},
		{"not held, and wanted", 0, []time.Duration{0}, "[w-0] why\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, "sh", "-c", "echo why; exit 1")
			o.Intent.HoldOutput = tc.held
			to, read := logFile(t)
			o.Stderr = to
			c := start(t, o)
			until(t, c, "end", phase(Ended))
			for _, limit := range tc.then {
				if err := c.Hold(testContext(t), limit); err != nil {
					t.Fatal(err)
				}
			}
			mustAck(t, c, o.Dir)
			if got := read(); got != tc.want {
				t.Errorf("shown: %q", got)
			}
		})
	}
	t.Run("one that lives", func(t *testing.T) {
		st := newStage(t)
		o := options(t, st.argv("engine")...)
		to, read := logFile(t)
		o.Stderr = to
		c := start(t, o)
		engine := st.enter("engine")
		if err := c.Hold(testContext(t), time.Hour); err != nil {
			t.Fatal(err)
		}
		engine.tell("print one")
		mustHold(t, "it is in the tail", func() bool { b, err := c.Tail(testContext(t)); return err == nil && len(b) > 0 })
		if got := read(); got != "" {
			t.Errorf("shown: %q", got)
		}
		if err := c.Hold(testContext(t), 0); err != nil {
			t.Fatal(err)
		}
		mustHold(t, "passed on", func() bool { return read() == "[w-0] one\n" })
		observer, err := Attach(testContext(t), o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		defer observer.Close()
		if err := observer.Hold(testContext(t), 0); !errors.Is(err, ErrNotOwner) {
			t.Errorf("who only observes: %v", err)
		}
	})
}
