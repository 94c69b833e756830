package keeper

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// family is an engine with what engines have: a child in its group, one in a
// session of its own, and one whose parent has gone; all deaf to TERM.
func family(t *testing.T, st *stage) (o SpawnOptions, c *Client, engine *actor, deaf []*actor) {
	t.Helper()
	o = options(t, st.argv("engine")...)
	c = start(t, o)
	engine = st.enter("engine")
	engine.tell("spawn child deaf")
	engine.tell("spawn apart setsid deaf bare mute")
	engine.tell("spawn parent setsid")
	st.enter("parent").tell("spawn daemon setsid deaf bare")
	deaf = []*actor{st.enter("child"), st.enter("apart"), st.enter("daemon")}
	st.enter("parent").tell("exit 0")
	st.enter("parent").mustEnd()
	until(t, c, "engine", phase(Running))
	return o, c, engine, deaf
}

func TestStopEndsTheWholeTree(t *testing.T) {
	st := newStage(t)
	o, c, engine, deaf := family(t, st)
	if err := c.Stop(testContext(t), syscall.SIGTERM, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	s := until(t, c, "end", phase(Ended))
	if s.Exit.Signal != int(syscall.SIGTERM) || !s.Exit.Forced || !s.Stopping {
		t.Errorf("state is %+v, exit %+v", s, s.Exit)
	}
	for _, a := range append(deaf, engine) {
		a.mustEnd()
	}
	mustAck(t, c, o.Dir)
}

func TestEngineThatExitsLeavesNobody(t *testing.T) {
	st := newStage(t)
	o, c, engine, deaf := family(t, st)
	engine.tell("exit 37")
	s := until(t, c, "exit", func(s State) bool { return s.Exit != nil })
	if s.Phase != Ending || s.Exit.Code != 37 {
		t.Errorf("the exit was not published while the deaf live on: %+v", s)
	}
	s = until(t, c, "end", phase(Ended))
	if s.Exit.Code != 37 || s.Exit.Signal != 0 || !s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
	for _, a := range deaf {
		a.mustEnd()
	}
	mustAck(t, c, o.Dir)
}

func TestLeftoversThatHearTermAreNotForced(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.StopGrace = time.Hour
	c := start(t, o)
	st.enter("engine").tell("spawn apart setsid bare")
	st.enter("apart")
	st.enter("engine").tell("exit 0")
	if s := until(t, c, "end", phase(Ended)); s.Exit.Code != 0 || s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
}

func TestSecondStopHurries(t *testing.T) {
	st := newStage(t)
	c := start(t, options(t, st.argv("engine", "deaf")...))
	st.enter("engine")
	ctx := testContext(t)
	for _, grace := range []time.Duration{time.Hour, 2 * time.Hour, 0} {
		if err := c.Stop(ctx, syscall.SIGTERM, grace); err != nil {
			t.Fatal(err)
		}
	}
	if s := until(t, c, "end", phase(Ended)); s.Exit.Signal != int(syscall.SIGKILL) || !s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
	if err := c.Stop(ctx, syscall.SIGTERM, 0); err != nil {
		t.Errorf("a stop after the end: %v", err)
	}
	if err := c.Signal(ctx, syscall.SIGUSR1); err == nil {
		t.Error("a signal after the end was accepted")
	}
}

func TestLaterStopNeitherDelaysNorRepeats(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	c := start(t, options(t, st.argv("engine", "counting")...))
	engine := st.enter("engine")
	ctx := testContext(t)
	for _, grace := range []time.Duration{2 * time.Second, time.Hour} {
		if err := c.Stop(ctx, syscall.SIGTERM, grace); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Signal(ctx, syscall.SIGWINCH); err != nil { // a higher number: it comes after what is pending
		t.Fatal(err)
	}
	got := ""
	mustHold(t, "the last signal", func() bool {
		got += engine.signals()
		return strings.Contains(got, "window changed")
	})
	if strings.Count(got, "terminated") != 1 {
		t.Errorf("the engine got%s", got)
	}
	if s := until(t, c, "end", phase(Ended)); s.Exit.Signal != int(syscall.SIGKILL) {
		t.Errorf("exit is %+v", s.Exit)
	}
}

func TestStoppedProcessHearsTerm(t *testing.T) {
	st := newStage(t)
	c := start(t, options(t, st.argv("engine")...))
	engine := st.enter("engine")
	until(t, c, "engine", phase(Running))
	if err := c.Signal(testContext(t), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	mustHold(t, "engine is stopped", func() bool {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(engine.pid) + "/stat")
		return err == nil && bytes.Contains(b, []byte(") T "))
	})
	if err := c.Stop(testContext(t), syscall.SIGTERM, time.Hour); err != nil {
		t.Fatal(err)
	}
	if s := until(t, c, "end", phase(Ended)); s.Exit.Signal != int(syscall.SIGTERM) || s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
}

func TestForkingTreeIsEnded(t *testing.T) {
	// Bounded, so that a keeper that cannot end it harms nobody but the test.
	c := start(t, options(t, "sh", "-c", "trap '' TERM; i=0; while [ $i -lt 400 ]; do (trap '' TERM; sleep 600 & sleep 600) & i=$((i+1)); [ $i = 20 ] && echo go; done; wait"))
	ctx := testContext(t)
	mustHold(t, "engine forks", func() bool {
		b, err := c.Tail(ctx)
		return err == nil && len(b) > 0
	})
	if err := c.Stop(ctx, syscall.SIGTERM, 0); err != nil {
		t.Fatal(err)
	}
	if s := until(t, c, "end", phase(Ended)); !s.Exit.Forced {
		t.Errorf("exit is %+v", s.Exit)
	}
}

func TestStopsInParallelTakeAsLongAsTheSlowest(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	var all []*Client
	for _, name := range []string{"a", "b", "c", "d"} {
		c := start(t, options(t, st.argv(name, "deaf")...))
		st.enter(name)
		all = append(all, c)
	}
	began := time.Now()
	for _, c := range all {
		if err := c.Stop(testContext(t), syscall.SIGTERM, 3*time.Second); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range all {
		until(t, c, "end", phase(Ended))
	}
	if took := time.Since(began); took > 11*time.Second {
		t.Errorf("four stops of 3 s took %s", took)
	}
}

func TestParseStat(t *testing.T) {
	rest := func(threads string) string {
		return " 7 12 13 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 " + threads + " 0 98765 1 2 3"
	}
	for _, tc := range []struct {
		line string
		want process
		ok   bool
	}{
		{"10 (sh) S" + rest("1"), process{pid: 10, ppid: 7, group: 12, session: 13, start: 98765}, true},
		{"10 (a) R (b c)) Z" + rest("1"), process{pid: 10, ppid: 7, group: 12, session: 13, start: 98765, zombie: true}, true},
		{"10 (first thread gone) Z" + rest("3"), process{pid: 10, ppid: 7, group: 12, session: 13, start: 98765}, true},
		{"10 sh S 7", process{}, false},
		{"10 (sh) S 7 12", process{}, false},
		{"", process{}, false},
		{")(", process{}, false},
		{"x (sh) S" + rest("1"), process{}, false},
	} {
		got, err := parseStat([]byte(tc.line))
		if (err == nil) != tc.ok || tc.ok && got != tc.want {
			t.Errorf("%q: %+v, %v", tc.line, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("10 (sh) S 7 12 13 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 98765"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = parseStat(b) })
}

func TestSignalGoesToNobodyElse(t *testing.T) {
	st := newStage(t)
	a := st.stranger("stranger")
	p, err := readProcess(a.pid)
	if err != nil {
		t.Fatal(err)
	}
	p.start++ // the number was given to another
	if sent, err := p.send(syscall.SIGTERM); sent || err != nil {
		t.Errorf("sent %v, %v", sent, err)
	}
	a.mustBeUntouched()
}

// TestTidyRemovesWhatIsEmpty: a directory in which a keeper lives, or of which
// something is left, is not touched.
func TestTidyRemovesWhatIsEmpty(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	there := func() bool { _, err := os.Stat(filepath.Join(o.Dir, lockName)); return err == nil }
	if err := Tidy(o.Dir); err != nil || !there() {
		t.Errorf("while a keeper lives: %v, its lock is there: %v", err, there())
	}
	engine.tell("exit 0")
	until(t, c, "end", phase(Ended))
	mustAck(t, c, o.Dir)
	note := filepath.Join(o.Dir, "note")
	if err := os.WriteFile(note, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Tidy(o.Dir); err != nil || !there() {
		t.Errorf("beside another's file: %v, the lock is there: %v", err, there())
	}
	if err := os.Remove(note); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is there
		if err := Tidy(o.Dir); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(o.Dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the directory is there: %v", err)
		}
	}
}
