package front

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hangups tells of clients that close their side, also while bytes of theirs
// are still unread. Reading finds a hang-up too, but nothing is read while a
// request is served but its body: a client that leaves while its prompt waits in
// a queue, or during a silent prefill, would go unseen. What else it may mean that
// a client closes its side: see halfclosed.go.
//
// It is an epoll instance that asks for nothing but the end of input, once per
// connection, so that data costs it nothing. The instance itself is polled by
// the runtime.
type hangups struct {
	file *os.File
	raw  syscall.RawConn
	epfd int

	mu    sync.Mutex
	next  uint64 // numbers are not used again, descriptors are
	conns map[uint64]*conn
	ids   map[*conn]uint64
}

func newHangups() (*hangups, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch for hang-ups: %w", os.NewSyscallError("epoll_create1", err))
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // for os.NewFile: poll it
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("watch for hang-ups: %w", err)
	}
	file := os.NewFile(uintptr(epfd), "hangups")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("watch for hang-ups: %w", err)
	}
	return &hangups{file: file, raw: raw, epfd: epfd, conns: make(map[uint64]*conn), ids: make(map[*conn]uint64)}, nil
}

// watch lets c.clientLeft be called when its client closes its side, also if
// it has done so already.
func (h *hangups) watch(c *conn) error {
	h.mu.Lock()
	h.next++
	id := h.next
	h.conns[id], h.ids[c] = c, id
	h.mu.Unlock()
	var errno error
	err := c.control(func(fd int) {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(id), Pad: int32(id >> 32)}
		errno = unix.EpollCtl(h.epfd, unix.EPOLL_CTL_ADD, fd, &event)
	})
	if err == nil {
		err = errno
	}
	return err
}

// forget drops c; closing it has taken its descriptor out.
func (h *hangups) forget(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id, watched := h.ids[c]; watched {
		delete(h.conns, id)
		delete(h.ids, c)
	}
}

// run delivers hang-ups until close.
func (h *hangups) run() {
	events := make([]unix.EpollEvent, 64)
	// It ends with an error, that of the closed file.
	_ = h.raw.Read(func(uintptr) bool {
		for {
			n, err := unix.EpollWait(h.epfd, events, 0)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return true
			}
			if n == 0 {
				return false
			}
			for _, e := range events[:max(n, 0)] {
				h.deliver(uint64(uint32(e.Pad))<<32|uint64(uint32(e.Fd)), e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0)
			}
		}
	})
}

func (h *hangups) deliver(id uint64, gone bool) {
	h.mu.Lock()
	c := h.conns[id]
	h.mu.Unlock()
	if c != nil {
		c.clientLeft(gone)
	}
}

const (
	// watchAfter is how long the first request of a connection may take until that
	// is watched. Most that bring one of their own are answered before, and are
	// spared a system call; who waits for so long does not see the difference.
	watchAfter = 5 * time.Millisecond
	// watchAtOnce is how many are looked at under the front's lock at a time.
	watchAtOnce = 256
)

// latecomers are connections that are not watched yet and have a request.
type latecomers struct {
	conns []*conn
	timer *time.Timer
	armed bool
}

// watchLate has c watched, at its first request only if that takes long. f.mu is held.
func (f *Front) watchLate(c *conn) {
	switch {
	case c.watched || c.late:
		return
	case c.used:
		f.watch(c)
		return
	}
	c.used, c.late = true, true
	f.late.conns = append(f.late.conns, c)
	f.late.arm(watchAfter, f.watchSlow)
}

// watch has hungUp told. f.mu is held.
func (f *Front) watch(c *conn) {
	// Without it, for want of memory in the kernel, a hang-up is seen only when
	// something is written: better late than never.
	c.watched = f.hangups.watch(c) == nil
}

func (l *latecomers) arm(after time.Duration, look func()) {
	switch {
	case l.armed:
	case l.timer == nil:
		l.timer = time.AfterFunc(after, look)
	default:
		l.timer.Reset(after)
	}
	l.armed = true
}

// watchSlow watches those whose request has taken long, and forgets those whose
// request is over.
func (f *Front) watchSlow() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late.armed = false
	now := time.Now()
	some := f.late.conns[:min(len(f.late.conns), watchAtOnce)]
	rest := f.late.conns[len(some):]
	var young []*conn
	for _, c := range some {
		switch {
		case c.now == nil:
			c.late = false // also if it is gone: it must not be watched then
		case now.Sub(c.now.Record.Start) < watchAfter:
			young = append(young, c)
		default:
			c.late = false
			f.watch(c)
		}
	}
	switch left := append(young, rest...); {
	case len(left) == 0:
		clear(f.late.conns)
		f.late.conns = f.late.conns[:0]
		return
	case len(rest) > 0:
		f.late.conns = left
		f.late.arm(time.Millisecond, f.watchSlow)
	default:
		f.late.conns = left
		f.late.arm(watchAfter, f.watchSlow)
	}
}

func (h *hangups) close() { _ = h.file.Close() } // nothing is written to it
