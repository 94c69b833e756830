package systemd

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// manager is the receiving end of notifications, as a service manager has it.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// message is one notification with what it carried.
type message struct {
	text  string
	files []*os.File
}

// newManager listens at an address ("" for a path of its own) and puts it into
// NOTIFY_SOCKET.
func newManager(t *testing.T, address string) *manager {
	t.Helper()
	if address == "" {
		address = filepath.Join(t.TempDir(), "notify")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", address)
	return &manager{t: t, conn: conn}
}

// receive is the next message. Its files are closed at the test's end.
func (m *manager) receive() message {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	text, rights := make([]byte, 4096), make([]byte, unix.CmsgSpace(4*8))
	n, oob, flags, _, err := m.conn.ReadMsgUnix(text, rights)
	if err != nil {
		m.t.Fatalf("receive: %v", err)
	}
	if flags&(unix.MSG_CTRUNC|unix.MSG_TRUNC) != 0 {
		m.t.Fatalf("message too long: %q", text[:n])
	}
	got := message{text: string(text[:n])}
	controls, err := unix.ParseSocketControlMessage(rights[:oob])
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range controls {
		fds, err := unix.ParseUnixRights(&controls[i])
		if err != nil {
			m.t.Fatal(err)
		}
		for _, fd := range fds {
			file := os.NewFile(uintptr(fd), "received")
			m.t.Cleanup(func() { file.Close() })
			got.files = append(got.files, file)
		}
	}
	return got
}

// nothing fails if a message waits.
func (m *manager) nothing() {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		m.t.Fatal(err)
	}
	buffer := make([]byte, 4096)
	if n, err := m.conn.Read(buffer); err == nil {
		m.t.Errorf("received %q, want nothing", bytes.TrimSpace(buffer[:n]))
	}
}
