package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// logFile takes what a keeper says, and reads what it was told.
func logFile(t *testing.T) (*os.File, func() string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f, func() string { b, _ := os.ReadFile(f.Name()); return string(b) }
}

// descriptors are what a process has open: where each leads, and how often.
func descriptors(t *testing.T, pid int) map[string]int {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	open := make(map[string]int)
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil {
			open[to]++
		}
	}
	return open
}

// TestOutputFollowsTheOwner: a master in another terminal adopts an engine, whose
// output goes there from then on, and nothing is held open where it went before.
func TestOutputFollowsTheOwner(t *testing.T) {
	st := newStage(t)
	before, readBefore := logFile(t)
	o := options(t, st.argv("engine")...)
	o.Stderr = before
	first := start(t, o)
	engine := st.enter("engine")
	engine.tell("print one")
	mustHold(t, "the first line", func() bool { return readBefore() == "[w-0] one\n" })

	ctx := testContext(t)
	second, err := Attach(ctx, o.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	after, readAfter := logFile(t)
	if err := second.Log(ctx, after); !errors.Is(err, ErrNotOwner) {
		t.Errorf("of one who only observes: %v", err)
	}
	if err := second.Claim(ctx, 2); err != nil {
		t.Fatal(err)
	}
	if err := second.Log(ctx, after); err != nil {
		t.Fatal(err)
	}
	engine.tell("print two")
	mustHold(t, "the second line", func() bool { return readAfter() == "[w-0] two\n" })
	if got := readBefore(); got != "[w-0] one\n" {
		t.Errorf("the master before was told %q", got)
	}
	open := descriptors(t, second.State().KeeperPID)
	if open[before.Name()] != 0 || open[after.Name()] != 2 {
		t.Errorf("the keeper has open %v; want stderr and stdout at %s", open, after.Name())
	}
	if err := first.Log(ctx, before); !errors.Is(err, ErrNotOwner) {
		t.Errorf("of one who was the owner: %v", err)
	}
	mustUntilEnd(t, second, engine, o.Dir)
}

func mustUntilEnd(t *testing.T, c *Client, engine *actor, dir string) {
	t.Helper()
	engine.tell("exit 0")
	until(t, c, "end", phase(Ended))
	mustAck(t, c, dir)
}

// sendWith writes text in one message with the descriptor, so many times.
func sendWith(t *testing.T, c *net.UnixConn, text string, f *os.File, times int) {
	t.Helper()
	fds := make([]int, times)
	for i := range fds {
		fds[i] = int(f.Fd())
	}
	if _, _, err := c.WriteMsgUnix([]byte(text), syscall.UnixRights(fds...), nil); err != nil {
		t.Fatal(err)
	}
}

// TestDescriptorsNobodyAskedFor: whatever a peer sends, no descriptor of it
// stays open in the keeper, and only a proper log is obeyed.
func TestDescriptorsNobodyAskedFor(t *testing.T) {
	st := newStage(t)
	o := options(t, st.argv("engine")...)
	c := start(t, o)
	engine := st.enter("engine")
	pid := until(t, c, "engine", phase(Running)).KeeperPID
	stray, read := logFile(t)
	closed := func() bool { return descriptors(t, pid)[stray.Name()] == 0 }
	readOnly, err := os.Open(stray.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer readOnly.Close()
	epoch := 6
	claim := func() string { // of its own: the owner before may not have been seen to leave
		epoch++
		return fmt.Sprintf(`{"op":"claim","id":1,"epoch":%d}`+"\n", epoch)
	}
	const hello = `{"op":"hello","id":1,"min":1,"max":2}` + "\n"
	for _, tc := range []struct {
		name, before, send string
		file               *os.File
		times              int
		error              string
	}{
		{"twenty with a tail", hello, `{"op":"tail","id":2}` + "\n", stray, 20, ""},
		{"twenty with a stop by a stranger", hello, `{"op":"stop","id":2,"signal":15}` + "\n", stray, 20, "not_owner"},
		{"with a hello", "", hello, stray, 1, ""},
		{"with an unknown op", hello, `{"op":"dance","id":2}` + "\n", stray, 3, "unknown_op"},
		{"with garbage", hello, "what?\n", stray, 20, "bad_frame"},
		{"a log by a stranger", hello, `{"op":"log","id":2}` + "\n", stray, 1, "not_owner"},
		{"a log before any hello", claim(), `{"op":"log","id":2}` + "\n", stray, 1, "unknown_op"},
		{"a log in version 1", `{"op":"hello","id":1,"min":1,"max":1}` + "\n" + claim(), `{"op":"log","id":2}` + "\n", stray, 1, "unknown_op"},
		{"a log of what is only read", hello + claim(), `{"op":"log","id":2}` + "\n", readOnly, 1, "bad_descriptor"},
		{"a log without a descriptor", hello + claim(), `{"op":"log","id":2}` + "\n", nil, 0, "bad_descriptor"},
		{"with the frame after the log", hello + claim() + `{"op":"log","id":2}` + "\n", `{"op":"tail","id":3}` + "\n", stray, 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn, frames := raw(t, o.Dir)
			for line := range strings.Lines(tc.before) {
				fmt.Fprint(conn, line)
				reply(t, frames)
			}
			if tc.file == nil {
				fmt.Fprint(conn, tc.send)
			} else {
				sendWith(t, conn, tc.send, tc.file, tc.times)
			}
			if f := reply(t, frames); f.Error != tc.error {
				t.Errorf("answered %q: %s, want %q", f.Error, f.Message, tc.error)
			}
			mustHold(t, "nothing of it is open", closed)
		})
	}
	t.Run("with half a frame, and gone", func(t *testing.T) {
		conn, _ := raw(t, o.Dir)
		for range 5 {
			sendWith(t, conn, `{"op":`, stray, 4)
		}
		mustHold(t, "one is held at most", func() bool { return descriptors(t, pid)[stray.Name()] <= 1 })
		conn.Close()
		mustHold(t, "nothing of it is open", closed)
	})
	if got := read(); got != "" {
		t.Errorf("the keeper wrote %q", got)
	}
	conn, frames := raw(t, o.Dir)
	for line := range strings.Lines(hello + claim()) {
		fmt.Fprint(conn, line)
		reply(t, frames)
	}
	// Who may, gets the first of many.
	sendWith(t, conn, `{"op":"log","id":2}`+"\n", stray, 20)
	if f := reply(t, frames); f.Error != "" {
		t.Errorf("answered %q: %s", f.Error, f.Message)
	}
	mustHold(t, "stderr and stdout", func() bool { return descriptors(t, pid)[stray.Name()] == 2 })
	engine.tell("print hello")
	mustHold(t, "the output", func() bool { return read() == "[w-0] hello\n" })
}

// TestDescriptorBelongsToItsFrame: frames that lie in the socket together keep
// their descriptors apart.
func TestDescriptorBelongsToItsFrame(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
		defer c.Close()
		ends[i] = c.(*net.UnixConn)
	}
	f, _ := logFile(t)
	open := func() int { return descriptors(t, os.Getpid())[f.Name()] }
	before := open()
	fmt.Fprintln(ends[0], `{"op":"a"}`)
	sendWith(t, ends[0], `{"op":"b"}`+"\n", f, 1)
	sendWith(t, ends[0], `{"op":"c"}`+"\n"+`{"op":"d"}`+"\n", f, 2)
	fmt.Fprintln(ends[0], `{"op":"e"}`)
	in := newInbox(ends[1])
	frames := newFrameReader(in, maxRequest)
	var got []string
	for range 5 {
		f, err := frames.next()
		if err != nil {
			t.Fatal(err)
		}
		fd := in.take(frames.end)
		got = append(got, fmt.Sprintf("%s:%v", f.Op, fd != nil))
		fd.close()
	}
	// Of a message that holds two frames it is the last one's.
	if want := "a:false b:true c:false d:true e:false"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if now := open(); now != before {
		t.Errorf("%d are open, before %d", now, before)
	}
}

