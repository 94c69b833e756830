package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSend(t *testing.T) {
	for _, c := range []struct {
		name   string
		states []State
		want   string
	}{
		{"ready", []State{Ready}, "READY=1"},
		{"several are one message", []State{MainPID(4711), Ready, Status("4 of 4 workers ready")}, "MAINPID=4711\nREADY=1\nSTATUS=4 of 4 workers ready"},
		{"stopping", []State{Stopping}, "STOPPING=1"},
		{"watchdog", []State{Watchdog}, "WATCHDOG=1"},
		{"extension in microseconds", []State{ExtendTimeout(30 * time.Second)}, "EXTEND_TIMEOUT_USEC=30000000"},
		{"a status cannot smuggle another state", []State{Status("bad\nMAINPID=1\r\x00READY=1")}, "STATUS=bad MAINPID=1 READY=1"},
		{"an empty status clears it", []State{Status("")}, "STATUS="},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newManager(t, "")
			if err := FromEnv().Send(c.states...); err != nil {
				t.Fatal(err)
			}
			if got := m.receive(); got.text != c.want || len(got.files) != 0 {
				t.Errorf("got %q with %d descriptors, want %q", got.text, len(got.files), c.want)
			}
			m.nothing()
		})
	}
}

func TestSendToAnAbstractSocket(t *testing.T) {
	m := newManager(t, "@stoker-systemd-test-"+strconv.Itoa(os.Getpid()))
	if err := FromEnv().Send(Ready); err != nil {
		t.Fatal(err)
	}
	if got := m.receive().text; got != "READY=1" {
		t.Errorf("got %q", got)
	}
}

// TestReloadingCarriesTheClock: the manager compares it with its own, so that a
// reload announced before it asked for one does not count.
func TestReloadingCarriesTheClock(t *testing.T) {
	var before, after unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &before); err != nil {
		t.Fatal(err)
	}
	state := string(Reloading())
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &after); err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=(\d+)$`).FindStringSubmatch(state)
	if found == nil {
		t.Fatalf("got %q", state)
	}
	usec, err := strconv.ParseInt(found[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	if usec < before.Nano()/1000 || usec > after.Nano()/1000 {
		t.Errorf("%d is not between %d and %d", usec, before.Nano()/1000, after.Nano()/1000)
	}
}

func TestNobodyToNotify(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	listener := listen(t, "tcp", "127.0.0.1:0")
	for name, n := range map[string]*Notifier{"environment": FromEnv(), "zero": {}, "nil": nil} {
		if n.Enabled() {
			t.Errorf("%s: enabled", name)
		}
		err := errors.Join(n.Send(Ready), n.Store("x", listener.(syscall.Conn)), n.Remove("x"), n.Barrier(t.Context()))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestManagerThatIsGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	n := FromEnv()
	if err := n.Send(Ready); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Send: %v, want that the socket does not exist", err)
	}
	if err := n.Barrier(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Barrier: %v, want that the socket does not exist", err)
	}
}

// TestManagerThatHangs: with its queue full a send fails within its bound
// instead of hanging the caller.
func TestManagerThatHangs(t *testing.T) {
	newManager(t, "")
	n := FromEnv()
	began := time.Now()
	for range 100000 {
		if err := n.Send(Status("filling the queue")); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("got %v, want a deadline", err)
			}
			if took := time.Since(began); took > sendWithin+5*time.Second {
				t.Errorf("took %v", took)
			}
			return
		}
	}
	t.Error("the queue takes everything")
}

// TestStore: what the manager gets is the socket itself: connections made while
// we are gone wait there, and whoever gets it next accepts them.
func TestStore(t *testing.T) {
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			address := "127.0.0.1:0"
			if network == "unix" {
				address = filepath.Join(t.TempDir(), "s")
			}
			m := newManager(t, "")
			listener := listen(t, network, address)
			if u, ok := listener.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false)
			}
			if err := FromEnv().Store("stoker-listen-x", listener.(syscall.Conn)); err != nil {
				t.Fatal(err)
			}
			got := m.receive()
			if got.text != "FDSTORE=1\nFDNAME=stoker-listen-x" || len(got.files) != 1 {
				t.Fatalf("got %q with %d descriptors", got.text, len(got.files))
			}
			if err := listener.Close(); err != nil {
				t.Fatal(err)
			}

			client, err := net.Dial(network, listener.Addr().String())
			if err != nil {
				t.Fatalf("connect while only the manager holds the socket: %v", err)
			}
			defer client.Close()
			stored, err := listenerOf(got.files[0])
			if err != nil {
				t.Fatal(err)
			}
			defer stored.Close()
			conn, err := stored.Accept()
			if err != nil {
				t.Fatal(err)
			}
			conn.Close()
		})
	}
}

func TestRemove(t *testing.T) {
	m := newManager(t, "")
	if err := FromEnv().Remove("stoker-listen-x"); err != nil {
		t.Fatal(err)
	}
	if got := m.receive(); got.text != "FDSTOREREMOVE=1\nFDNAME=stoker-listen-x" || len(got.files) != 0 {
		t.Errorf("got %q with %d descriptors", got.text, len(got.files))
	}
}

// TestBarrier: it lasts until the manager closes what the message carried.
func TestBarrier(t *testing.T) {
	m := newManager(t, "")
	n := FromEnv()
	done := make(chan error, 1)
	go func() { done <- n.Barrier(t.Context()) }()
	got := m.receive()
	if got.text != "BARRIER=1" || len(got.files) != 1 {
		t.Fatalf("got %q with %d descriptors", got.text, len(got.files))
	}
	select {
	case err := <-done:
		t.Fatalf("over before the manager came to it: %v", err)
	case <-time.After(20 * time.Millisecond): // a negative needs a while
	}
	got.files[0].Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestBarrierOfAManagerThatHangs(t *testing.T) {
	newManager(t, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	hangs := errors.New("enough")
	cancel(hangs)
	if err := FromEnv().Barrier(ctx); !errors.Is(err, hangs) {
		t.Errorf("got %v, want %v", err, hangs)
	}
}

func TestWatchdogInterval(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		wantError bool
	}{
		{"", "", 0, false},
		{"30000000", self, 30 * time.Second, false},
		{"30000000", "", 30 * time.Second, false},
		{"30000000", "1", 0, false},
		{"soon", self, 0, true},
		{"-1", self, 0, true},
	} {
		t.Run(fmt.Sprintf("%s of %s", c.usec, c.pid), func(t *testing.T) {
			t.Setenv("WATCHDOG_USEC", c.usec)
			t.Setenv("WATCHDOG_PID", c.pid)
			got, err := WatchdogInterval()
			if got != c.want || (err != nil) != c.wantError {
				t.Errorf("got %v, %v", got, err)
			}
			if _, set := os.LookupEnv("WATCHDOG_PID"); set && c.want > 0 {
				t.Error("WATCHDOG_PID is still set: a successor would not find itself watched")
			}
		})
	}
}

func listen(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener
}
