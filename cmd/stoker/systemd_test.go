package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"stoker/internal/systemd"
)

// serviceManager is the other end of NOTIFY_SOCKET: it notes every message and
// closes what is passed with it, which is all that a barrier asks for.
type serviceManager struct {
	t    *testing.T
	mu   sync.Mutex
	said []string
	more chan struct{}
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	m := &serviceManager{t: t, more: make(chan struct{}, 1)}
	var reading sync.WaitGroup
	reading.Go(func() { m.read(conn) })
	t.Cleanup(func() { conn.Close(); reading.Wait() })
	return m
}

func (m *serviceManager) read(conn *net.UnixConn) {
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*4))
	for {
		n, oob, _, _, err := conn.ReadMsgUnix(text, rights)
		if err != nil {
			return
		}
		controls, _ := unix.ParseSocketControlMessage(rights[:oob])
		note := string(text[:n])
		var fds []int
		for i := range controls {
			some, _ := unix.ParseUnixRights(&controls[i])
			fds = append(fds, some...)
		}
		m.mu.Lock()
		m.said = append(m.said, note+strings.Repeat("\n+fd", len(fds)))
		m.mu.Unlock()
		for _, fd := range fds { // who waits for that may look at what was said
			_ = unix.Close(fd)
		}
		select {
		case m.more <- struct{}{}:
		default:
		}
	}
}

// heard are all messages so far, without those of the watchdog and of patience.
func (m *serviceManager) heard() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var words []string
	for _, note := range m.said {
		if note != "WATCHDOG=1" && !strings.HasPrefix(note, "EXTEND_TIMEOUT_USEC=") {
			words = append(words, note)
		}
	}
	return words
}

func (m *serviceManager) count(note string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, said := range m.said {
		if said == note {
			n++
		}
	}
	return n
}

// await waits until the fact holds, looking at each message.
func (m *serviceManager) await(what string, fact func() bool) {
	m.t.Helper()
	limit := time.After(20 * time.Second)
	for !fact() {
		select {
		case <-m.more:
		case <-limit:
			m.t.Fatalf("not within 20 s: %s; heard %q", what, m.heard())
		}
	}
}

// TestNotifier follows a master through its life.
func TestNotifier(t *testing.T) {
	manager := newServiceManager(t)
	t.Setenv("WATCHDOG_USEC", "60000") // looked after every 20 ms
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	var what atomic.Value
	var dead atomic.Bool
	what.Store("1 of 2 ready")

	n := newNotifier(hclog.NewNullLogger())
	n.started(vitals{
		status: func() (string, string) { return what.Load().(string), ", busy" },
		alive: func(context.Context) error {
			if dead.Load() {
				return errors.New("deaf")
			}
			return nil
		},
	})
	defer n.close()
	manager.await("ready", func() bool { return len(manager.heard()) == 1 })
	if want := fmt.Sprintf("MAINPID=%d\nREADY=1\nWATCHDOG=1\nSTATUS=1 of 2 ready, busy", os.Getpid()); manager.heard()[0] != want {
		t.Errorf("got %q, want %q", manager.heard()[0], want)
	}

	manager.await("pings", func() bool { return manager.count("WATCHDOG=1") >= 3 })
	what.Store("2 of 2 ready")
	manager.await("the new status", func() bool { return manager.count("STATUS=2 of 2 ready, busy") == 1 })

	n.reloading()
	n.reloaded()
	manager.await("the reload", func() bool { return manager.count("READY=1") == 1 })
	if heard := manager.heard(); !strings.HasPrefix(heard[len(heard)-2], "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("heard %q", heard)
	}

	n.leaving(time.Hour)
	n.stopping()
	manager.await("stopping", func() bool { return manager.count("STOPPING=1") == 1 })
	if manager.count("EXTEND_TIMEOUT_USEC=15000000") == 0 {
		t.Error("patience is not asked for as soon as an end is")
	}
	manager.await("patience", func() bool { return manager.count("EXTEND_TIMEOUT_USEC=15000000") >= 2 })

	// A master that does not respond is not said to live.
	dead.Store(true)
	before := manager.count("EXTEND_TIMEOUT_USEC=15000000")
	manager.await("three beats", func() bool { return manager.count("EXTEND_TIMEOUT_USEC=15000000") >= before+3 })
	pings := manager.count("WATCHDOG=1")
	manager.await("three beats more", func() bool { return manager.count("EXTEND_TIMEOUT_USEC=15000000") >= before+6 })
	if now := manager.count("WATCHDOG=1"); now != pings {
		t.Errorf("%d pings while nothing responded", now-pings)
	}
}

// TestPatienceHasALimit: an end that takes longer than it may is the manager's to end.
func TestPatienceHasALimit(t *testing.T) {
	n := newNotifier(hclog.NewNullLogger())
	if n.leaves() {
		t.Error("nobody has asked it to")
	}
	n.leaving(time.Hour)
	if !n.leaves() {
		t.Error("no patience within the limit")
	}
	n.leaving(-time.Second)
	if n.leaves() {
		t.Error("patience past the limit")
	}
}

