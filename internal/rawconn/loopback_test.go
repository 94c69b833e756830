package rawconn

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// congestion is a socket's congestion control.
func congestion(t *testing.T, c syscall.Conn) string {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var name string
	if cerr := raw.Control(func(fd uintptr) {
		name, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	}); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return strings.TrimRight(name, "\x00")
}

func TestOnLoopbackNothingIsPaced(t *testing.T) {
	control := func(_, address string, raw syscall.RawConn) error { return OnLoopback(address, raw) }
	for listen, want := range map[string]bool{"127.0.0.1:0": true, ":0": false} {
		l, err := (&net.ListenConfig{Control: control}).Listen(t.Context(), "tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		host, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		usual := congestion(t, host.(*net.TCPListener))
		_, port, _ := net.SplitHostPort(l.Addr().String())
		c, err := (&net.Dialer{Control: control}).DialContext(t.Context(), "tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if got := congestion(t, c.(*net.TCPConn)); got != "reno" {
			t.Errorf("connected: %s", got)
		}
		if got := congestion(t, accepted.(*net.TCPConn)); want && got != "reno" || !want && got != usual {
			t.Errorf("accepted at %s: %s, the host's own is %s", listen, got, usual)
		}
	}
}