// TestRedirectKeepsLinesWhole: the old reader stands still in the middle of a
// long line; the new one gets that line whole, and all that follow.
func TestRedirectKeepsLinesWhole(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 2*4096); err != nil {
		t.Fatal(err)
	}
	long := "[w] " + strings.Repeat("x", maxLine) + "\n"
	o := newOutput("w", int(w.Fd()))
	o.put([]byte("[w] first\n"))
	o.put([]byte(long))
	o.put([]byte("[w] last\n"))
	mustHold(t, "the pipe is full, in the middle of the long line", func() bool {
		n, err := unix.IoctlGetInt(int(r.Fd()), unix.TIOCINQ)
		return err == nil && n == len("[w] first\n")+4096
	})
	f, read := logFile(t)
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	o.redirect(&passed{fd: fd})
	want := long + "[w] last\n"
	mustHold(t, "the rest", func() bool { return len(read()) >= len(want) })
	o.close(limit)
	if got := read(); got != want {
		t.Errorf("got %d bytes, %.30q…%q, want %d", len(got), got, got[max(0, len(got)-30):], len(want))
	}
}

// TestShedLosesNothing: the program goes on after its pages were given back.
func TestShedLosesNothing(t *testing.T) {
	Shed()
	if m, ok := parseMapping("00400000-0076e000 r-xp 00000000 fe:00 1234    /usr/bin/a stoker"); !ok ||
		m != (mapping{start: 0x400000, end: 0x76e000, perms: "r-xp", path: "/usr/bin/a stoker"}) {
		t.Errorf("parsed as %+v, %v", m, ok)
	}
	for _, line := range []string{"", "Rss:                 12 kB", "VmFlags: rd ex mr mw me", "Anonymous:             0 kB", "1-x r 0 0 0"} {
		if m, ok := parseMapping(line); ok {
			t.Errorf("%q is taken for a mapping: %+v", line, m)
		}
	}
}
