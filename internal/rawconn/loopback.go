package rawconn

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// OnLoopback prepares a TCP socket that listens on address, or will be connected
// to it, "HOST:PORT", if that is this host's own loopback: its congestion control
// is Reno then. Nothing is ever congested there, and BBR, which is many hosts' default,
// asks the clock for each packet and paces them by timers. What that saves was
// measured on a busy machine alone, at a twentieth of a small request; on a quiet one
// it did not show. Elsewhere the host's choice is right. Accepted sockets inherit it.
func OnLoopback(address string, raw syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil || !at.Addr().Unmap().IsLoopback() {
		return nil //nolint:nilerr // whatever it is, it is no loopback address
	}
	return raw.Control(func(fd uintptr) {
		// A kernel without it goes on with what it has.
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	})
}
