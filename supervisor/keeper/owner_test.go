package keeper

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestNewMasterAttaches(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	first := start(t, o)
	engine := st.enter("engine")
	before := until(t, first, "engine", phase(Running))
	if err := first.Close(); err != nil { // as the kernel does for a master that is killed
		t.Fatal(err)
	}
	lost(t, first)
	ctx := testContext(t)
	second, err := Attach(ctx, o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, second, o.Dir)
	if s := second.State(); s.EnginePID != engine.pid || s.EngineStart != before.EngineStart || s.Phase != Running {
		t.Errorf("state is %+v, was %+v", s, before)
	}
	if err := second.Stop(ctx, syscall.SIGTERM, 0); !errors.Is(err, ErrNotOwner) {
		t.Errorf("an observer's stop: %v", err)
	}
	if err := second.Claim(ctx, before.Epoch+1); err != nil {
		t.Fatal(err)
	}
	engine.tell("exit 37")
	if s := until(t, second, "end", phase(Ended)); s.Exit.Code != 37 || s.Epoch != before.Epoch+1 {
		t.Errorf("state is %+v", s)
	}
	mustAck(t, second, o.Dir)
}

func TestOneOwner(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.Epoch = 5
	old := start(t, o)
	engine := st.enter("engine")
	ctx := testContext(t)
	attach := func() *Client {
		c, err := Attach(ctx, o.Dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	next, rival := attach(), attach()
	for _, tc := range []struct {
		name  string
		c     *Client
		epoch uint64
		want  error
	}{
		{"lower", next, 4, ErrStaleEpoch},
		{"equal, while owned", next, 5, ErrStaleEpoch},
		{"equal, by the owner", old, 5, nil},
		{"higher", next, 6, nil},
		{"again", next, 6, nil},
		{"equal, by a rival", rival, 6, ErrStaleEpoch},
		{"old owner's", old, 5, ErrStaleEpoch},
	} {
		if err := tc.c.Claim(ctx, tc.epoch); !errors.Is(err, tc.want) {
			t.Errorf("claim %s: %v, want %v", tc.name, err, tc.want)
		}
	}
	for what, err := range map[string]error{
		"stop":   old.Stop(ctx, syscall.SIGTERM, 0),
		"signal": old.Signal(ctx, syscall.SIGTERM),
		"ack":    old.Ack(ctx),
	} {
		if !errors.Is(err, ErrNotOwner) {
			t.Errorf("the old owner's %s: %v", what, err)
		}
	}
	if err := next.Ack(ctx); !errors.Is(err, ErrNotEnded) {
		t.Errorf("an early ack: %v", err)
	}
	if err := next.Signal(ctx, 99); err == nil {
		t.Error("signal 99 was accepted")
	}
	until(t, old, "the new epoch", func(s State) bool { return s.Epoch == 6 })
	if err := next.Close(); err != nil {
		t.Fatal(err)
	}
	mustHold(t, "the owner's return with its own epoch", func() bool { return rival.Claim(ctx, 6) == nil })
	if err := old.Claim(ctx, 5); !errors.Is(err, ErrStaleEpoch) {
		t.Errorf("an old epoch after the owner's loss: %v", err)
	}
	engine.tell("exit 0")
	until(t, rival, "end", phase(Ended))
	mustAck(t, rival, o.Dir)
	lost(t, old)
}

func TestOrphanEndsItsEngineAndLeavesTheRecord(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.OrphanTimeout = 50 * time.Millisecond
	c := start(t, o)
	engine := st.enter("engine")
	engine.tell("spawn apart setsid deaf")
	apart := st.enter("apart")
	engine.tell("print last words")
	observer, err := Attach(testContext(t), o.Dir) // owns nothing, prevents nothing
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	c.Close()
	engine.mustEnd()
	apart.mustEnd()
	lost(t, observer)
	mustHold(t, "keeper is gone", func() bool {
		_, err := Attach(testContext(t), o.Dir)
		return errors.Is(err, ErrKeeperDead)
	})
	if _, err := Spawn(testContext(t), o); !errors.Is(err, ErrKeeperDead) {
		t.Errorf("a spawn over an unread exit: %v", err)
	}
	r, err := EndOrphan(testContext(t), o.Dir, 0)
	if err != nil || !r.Orphaned || r.Exit == nil || r.Exit.Signal != int(syscall.SIGTERM) || r.Signalled != 0 ||
		r.State.Phase != Ended || string(r.Tail) != "last words\n" {
		t.Errorf("report is %+v, %v", r, err)
	}
	if _, err := Attach(testContext(t), o.Dir); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("after that: %v", err)
	}
}

func TestExitWaitsForAMasterThenIsLeft(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.OrphanTimeout = 2 * time.Second
	c := start(t, o)
	engine := st.enter("engine")
	observer, err := Attach(testContext(t), o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	c.Close()
	engine.tell("exit 37")
	until(t, observer, "end", phase(Ended)) // the keeper is still there to say so
	lost(t, observer)
	r, err := ReadExit(o.Dir)
	if err != nil || r.State.Exit.Code != 37 || r.State.Phase != Ended {
		t.Errorf("record is %+v, %v", r, err)
	}
}

func TestClaimStopsTheOrphanClock(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	o.Intent.OrphanTimeout = time.Second
	c := start(t, o)
	engine := st.enter("engine")
	next, err := Attach(testContext(t), o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	cleanUp(t, next, o.Dir)
	c.Close()
	if err := next.Claim(testContext(t), 2); err != nil {
		t.Fatal(err)
	}
	select {
	case <-engine.gone:
		t.Error("an owned engine was ended as an orphan's")
	case <-time.After(2 * o.Intent.OrphanTimeout):
	}
}

func TestSignalsToTheKeeper(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	keeper := until(t, c, "engine", phase(Running)).KeeperPID
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGPIPE, syscall.SIGTTIN, syscall.SIGALRM} {
		if err := syscall.Kill(keeper, sig); err != nil {
			t.Fatal(err)
		}
	}
	mustHold(t, "the keeper says what it ignores", func() bool {
		said, _ := os.ReadFile(o.Stderr.Name())
		return strings.Count(string(said), "a signal to end was ignored") == 2
	})
	if s := c.State(); s.Phase != Running || s.Stopping {
		t.Fatalf("a signal that is the owner's to decide on did something: %+v", s)
	}
	observer, err := Attach(testContext(t), o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer observer.Close()
	c.Close()
	mustHold(t, "TERM ends the engine of a keeper that nobody owns", func() bool {
		syscall.Kill(keeper, syscall.SIGTERM) // until the keeper has seen that its owner is gone
		select {
		case <-engine.gone:
			return true
		default:
			return false
		}
	})
	lost(t, observer)
	if r, err := ReadExit(o.Dir); err != nil || !r.Orphaned || r.State.Exit == nil {
		t.Errorf("record is %+v, %v", r, err)
	}
}
