package loop

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Loop owns the epoll set and everything in it. It belongs to one goroutine,
// on a thread of its own.
type Loop struct {
	epoll   int
	conns   map[int32]handler
	start   time.Time
	events  []unix.EpollEvent
	scratch []byte // what is read, before it is looked at
	engine  *engine
}

// handler is one descriptor in the set.
type handler interface {
	// ready is called when the descriptor can be read or written. An error ends
	// the measurement.
	ready(events uint32) error
}

// Serve listens at n TCP ports and n unix sockets in dir, says where, and
// carries out the orders on in until it ends.
func Serve(dir string, n int, in io.Reader, out io.Writer) error {
	runtime.LockOSThread()
	debug.SetGCPercent(-1) // a pause here would be measured as the proxy's
	l := &Loop{conns: map[int32]handler{}, start: time.Now(), events: make([]unix.EpollEvent, 1024), scratch: make([]byte, 256<<10)}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	l.engine = &engine{loop: l}
	addresses, err := l.engine.listen(dir, n)
	if err != nil {
		return err
	}
	report := json.NewEncoder(out)
	if err := report.Encode(Report{Engines: addresses}); err != nil {
		return err
	}
	// The orders arrive on another thread, and the engine answers health checks
	// while there is none.
	orders := make(chan Order)
	failed := make(chan error, 1)
	go func() {
		defer close(orders)
		lines := bufio.NewScanner(in)
		for lines.Scan() {
			var o Order
			if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
				failed <- fmt.Errorf("read order: %w", err)
				return
			}
			orders <- o
		}
	}()
	for {
		select {
		case o, ok := <-orders:
			if !ok {
				select {
				case err := <-failed:
					return err
				default:
					return nil
				}
			}
			result, err := l.measure(o, func() { _ = report.Encode(Report{Begun: true}) })
			if err != nil {
				err = report.Encode(Report{Error: err.Error()})
			} else {
				err = report.Encode(Report{Result: &result})
			}
			if err != nil {
				return err
			}
			runtime.GC()
		default:
			if err := l.turn(l.now() + int64(5*time.Millisecond)); err != nil && !errors.Is(err, errPeer) {
				return err
			}
		}
	}
}

// now is the time since the loop was made, in nanoseconds.
func (l *Loop) now() int64 { return int64(time.Since(l.start)) }

// turn waits for what is ready until a moment at most, and handles all of it.
func (l *Loop) turn(until int64) error {
	if due, some := l.engine.due(); some {
		until = min(until, due)
	}
	timeout := unix.NsecToTimespec(max(0, until-l.now()))
	n, _, errno := unix.Syscall6(unix.SYS_EPOLL_PWAIT2, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])), //nolint:gosec // G103: the kernel wants an address
		uintptr(len(l.events)), uintptr(unsafe.Pointer(&timeout)), 0, 0) //nolint:gosec // G103: the kernel wants an address
	if errno != 0 && errno != unix.EINTR {
		return os.NewSyscallError("epoll_pwait2", errno)
	}
	if errno != 0 {
		n = 0
	}
	for _, e := range l.events[:n] {
		h := l.conns[e.Fd]
		if h == nil {
			continue // closed in this very turn
		}
		if err := h.ready(e.Events); err != nil {
			return err
		}
	}
	return l.engine.emit(l.now())
}

func (l *Loop) add(fd int, h handler, events uint32) error {
	l.conns[int32(fd)] = h
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (l *Loop) change(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(l.epoll, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (l *Loop) close(fd int) {
	delete(l.conns, int32(fd))
	_ = unix.Close(fd)
}

// read returns what can be read now: nothing when there is nothing, io.EOF at
// the end.
func (l *Loop) read(fd int) ([]byte, error) {
	n, err := unix.Read(fd, l.scratch)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil, nil
	case err != nil:
		return nil, os.NewSyscallError("read", err)
	case n == 0:
		return nil, io.EOF
	}
	return l.scratch[:n], nil
}

// write returns what the socket did not take.
func write(fd int, p []byte) ([]byte, error) {
	for len(p) > 0 {
		n, err := unix.SendmsgN(fd, p, nil, nil, unix.MSG_NOSIGNAL)
		if errors.Is(err, unix.EAGAIN) {
			return p, nil
		}
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("write", err)
		}
		p = p[n:]
	}
	return nil, nil
}

// address makes a socket address of HOST:PORT or a path.
func address(s string) (domain int, sa unix.Sockaddr, err error) {
	if strings.HasPrefix(s, "/") {
		return unix.AF_UNIX, &unix.SockaddrUnix{Name: s}, nil
	}
	var ip [4]byte
	var port int
	if _, err := fmt.Sscanf(s, "%d.%d.%d.%d:%d", &ip[0], &ip[1], &ip[2], &ip[3], &port); err != nil {
		return 0, nil, fmt.Errorf("address %q: %w", s, err)
	}
	return unix.AF_INET, &unix.SockaddrInet4{Addr: ip, Port: port}, nil
}
