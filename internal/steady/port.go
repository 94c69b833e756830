package steady

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// Reserve returns an address of host, an IP address, with a port that the kernel
// gives to nobody who asks for any, until the test has ended: who listens there has
// asked for it by name. A port that was listened on and is no more would else soon
// be another process's, and its clients, who are to be refused, be answered.
// For "::" it is a port of IPv4, too.
func Reserve(tb testing.TB, host string) (address string) {
	tb.Helper()
	ip := netip.MustParseAddr(host)
	family, name := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: ip.As16()})
	if ip.Is4() {
		family, name = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		tb.Fatal(os.NewSyscallError("socket", err))
	}
	tb.Cleanup(func() { _ = unix.Close(fd) })
	if ip == netip.IPv6Unspecified() {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
			tb.Fatal(os.NewSyscallError("setsockopt", err))
		}
	}
	// As who listens has it: else it could not have the port as well.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		tb.Fatal(os.NewSyscallError("setsockopt", err))
	}
	if err := unix.Bind(fd, name); err != nil {
		tb.Fatal(os.NewSyscallError("bind", err))
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		tb.Fatal(os.NewSyscallError("getsockname", err))
	}
	port := 0
	switch v := bound.(type) {
	case *unix.SockaddrInet4:
		port = v.Port
	case *unix.SockaddrInet6:
		port = v.Port
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, uint16(port))).String()
}
