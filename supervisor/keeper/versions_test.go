package keeper

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestVersionOneInTheField crosses today's code with the frozen keeper and
// client of protocol version 1, built from source.
func TestVersionOneInTheField(t *testing.T) {
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skipf("SKIPPED, versions are not crossed: %v", err)
	}
	old := filepath.Join(t.TempDir(), "keeperv1")
	build := exec.Command(goTool, "build", "-buildvcs=false", "-tags", "keeperv1", "-o", old, "./testdata/keeperv1")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the keeper of version 1: %v\n%s", err, out)
	}
	if minVersion != 1 {
		t.Fatalf("the lowest version is %d: the keepers of version 1 that live cannot be spoken to any more", minVersion)
	}
	t.Run("old keeper, new master", func(t *testing.T) { oldKeeperNewMaster(t, old) })
	t.Run("new keeper, old master", func(t *testing.T) { newKeeperOldMaster(t, old) })
	t.Run("old keeper, killed", func(t *testing.T) { oldKeeperKilled(t, old) })
	t.Run("old keeper, much newer master", func(t *testing.T) { oldKeeperNewerMaster(t, old) })
}

// abandoned is a keeper whose master is gone; its engine runs and has spoken.
func abandoned(t *testing.T, st *stage, o SpawnOptions) *actor {
	t.Helper()
	c := start(t, o)
	engine := st.enter("engine")
	until(t, c, "engine", phase(Running))
	engine.tell("print hello")
	mustHold(t, "output", func() bool { b, err := c.Tail(testContext(t)); return err == nil && string(b) == "hello\n" })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	return engine
}

func oldKeeperNewMaster(t *testing.T, old string) {
	t.Helper()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Argv = []string{old, "keeper"}
	engine := abandoned(t, st, o)
	ctx := testContext(t)
	c, err := Attach(ctx, o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if c.hello.Min != 1 || c.hello.Max != 1 {
		t.Fatalf("this is no keeper of version 1: %+v", c.hello)
	}
	if s := c.State(); s.EnginePID != engine.pid || s.Phase != Running || s.Name != "w-0" {
		t.Errorf("adopted %+v, the engine is %d", s, engine.pid)
	}
	if err := c.Claim(ctx, 2); err != nil {
		t.Fatal(err)
	}
	until(t, c, "the new epoch", func(s State) bool { return s.Epoch == 2 })
	// What it does not know is not even sent, and it goes on as before.
	if err := c.Log(ctx, o.Stderr); !errors.Is(err, ErrUnsupported) {
		t.Errorf("log: %v, want %v", err, ErrUnsupported)
	}
	if b, err := c.Tail(ctx); err != nil || string(b) != "hello\n" {
		t.Errorf("tail is %q, %v", b, err)
	}
	if err := c.Stop(ctx, syscall.SIGTERM, limit); err != nil {
		t.Fatal(err)
	}
	engine.mustEnd()
	if s := until(t, c, "end", phase(Ended)); s.Exit == nil || s.Exit.Signal != int(syscall.SIGTERM) || s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
	mustAck(t, c, o.Dir)
}

func newKeeperOldMaster(t *testing.T, old string) {
	t.Helper()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	engine := abandoned(t, st, o)
	order := oldMaster(t, old, o.Dir)
	if s, _ := order(""); s.EnginePID != engine.pid || s.Phase != Running {
		t.Errorf("adopted %+v, the engine is %d", s, engine.pid)
	}
	if s, _ := order("claim 2"); s.Epoch != 2 {
		t.Errorf("after the claim: %+v", s)
	}
	if _, tail := order("tail"); string(tail) != "hello\n" {
		t.Errorf("tail is %q", tail)
	}
	order("stop 15")
	engine.mustEnd()
	if s, _ := order("end"); s.Exit == nil || s.Exit.Signal != int(syscall.SIGTERM) || s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
	order("ack")
	if _, err := Attach(testContext(t), o.Dir); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("after the ack: %v", err)
	}
}

