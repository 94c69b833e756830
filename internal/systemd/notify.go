// Package systemd speaks with the service manager that started us: what it is
// told of our state (sd_notify), which sockets it keeps for us while we are dead
// (the descriptor store), and which it hands to us when we start. It knows
// nothing of what stoker does with any of it.
//
// # Descriptors that are handed in
//
// They arrive as 3, 4, … in the number LISTEN_FDS, and are of two kinds that mean
// different things, told apart by their names in LISTEN_FDNAMES:
//
//	stored     "stoker-listen-" and an address: an earlier life of this service
//	           stored it (Store). It is ours alone: whoever closes the service for
//	           good must have it removed (Remove), else clients connect to a socket
//	           that nobody accepts from.
//	activated  any other name: a socket unit's. systemd goes on listening on it
//	           when we are gone, so we may stop accepting and nothing more.
//
// # Order
//
// systemd reads notifications when it comes to them. Where the next step needs
// that one was acted upon (a removed socket must be gone before the last holder
// closes it), Barrier waits until it was.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sendWithin bounds one notification. The manager's queue is full only when it
// hangs itself; whoever notifies has better things to do than to hang with it.
const sendWithin = 2 * time.Second

// Notifier sends to the service manager. Its zero value and nil have no manager
// and send nothing, so that nobody need ask. Its methods may be called by
// several goroutines at once.
type Notifier struct{ address string }

// FromEnv is the manager of $NOTIFY_SOCKET. The variable stays: the process
// that an upgrade starts has the same manager.
func FromEnv() *Notifier { return &Notifier{address: os.Getenv("NOTIFY_SOCKET")} }

// Enabled says whether there is a manager to notify.
func (n *Notifier) Enabled() bool { return n != nil && n.address != "" }

// Send sends the states in one message, which the manager takes as a whole.
func (n *Notifier) Send(states ...State) error {
	if !n.Enabled() || len(states) == 0 {
		return nil
	}
	return n.send(states, nil)
}

// Store asks the manager to keep a duplicate of the socket under the name until
// the service is stopped for good, and to hand it to every process that it
// starts for the service until then. It keeps no more of them than the unit's
// FileDescriptorStoreMax, without a word. A name that [StoredName] made is
// recognized by [Take].
func (n *Notifier) Store(name string, socket syscall.Conn) error {
	if !n.Enabled() {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("store socket %s: %w", name, err)
	}
	// The descriptor itself and no duplicate by File(), which would be one more
	// holder to think of.
	var sent error
	err = raw.Control(func(fd uintptr) {
		sent = n.send([]State{"FDSTORE=1", State("FDNAME=" + name)}, unix.UnixRights(int(fd)))
	})
	if err = errors.Join(err, sent); err != nil {
		return fmt.Errorf("store socket %s: %w", name, err)
	}
	return nil
}

// Remove asks the manager to close all that it keeps under the name. Follow it
// with Barrier where it matters when.
func (n *Notifier) Remove(name string) error {
	if !n.Enabled() {
		return nil
	}
	if err := n.send([]State{"FDSTOREREMOVE=1", State("FDNAME=" + name)}, nil); err != nil {
		return fmt.Errorf("remove stored socket %s: %w", name, err)
	}
	return nil
}

// Barrier returns when the manager has acted on everything that this process
// has sent before, or with ctx's error. A manager older than systemd 246 knows
// no barriers and drops it unseen, which looks the same.
func (n *Notifier) Barrier(ctx context.Context) error {
	if !n.Enabled() {
		return nil
	}
	mine, its, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	defer mine.Close() //nolint:errcheck // only read
	// The manager closes its end when it comes to the message; the read end tells.
	err = n.send([]State{"BARRIER=1"}, unix.UnixRights(int(its.Fd())))
	if err = errors.Join(err, its.Close()); err != nil {
		return fmt.Errorf("wait for the service manager: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = mine.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := mine.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for the service manager: %w", context.Cause(ctx))
	}
	return nil
}

// send writes one datagram. The socket is made anew each time: it costs nothing
// at this rate, and a manager that was executed again is met at once. It is not
// connected, since package net would then pass no descriptors.
func (n *Notifier) send(states []State, rights []byte) error {
	message := make([]string, len(states))
	for i, s := range states {
		message[i] = string(s)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer unix.Close(fd) //nolint:errcheck // the message has gone, or its error is known
	limit := unix.NsecToTimeval(int64(sendWithin))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	to := &unix.SockaddrUnix{Name: n.address} // "@" is the first byte of an abstract one there too
	for {
		err := unix.Sendmsg(fd, []byte(strings.Join(message, "\n")), rights, to, unix.MSG_NOSIGNAL)
		switch {
		case errors.Is(err, unix.EINTR): // with a time limit the kernel doesn't go on by itself
		case errors.Is(err, unix.EAGAIN):
			return fmt.Errorf("notify the service manager at %s: it has read nothing for %v: %w", n.address, sendWithin, os.ErrDeadlineExceeded)
		case err != nil:
			return fmt.Errorf("notify the service manager at %s: %w", n.address, err)
		default:
			return nil
		}
	}
}