// TestRetiredNotifierIsSilent: a successor has the word.
func TestRetiredNotifierIsSilent(t *testing.T) {
	manager := newServiceManager(t)
	n := newNotifier(hclog.NewNullLogger())
	n.retire()
	n.stopping()
	if err := n.manager.Barrier(t.Context()); err != nil {
		t.Fatal(err)
	}
	if heard := manager.heard(); len(heard) != 1 || heard[0] != "BARRIER=1\n+fd" {
		t.Errorf("heard %q", heard)
	}
}

// TestNoManager: nothing happens, and nothing has to be asked before.
func TestNoManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := newNotifier(hclog.NewNullLogger())
	n.started(vitals{}) // asks nothing
	n.reloading()
	n.stopping()
	n.close()
}

func handed(t *testing.T, name string, stored bool) systemd.Handed {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	if stored {
		name = systemd.StoredName(listener.Addr().String())
	}
	return systemd.Handed{Name: name, Stored: stored, Listener: listener}
}

// socketOf is what a listener's socket is known by, whichever descriptor it has.
func socketOf(t *testing.T, l net.Listener) uint64 {
	t.Helper()
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = unix.Fstat(int(fd), &stat) }); err != nil || failed != nil {
		t.Fatal(err, failed)
	}
	return stat.Ino
}

// TestDoorOverStoredSockets: a socket that an earlier master stored is used
// and taken out of the store before the door closes; one that is not
// configured any more is closed and taken out at once.
func TestDoorOverStoredSockets(t *testing.T) {
	manager := newServiceManager(t)
	used, old := handed(t, "", true), handed(t, "", true)
	h := &handedIn{manager: systemd.FromEnv(), log: hclog.NewNullLogger(), sockets: []systemd.Handed{old, used}}
	fresh := "unix:" + filepath.Join(t.TempDir(), "s")
	socket := socketOf(t, used.Listener)
	d, err := openDoor(t.Context(), []string{used.Listener.Addr().String(), fresh}, h, firstGeneration(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if got := d.Listeners(); len(got) != 2 || socketOf(t, got[0].Listener) != socket {
		t.Errorf("listeners: %v", got)
	}
	if conn, err := net.Dial("tcp", old.Listener.Addr().String()); err == nil {
		conn.Close()
		t.Error("the socket that is not configured any more still listens")
	}
	h.settle() // what was stored has been heard
	heard := manager.heard()
	if len(heard) != 5 || heard[0] != "FDSTOREREMOVE=1\nFDNAME="+old.Name || heard[1] != "BARRIER=1\n+fd" {
		t.Errorf("heard %q", heard)
	}
	for _, name := range []string{used.Name, systemd.StoredName(fresh)} {
		if manager.count("FDSTORE=1\nFDNAME="+name+"\n+fd") != 1 {
			t.Errorf("%s was not stored: %q", name, heard)
		}
	}

	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	heard = manager.heard()[5:]
	if len(heard) != 3 || heard[2] != "BARRIER=1\n+fd" ||
		!strings.HasPrefix(heard[0], "FDSTOREREMOVE=1\n") || !strings.HasPrefix(heard[1], "FDSTOREREMOVE=1\n") {
		t.Errorf("at the close: heard %q", heard)
	}
}

// TestDoorOverSocketUnit: its socket is used, is not stored, and goes on
// listening when the door has closed.
func TestDoorOverSocketUnit(t *testing.T) {
	manager := newServiceManager(t)
	unit := handed(t, "stoker.socket", false)
	held, err := unit.Listener.(*net.TCPListener).File() // as the service manager holds it
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	h := &handedIn{manager: systemd.FromEnv(), log: hclog.NewNullLogger(), sockets: []systemd.Handed{unit}}
	d, err := openDoor(t.Context(), []string{unit.Listener.Addr().String()}, h, firstGeneration(), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Close(t.Context()); err != nil {
		t.Error(err)
	}
	conn, err := net.Dial("tcp", unit.Listener.Addr().String())
	if err != nil {
		t.Errorf("the socket unit's socket was ended for everybody: %v", err)
	} else {
		conn.Close()
	}
	if heard := manager.heard(); len(heard) != 0 {
		t.Errorf("heard %q", heard)
	}
}

// TestSocketUnitThatListensElsewhere: two configurations contradict each other.
func TestSocketUnitThatListensElsewhere(t *testing.T) {
	newServiceManager(t)
	unit := handed(t, "stoker.socket", false)
	h := &handedIn{manager: systemd.FromEnv(), log: hclog.NewNullLogger(), sockets: []systemd.Handed{unit}}
	_, err := openDoor(t.Context(), []string{"127.0.0.1:0"}, h, firstGeneration(), hclog.NewNullLogger())
	if err == nil || !strings.Contains(err.Error(), unit.Listener.Addr().String()+" (stoker.socket)") {
		t.Errorf("got %v, want an error that names the socket", err)
	}
}
