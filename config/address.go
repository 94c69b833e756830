package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
)

// purpose is what an address is for; it decides what may be left out of it.
type purpose int

const (
	// listening: no host means all interfaces, port 0 any free port.
	listening purpose = iota
	// dialing: host and port are needed.
	dialing
)

// checkAddress says what is wrong with "HOST:PORT" or "unix:/PATH", and what
// would be right.
func checkAddress(address string, use purpose) error {
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return checkSocketPath(path)
	}
	if strings.HasPrefix(address, "/") {
		return fmt.Errorf("%q has no scheme: did you mean %q?", address, "unix:"+address)
	}
	if _, rest, isURL := strings.Cut(address, "://"); isURL {
		rest, _, _ = strings.Cut(rest, "/")
		return fmt.Errorf("%q is a URL: write HOST:PORT alone, such as %q", address, rest)
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return malformed(address)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("%q has no port between 0 and 65535 behind its last colon", address)
	}
	if use == dialing && (host == "" || n == 0) {
		return fmt.Errorf("%q needs a host and a port, such as \"10.0.0.7:8000\"", address)
	}
	if host == "*" {
		return fmt.Errorf("%q: for all interfaces write %q", address, ":"+port)
	}
	return checkHost(address, host)
}

func checkSocketPath(path string) error {
	switch {
	case !filepath.IsAbs(path):
		return fmt.Errorf("%q must be an absolute path behind \"unix:\", such as \"unix:/run/stoker/http.sock\"", path)
	case filepath.Clean(path) != path:
		return fmt.Errorf("%q can be said shorter: write %q", "unix:"+path, "unix:"+filepath.Clean(path))
	case len(path) > MaxSocketPath:
		return fmt.Errorf("the socket's path has %d bytes and the kernel takes %d: make it %d shorter", len(path), MaxSocketPath, len(path)-MaxSocketPath)
	}
	return nil
}

// malformed guesses at what an address without HOST:PORT was meant to be.
func malformed(address string) error {
	if _, err := strconv.ParseUint(address, 10, 16); err == nil {
		return fmt.Errorf("%q is a port alone: write %q for this host, or %q for all interfaces", address, "127.0.0.1:"+address, ":"+address)
	}
	if i := strings.LastIndexByte(address, ':'); i > 0 && strings.Count(address, ":") > 1 {
		if ip, err := netip.ParseAddr(strings.Trim(address[:i], "[]")); err == nil && ip.Is6() {
			return fmt.Errorf("%q: an IPv6 address stands in brackets: write %q", address, net.JoinHostPort(ip.String(), address[i+1:]))
		}
	}
	if addr, err := netip.ParseAddr(address); err == nil {
		return fmt.Errorf("%q has no port: write HOST:PORT, such as %q", address, net.JoinHostPort(addr.String(), "8000"))
	}
	if strings.Count(address, ":") > 1 {
		return fmt.Errorf("%q: an IPv6 address stands in brackets, such as \"[::1]:8000\"", address)
	}
	return fmt.Errorf("%q is no address: write HOST:PORT or unix:/PATH, such as \"127.0.0.1:8000\"", address)
}

func checkHost(address, host string) error {
	if host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if err := checkHostName(host); err != nil {
		return fmt.Errorf("%q: %w", address, err)
	}
	return nil
}

// checkHostName wants labels of letters, digits and inner hyphens; underscores
// pass too, as container networks use them.
func checkHostName(host string) error {
	if isDotted(host) {
		return fmt.Errorf("%q is not an IPv4 address", host)
	}
	if len(host) > 253 {
		return errors.New("the host's name has more than 253 characters")
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(host, "."), ".") {
		bad := strings.IndexFunc(label, func(r rune) bool { return !isBareRune(r) }) >= 0
		if label == "" || len(label) > 63 || bad || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is neither an address nor a host's name (letters, digits, hyphens and dots)", shorten(host))
		}
	}
	return nil
}

// isDotted reports whether a host has digits and dots alone, as no name has.
func isDotted(host string) bool {
	return strings.Contains(host, ".") && strings.Trim(host, "0123456789.") == ""
}

// collide reports whether two listeners cannot both be bound: they are the
// same, or of one port and one of them on all interfaces. Port 0 never is.
func collide(a, b string) bool {
	if strings.HasPrefix(a, "unix:") || strings.HasPrefix(b, "unix:") {
		return a == b
	}
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	nA, _ := strconv.Atoi(portA)
	nB, _ := strconv.Atoi(portB)
	if errA != nil || errB != nil || nA != nB || nA == 0 {
		return false
	}
	ipA, ipB := listenIP(hostA), listenIP(hostB)
	if !ipA.IsValid() || !ipB.IsValid() {
		return strings.EqualFold(hostA, hostB) || isAnyInterface(ipA) || isAnyInterface(ipB)
	}
	return ipA == ipB || isAnyInterface(ipA) || isAnyInterface(ipB) ||
		(ipA.Is4() && ipB.Is4() && (ipA.IsUnspecified() || ipB.IsUnspecified()))
}

// listenIP is a listener's host as an address; no host is all interfaces.
func listenIP(host string) netip.Addr {
	if host == "" {
		return netip.IPv6Unspecified()
	}
	ip, _ := netip.ParseAddr(host)
	return ip.Unmap()
}

// isAnyInterface reports whether the address takes its port for IPv4 and IPv6.
func isAnyInterface(ip netip.Addr) bool { return ip == netip.IPv6Unspecified() }
