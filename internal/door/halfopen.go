package door

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// TCP states, as in the kernel's include/net/tcp_states.h.
const (
	synReceived = 3
	listenState = 10
)

// The layout of sock_diag's inet_diag_req_v2 behind the netlink header.
const (
	diagByFamily = 20 // SOCK_DIAG_BY_FAMILY
	requestSize  = unix.SizeofNlMsghdr + 56
)

// halfOpen counts the handshakes to a local port that the client's last ACK
// would complete. A client far away is in this state for a whole round trip;
// closing on it would reset what it takes for an open connection. 0 when the
// kernel doesn't tell.
func halfOpen(port int) int {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return 0
	}
	defer func() { _ = unix.Close(fd) }()
	// The answer is ready when sendto returns; the time-out only guards against a
	// kernel that never ends its answer.
	limit := unix.NsecToTimeval(int64(100 * time.Millisecond))
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) != nil {
		return 0
	}
	// A dual-stack listener has handshakes of both families.
	return countHalfOpen(fd, unix.AF_INET, port) + countHalfOpen(fd, unix.AF_INET6, port)
}

func countHalfOpen(fd int, family byte, port int) int {
	if unix.Sendto(fd, halfOpenRequest(family, port), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) != nil {
		return 0
	}
	count := 0
	answer := make([]byte, 32<<10)
	for {
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err != nil {
			return count
		}
		more, found := countMessages(answer[:n])
		count += found
		if !more {
			return count
		}
	}
}

// halfOpenRequest asks for the TCP sockets of a family in SYN_RECV at a port.
func halfOpenRequest(family byte, port int) []byte {
	request := make([]byte, requestSize)
	binary.NativeEndian.PutUint32(request[0:], requestSize)
	binary.NativeEndian.PutUint16(request[4:], diagByFamily)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	body := request[unix.SizeofNlMsghdr:]
	body[0] = family
	body[1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(body[4:], 1<<synReceived)
	binary.BigEndian.PutUint16(body[8:], uint16(port))
	return request
}

// countMessages counts the sockets in one datagram of the answer, and tells
// whether another datagram follows.
func countMessages(data []byte) (more bool, sockets int) {
	for len(data) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(data))
		if size < unix.SizeofNlMsghdr || size > len(data) {
			return false, sockets
		}
		if binary.NativeEndian.Uint16(data[4:]) != diagByFamily {
			return false, sockets // NLMSG_DONE, NLMSG_ERROR
		}
		sockets++
		data = data[min((size+3)&^3, len(data)):]
	}
	return true, sockets
}
