package systemd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// Handed is one listening socket that the manager handed in.
type Handed struct {
	// Name is the stored socket's name, or that of the socket unit (or what its
	// FileDescriptorName says).
	Name string
	// Stored: it comes from our own store, not from a socket unit.
	Stored bool
	// Listener is a *net.TCPListener or a *net.UnixListener.
	Listener net.Listener
}

// Rejected is a descriptor that cannot serve. It is closed; a stored one is
// still in the store.
type Rejected struct {
	Name   string
	Stored bool
	Reason error
}

// Take takes what the manager has handed to this process, and unsets the
// variables that say so: nobody whom we start shall believe that it has them.
// Call it once, before anything is executed: the descriptors are inherited until then.
func Take() (handed []Handed, rejected []Rejected) {
	for _, file := range activation.Files(true) {
		name := file.Name()
		stored := strings.HasPrefix(name, storedPrefix)
		listener, err := listenerOf(file)
		// net has made a duplicate of its own.
		_ = file.Close()
		if err != nil {
			rejected = append(rejected, Rejected{Name: name, Stored: stored, Reason: err})
			continue
		}
		handed = append(handed, Handed{Name: name, Stored: stored, Listener: listener})
	}
	// systemd 257 and later; nothing of ours reads them.
	_ = os.Unsetenv("LISTEN_PIDFDID")
	return handed, rejected
}

// listenerOf makes a listener of a descriptor that is one.
func listenerOf(file *os.File) (net.Listener, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	listening := 0
	var asked error
	err = raw.Control(func(fd uintptr) {
		listening, asked = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	})
	if err = errors.Join(err, asked); err != nil {
		return nil, fmt.Errorf("not a socket: %w", err)
	}
	if listening == 0 {
		// Also a socket that an earlier life has shut down for good.
		return nil, errors.New("the socket does not listen")
	}
	listener, err := net.FileListener(file)
	if err != nil {
		return nil, err
	}
	switch listener.(type) {
	case *net.TCPListener, *net.UnixListener:
		return listener, nil
	default:
		return nil, errors.Join(fmt.Errorf("a listener on %s is neither TCP nor unix stream", listener.Addr().Network()), listener.Close())
	}
}

// Fits says whether the socket is the one for a configured address, "HOST:PORT",
// ":PORT" or "unix:/PATH": stored for exactly it, or bound to the same.
func (h *Handed) Fits(ctx context.Context, address string) bool {
	if h.Stored && h.Name == StoredName(address) {
		return true
	}
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		bound, ok := h.Listener.Addr().(*net.UnixAddr)
		return ok && bound.Name == path
	}
	bound, ok := h.Listener.Addr().(*net.TCPAddr)
	if !ok {
		return false
	}
	return fitsTCP(ctx, bound, address)
}

func fitsTCP(ctx context.Context, bound *net.TCPAddr, address string) bool {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil || port != bound.Port {
		return false
	}
	if host == "" {
		return bound.IP.IsUnspecified()
	}
	found, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return false
	}
	for _, ip := range found {
		if ip.IP.Equal(bound.IP) && ip.Zone == bound.Zone {
			return true
		}
	}
	return false
}
