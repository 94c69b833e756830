package door

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stoker/internal/rawconn"
)

// DefaultMode of a unix socket: the owner and its group may connect.
const DefaultMode fs.FileMode = 0o660

// MaxUnixPath is the longest path of a unix socket in bytes; the kernel keeps
// one of its 108 for a final zero.
const MaxUnixPath = 107

// A client that vanished without a word is noticed within a minute: after 30 s
// of silence it is asked every 10 s, three times.
const (
	keepAliveIdle     = 30 // s
	keepAliveInterval = 10 // s
	keepAliveCount    = 3
)

// Options of Listen; the zero value is right for traffic.
type Options struct {
	// Mode of a unix socket, whatever the umask; 0 means DefaultMode.
	Mode fs.FileMode
}

// Listen opens a listener for "HOST:PORT", ":PORT" (every address, IPv4 and
// IPv6) or "unix:/PATH". A unix socket that a dead process left behind is
// replaced, but only when a connect has proved that nobody answers there.
//
// The listener is a plain *net.TCPListener or *net.UnixListener, so that it can
// be handed to another process. Its errors say what an operator can do.
func Listen(ctx context.Context, address string, o Options) (net.Listener, error) {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return listenUnix(ctx, path, o)
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, fmt.Errorf(`listen on %q: want "HOST:PORT", ":PORT" or "unix:/PATH"`, address)
	}
	// Keep-alive and no-delay are inherited by accepted sockets: set here once
	// they cost no system call per connection. Multipath TCP, Go's default, is
	// slower and refuses the socket filter that Close needs.
	config := net.ListenConfig{KeepAlive: -1, Control: prepare}
	config.SetMultipathTCP(false)
	ln, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, Explain(address, err)
	}
	return ln, nil
}

func prepare(_, address string, raw syscall.RawConn) error {
	if err := rawconn.OnLoopback(address, raw); err != nil {
		return err
	}
	return control(raw, inheritable)
}

// inheritable sets what accepted sockets inherit.
func inheritable(fd int) error {
	return errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, keepAliveIdle),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, keepAliveInterval),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT, keepAliveCount),
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
	)
}

func listenUnix(ctx context.Context, path string, o Options) (net.Listener, error) {
	switch {
	case path == "":
		return nil, errors.New(`listen on "unix:": the path is missing; want "unix:/PATH"`)
	case len(path) > MaxUnixPath:
		return nil, fmt.Errorf("listen on unix:%s: the path has %d bytes, the kernel allows %d; choose a shorter one", path, len(path), MaxUnixPath)
	case strings.HasPrefix(path, "@"):
		return nil, fmt.Errorf("listen on unix:%s: abstract sockets have no file mode to guard them; give a path", path)
	}
	mode := o.Mode
	if mode == 0 {
		mode = DefaultMode
	}
	ln, err := bindUnix(ctx, path, mode)
	if errors.Is(err, syscall.EADDRINUSE) {
		if err = removeStale(ctx, path); err != nil {
			return nil, fmt.Errorf("listen on unix:%s: %w", path, err)
		}
		ln, err = bindUnix(ctx, path, mode)
	}
	if err != nil {
		return nil, explainUnix(path, err)
	}
	return ln, nil
}

// bindUnix listens at path with exactly that mode. The mode is given to the
// socket before bind, because between bind and a chmod anybody whom the umask
// lets in could connect.
func bindUnix(ctx context.Context, path string, mode fs.FileMode) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error { return unix.Fchmod(fd, uint32(mode.Perm())) })
	}}
	ln, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	// What the umask took away.
	if err := os.Chmod(path, mode.Perm()); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// staleProbe bounds the connect that asks whether anybody answers.
const staleProbe = 2 * time.Second

// removeStale removes the socket at path when its owner is dead. Whatever but a
// refused connect may be somebody alive: it is left alone.
func removeStale(ctx context.Context, path string) error {
	before, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its owner has just removed it
	}
	if err != nil {
		return err
	}
	if before.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file at this path, and it is no socket; remove it or choose another path")
	}
	ctx, cancel := context.WithTimeout(ctx, staleProbe)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	if err == nil {
		_ = conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%s; stop it or choose another path", inUseBy(unixOwner(path)))
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
		return nil // somebody was quicker; the next bind will tell
	}
	return os.Remove(path)
}
