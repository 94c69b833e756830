package door

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

func skipWithoutIPv6(t *testing.T) {
	t.Helper()
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 on this machine: ", err)
	}
	ln.Close()
}

func TestListenRefusals(t *testing.T) {
	dir := t.TempDir()
	taken := listen(t, "127.0.0.1:0").Addr().String()
	listen(t, "unix:"+dir+"/taken")
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	self := fmt.Sprintf("(pid %d) listens there", os.Getpid())
	for _, c := range []struct {
		address string
		is      error
		says    string
	}{
		{taken, syscall.EADDRINUSE, self},
		{"192.0.2.1:80", syscall.EADDRNOTAVAIL, "no interface"},
		{"8000", nil, `want "HOST:PORT"`},
		{"unix:", nil, "path is missing"},
		{"unix:@abstract", nil, "give a path"},
		{"unix:" + dir + "/" + strings.Repeat("x", 107), nil, "the kernel allows 107"},
		{"unix:" + dir + "/taken", nil, self},
		{"unix:" + dir + "/file", nil, "no socket"},
		{"unix:" + dir + "/missing/s", syscall.ENOENT, "create it"},
	} {
		ln, err := Listen(t.Context(), c.address, Options{})
		if err == nil {
			ln.Close()
			t.Errorf("%s: no error", c.address)
			continue
		}
		if !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "listen on ") {
			t.Errorf("%s: error %q does not say %q", c.address, err, c.says)
		}
		if c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: error %q is not %v", c.address, err, c.is)
		}
	}
	if _, err := os.Stat(dir + "/file"); err != nil {
		t.Error("the file in the way is gone")
	}
}

// TestListenExplainsPrivilege: tests often run as root, where nothing is refused.
func TestListenExplainsPrivilege(t *testing.T) {
	err := Explain(":80", &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", syscall.EACCES)})
	want := "listen on :80: permission denied: ports below 1024 need a privilege: "
	if !strings.HasPrefix(err.Error(), want) || !errors.Is(err, fs.ErrPermission) {
		t.Errorf("error %q", err)
	}
}

func TestListenReplacesTheSocketOfTheDead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	ln := listen(t, "unix:"+path)
	wait := serve(ln)
	if got := attempt(ln.Addr()); got != complete {
		t.Error(got)
	}
	ln.Close()
	wait()
}

func TestUnixModeHoldsAgainstAnyUmask(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		before := unix.Umask(umask)
		for _, mode := range []fs.FileMode{0, 0o600, 0o666} {
			want := cmp.Or(mode, DefaultMode)
			path := filepath.Join(t.TempDir(), "s")
			ln, err := Listen(t.Context(), "unix:"+path, Options{Mode: mode})
			if err != nil {
				t.Fatal(err)
			}
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("umask %o: mode %v, %v, want %v", umask, info.Mode(), err, want)
			}
			ln.Close()
		}
		unix.Umask(before)
	}
}

// TestSocketOptions: what accepted connections inherit, also of a socket that was
// handed in, and that the socket is plain TCP, since multipath TCP takes no filter.
func TestSocketOptions(t *testing.T) {
	var plain net.ListenConfig
	plain.SetMultipathTCP(false)
	handed, err := plain.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, ln := range []net.Listener{listen(t, "127.0.0.1:0"), handed} {
		checkOptions(t, New(hclog.NewNullLogger()).Add(ln))
	}
}

func checkOptions(t *testing.T, ln net.Listener) {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	raw, err := conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name               string
		level, opt, expect int
	}{
		{"protocol", unix.SOL_SOCKET, unix.SO_PROTOCOL, unix.IPPROTO_TCP},
		{"keep-alive", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{"idle", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveIdle},
		{"interval", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveInterval},
		{"count", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount},
		{"no delay", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
	} {
		err := control(raw, func(fd int) error {
			got, err := unix.GetsockoptInt(fd, o.level, o.opt)
			if got != o.expect {
				t.Errorf("%s is %d, want %d", o.name, got, o.expect)
			}
			return err
		})
		if err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
	}
}