// oldMaster runs the old client. The function that it returns gives one order
// and takes the answer; the first, "", is the answer to the attach.
func oldMaster(t *testing.T, old, dir string) func(string) (State, []byte) {
	t.Helper()
	cmd := exec.CommandContext(testContext(t), old, "client", "--dir", dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	answers := json.NewDecoder(out)
	return func(order string) (State, []byte) {
		t.Helper()
		if order != "" {
			fmt.Fprintln(in, order)
		}
		var a struct {
			Error string
			State State
			Tail  []byte
		}
		if err := answers.Decode(&a); err != nil || a.Error != "" {
			t.Fatalf("order %q: %s %v", order, a.Error, err)
		}
		return a.State, a.Tail
	}
}

// oldKeeperKilled holds today's EndOrphan to the files that version 1 wrote.
func oldKeeperKilled(t *testing.T, old string) {
	t.Helper()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Argv = []string{old, "keeper"}
	c := start(t, o)
	engine := st.enter("engine")
	s := until(t, c, "engine", phase(Running))
	if err := syscall.Kill(s.KeeperPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	lost(t, c)
	r, err := EndOrphan(testContext(t), o.Dir, limit)
	if err != nil || r.State.EnginePID != engine.pid || r.Signalled != 1 || r.Forced {
		t.Errorf("report is %+v, %v", r, err)
	}
	engine.mustEnd()
}

// oldKeeperNewerMaster speaks for masters that are not written yet.
func oldKeeperNewerMaster(t *testing.T, old string) {
	t.Helper()
	st := newStage(t)
	o := options(t, st.argv("engine", "counting")...)
	o.Argv = []string{old, "keeper"}
	c := start(t, o)
	engine := st.enter("engine")
	conn, frames := raw(t, o.Dir)
	for _, tc := range []struct {
		low, high int
		error     string
		spoken    int
	}{{1, 2, "", 1}, {1, 9, "", 1}, {2, 9, "version", 0}} {
		fmt.Fprintf(conn, `{"op":"hello","id":1,"min":%d,"max":%d}`+"\n", tc.low, tc.high)
		if f := reply(t, frames); f.Error != tc.error || f.Min != tc.spoken || f.Max != tc.spoken {
			t.Errorf("a master of %d to %d is answered %+v", tc.low, tc.high, f)
		}
	}
	engine.mustBeUntouched()
	if s := c.State(); s.Phase != Running || s.Stopping {
		t.Errorf("state is %+v", s)
	}
}

// TestKeeperOfForeignVersionsIsLeftAlone: whoever speaks no version of ours is
// refused with ErrVersion, and not a byte is sent.
func TestKeeperOfForeignVersionsIsLeftAlone(t *testing.T) {
	for _, tc := range []struct {
		low, high int
		want      error
	}{
		{maxVersion + 1, maxVersion + 2, ErrVersion},
		{minVersion - 1, minVersion - 1, ErrVersion},
		{minVersion, maxVersion + 5, ErrForeign}, // understood, and found to be no keeper of ours
	} {
		t.Run(fmt.Sprintf("%d to %d", tc.low, tc.high), func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "w")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := writeFile(dir, intentName, Intent{Name: "w-0", Nonce: "n"}); err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("unix", filepath.Join(dir, socketName))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			got := make(chan string, 1)
			go func() {
				conn, err := l.Accept()
				if err != nil {
					got <- err.Error()
					return
				}
				defer conn.Close()
				fmt.Fprintf(conn, `{"op":"hello","min":%d,"max":%d,"state":{"seq":1,"phase":"running"}}`+"\n", tc.low, tc.high)
				b, _ := io.ReadAll(conn)
				got <- string(b)
			}()
			if _, err := Attach(testContext(t), dir); !errors.Is(err, tc.want) {
				t.Errorf("attach: %v, want %v", err, tc.want)
			}
			if b := <-got; b != "" {
				t.Errorf("it was sent %q", b)
			}
		})
	}
}
