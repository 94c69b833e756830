package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestGarbageDoesNoHarm(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	for name, send := range map[string][]byte{
		"half a frame": []byte(`{"op":"st`),
		"nothing":      nil,
		"garbage":      []byte("\x00\xff\xfe not json\n"),
		"a number":     []byte("42\n"),
		"an array":     []byte(`[{"op":"stop","signal":9}]` + "\n"),
		"wrong types":  []byte(`{"op":"stop","signal":"nine"}` + "\n"),
		"giant":        bytes.Repeat([]byte("x"), 1<<20),
		"giant frame":  []byte(`{"op":"hello","pad":"` + strings.Repeat("x", maxRequest) + `"}` + "\n"),
		"deep":         []byte(strings.Repeat(`{"state":`, 400) + "\n"),
		"a stop":       []byte(`{"op":"stop","id":1,"signal":9,"grace":0}` + "\n"),
		"an ack":       []byte(`{"op":"ack","id":1}` + "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			conn, frames := raw(t, o.Dir)
			if f, err := frames.next(); err != nil || f.Op != opHello {
				t.Fatalf("hello is %+v, %v", f, err)
			}
			conn.Write(send)
			conn.CloseWrite()
			mustEOF(t, conn)
		})
	}
	if _, err := c.Tail(testContext(t)); err != nil {
		t.Errorf("the owner is no longer served: %v", err)
	}
	engine.tell("exit 0")
	until(t, c, "end", phase(Ended))
}

func TestFramesOfANewerMaster(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	start(t, o)
	st.enter("engine")
	conn, frames := raw(t, o.Dir)
	if _, err := frames.next(); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ send, error string }{
		{`{"op":"hello","id":1,"min":1,"max":7,"colour":"blue"}`, ""},
		{`{"op":"hello","id":2,"min":5,"max":7}`, "version"},
		{`{"op":"freeze","id":3,"how":{"long":[1,2]}}`, "unknown_op"},
		{`{"op":"tail","id":4,"lines":10}`, ""},
		{`{"op":"claim","id":5,"epoch":0}`, "stale_epoch"},
		{`{"op":"claim","id":6,"epoch":9}`, ""},
		{`{"op":"stop","id":7,"signal":0}`, "bad_signal"},
		{`{"op":"ack","id":8}`, "not_ended"},
		{`{"id":9}`, "unknown_op"},
	} {
		fmt.Fprintln(conn, tc.send)
		f := reply(t, frames)
		if f.Error != tc.error || f.State == nil {
			t.Errorf("%s: %+v", tc.send, f)
		}
	}
	fmt.Fprintln(conn, "what?")
	if f := reply(t, frames); f.Error != "bad_frame" {
		t.Errorf("garbage: %+v", f)
	}
	mustEOF(t, conn)
}

// reply is the next one, whatever else comes before.
func reply(t *testing.T, frames *frameReader) frame {
	t.Helper()
	for {
		f, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == opReply {
			return f
		}
	}
}

func TestClientToleratesANewerKeeper(t *testing.T) {
	ours, its := net.Pipe()
	defer its.Close()
	go func() {
		fmt.Fprintln(its, `{"op":"hello","min":1,"max":3,"mood":"good","state":{"seq":1,"phase":"running","aura":1}}`)
		fmt.Fprintln(its, `{"op":"rumour","id":4,"text":["x"]}`)
		fmt.Fprintln(its, `{"op":"reply","id":77}`)
		fmt.Fprintln(its, `{"op":"state","state":{"seq":3,"phase":"ended"}}`)
		fmt.Fprintln(its, `{"op":"state","state":{"seq":2,"phase":"ending"}}`) // late: of no interest
		io.Copy(io.Discard, its)
	}()
	c, err := dial(testContext(t), ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	until(t, c, "end", phase(Ended))
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := c.Claim(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a claim that nobody answers: %v", err)
	}
	if s := c.State(); s.Phase != Ended {
		t.Errorf("an older state has replaced a newer one: %+v", s)
	}
}

func TestConnectionFloodIsBounded(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	st.enter("engine")
	var conns []net.Conn
	refused := 0
	for range 4 * maxConns {
		conn, frames := raw(t, o.Dir)
		conns = append(conns, conn)
		f, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.Error == "busy" {
			refused++
			mustEOF(t, conn)
		}
	}
	if want := 4*maxConns - (maxConns - 1); refused != want { // the owner has one
		t.Errorf("%d were refused, want %d", refused, want)
	}
	if _, err := c.Tail(testContext(t)); err != nil {
		t.Errorf("the owner is no longer served: %v", err)
	}
	for _, conn := range conns {
		conn.Close()
	}
	mustHold(t, "room for another", func() bool {
		next, err := Attach(testContext(t), o.Dir)
		return err == nil && next.Close() == nil
	})
}

func TestClientThatNeverReadsIsDropped(t *testing.T) {
	st := newStage(t)
	o := options(t, "sh", "-c", "head -c 70000 /dev/zero; exec sleep 600")
	c := start(t, o)
	mustHold(t, "output", func() bool { b, err := c.Tail(testContext(t)); return err == nil && len(b) == tailSize })
	conn, _ := raw(t, o.Dir)
	go func() { // asks for more than any buffer holds; fails when it is dropped
		for {
			if _, err := fmt.Fprintln(conn, `{"op":"tail","id":1}`); err != nil {
				return
			}
		}
	}()
	if _, err := c.Tail(testContext(t)); err != nil {
		t.Errorf("the owner waits for one who does not read: %v", err)
	}
	_ = st
}

func FuzzFrame(f *testing.F) {
	f.Add([]byte(`{"op":"stop","id":3,"signal":15,"grace":1000}` + "\n" + `{"op":`))
	f.Add([]byte("\n\n{}\nnull\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := newFrameReader(bytes.NewReader(in), 64)
		for {
			got, err := r.next()
			if err != nil {
				if !bytes.Contains(in, []byte{'\n'}) && len(in) > 0 && len(in) <= 64 && !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Fatalf("%q: %v", in, err)
				}
				return
			}
			b, err := got.encode()
			if err != nil {
				t.Fatal(err)
			}
			again, err := newFrameReader(bytes.NewReader(b), 1<<20).next()
			if err != nil || again.Op != got.Op || again.ID != got.ID || again.Grace != got.Grace {
				t.Fatalf("%q became %+v then %+v, %v", in, got, again, err)
			}
		}
	})
}

func TestSpawnThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	for _, tc := range []struct {
		name   string
		change func(*SpawnOptions)
		want   error
		says   string
	}{
		{name: "no such keeper", change: func(o *SpawnOptions) { o.Argv = []string{"/no/such/stoker"} }, want: os.ErrNotExist},
		{name: "ends at once", change: func(o *SpawnOptions) { o.Argv = []string{"false"} }, want: ErrLost},
		{name: "says no hello", change: func(o *SpawnOptions) { o.Argv = []string{"sh", "-c", "exec sleep 600"} }, want: context.DeadlineExceeded},
		{name: "says something else", change: func(o *SpawnOptions) { o.Argv = []string{"sh", "-c", `echo '{"op":"state"}' >&4; exec sleep 600`} }, want: ErrForeign},
		{name: "is another", change: func(o *SpawnOptions) {
			o.Argv = []string{"sh", "-c", `echo '{"op":"hello","min":1,"max":1,"state":{"nonce":"x"}}' >&4; exec sleep 600`}
		}, want: ErrForeign},
		{name: "no name", change: func(o *SpawnOptions) { o.Intent.Name = "" }, says: "are needed"},
		{name: "long path", change: func(o *SpawnOptions) { o.Dir = filepath.Join(o.Dir, strings.Repeat("x", 110)) }, says: "the kernel takes 107"},
		{name: "a file is in the way", change: func(o *SpawnOptions) { os.WriteFile(o.Dir, nil, 0o600) }, says: "not a directory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, st.argv("never")...)
			tc.change(&o)
			within := limit
			if errors.Is(tc.want, context.DeadlineExceeded) {
				within = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(context.Background(), within)
			defer cancel()
			_, err := Spawn(ctx, o)
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error is %v, want %v %s", err, tc.want, tc.says)
			}
			entries, _ := os.ReadDir(o.Dir)
			for _, e := range entries {
				if e.Name() != lockName {
					t.Errorf("%s is left", e.Name())
				}
			}
			if entries != nil {
				lock, err := takeLock(o.Dir)
				if err != nil {
					t.Fatalf("somebody is left: %v", err)
				}
				lock.Close()
			}
		})
	}
}

func TestSpawnCutShortEndsTheEngineToo(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	// A keeper that works, behind a hello that never comes through.
	o.Argv = []string{"sh", "-c", `exec 4<&-; exec 4</dev/null; exec "$0" "$@"`, os.Args[0], "keeper"}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if _, err := Spawn(ctx, o); !errors.Is(err, ErrLost) {
		t.Errorf("error is %v", err)
	}
	if _, err := Attach(ctx, o.Dir); !errors.Is(err, ErrNoKeeper) {
		t.Errorf("attach: %v", err)
	}
}

func TestOneKeeperPerDirectory(t *testing.T) {
	t.Parallel()
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	st.enter("engine")
	if _, err := Spawn(testContext(t), o); !errors.Is(err, ErrBusy) {
		t.Errorf("second spawn: %v", err)
	}
	if _, err := EndOrphan(testContext(t), o.Dir, 0); !errors.Is(err, ErrBusy) {
		t.Errorf("ending what a living keeper has: %v", err)
	}
	if code := byHand(t, o.Dir); code != exitFailed {
		t.Errorf("a second keeper in the directory exits with %d", code)
	}
	if c2, err := Attach(testContext(t), o.Dir); err != nil {
		t.Errorf("the first one is not what its files say any more: %v", err)
	} else {
		c2.Close()
	}
	until(t, c, "engine", phase(Running))
}

func TestAttachWhereNothingIs(t *testing.T) {
	for _, dir := range []string{t.TempDir(), "/no/such/dir"} {
		if dir != "/no/such/dir" {
			if err := os.Chmod(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Attach(testContext(t), dir); !errors.Is(err, ErrNoKeeper) {
			t.Errorf("%s: %v", dir, err)
		}
		if _, err := EndOrphan(testContext(t), dir, 0); !errors.Is(err, ErrNoKeeper) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// byHand starts a keeper as a person might, without lock and connection.
func byHand(t *testing.T, dir string) int {
	t.Helper()
	cmd := exec.Command(os.Args[0], "keeper", "--dir", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "held by another keeper") {
		t.Errorf("it says %s, %v", out, err)
	}
	return cmd.ProcessState.ExitCode()
}
