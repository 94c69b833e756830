package rawconn

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Watch tells of sockets whose peer has closed its side, also while bytes of it
// are still unread. Reading finds that too, but not who does not read.
//
// It is an epoll instance that asks for nothing but the end of input, once per
// socket, so that data costs it nothing. The instance itself is polled by the
// runtime.
type Watch struct {
	file *os.File
	raw  syscall.RawConn
	epfd int
	done chan struct{}

	mu    sync.Mutex
	next  uint64 // numbers are not used again, descriptors are
	ended map[uint64]Watched
}

// Watched is who is told.
type Watched interface {
	// InputEnded is called by one goroutine for all, and must not wait. gone: the
	// whole connection has ended, which may be told later, too.
	InputEnded(gone bool)
}

// NewWatch returns a watch that Close must end. An error says that the kernel has
// no room for one.
func NewWatch() (*Watch, error) {
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
	w := &Watch{file: file, raw: raw, epfd: epfd, done: make(chan struct{}), ended: make(map[uint64]Watched)}
	go w.run()
	return w, nil
}

// Add has who told when the peer of c closes its side, also if it has done so
// already, and returns the number by which Forget knows it. With an error, which
// the kernel makes for want of memory, nobody is told; Forget all the same.
func (w *Watch) Add(c *Conn, who Watched) (id uint64, err error) {
	w.mu.Lock()
	w.next++
	id = w.next
	w.ended[id] = who
	w.mu.Unlock()
	var errno error
	err = c.raw.Control(func(fd uintptr) {
		event := unix.EpollEvent{Events: unix.EPOLLRDHUP | unix.EPOLLET, Fd: int32(id), Pad: int32(id >> 32)}
		errno = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, int(fd), &event)
	})
	if err == nil {
		err = errno
	}
	return id, err
}

// Forget lets go of who was added; closing the socket takes its descriptor out.
func (w *Watch) Forget(id uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ended, id)
}

// run delivers until Close.
func (w *Watch) run() {
	defer close(w.done)
	events := make([]unix.EpollEvent, 64)
	// It ends with an error, that of the closed file.
	_ = w.raw.Read(func(uintptr) bool {
		for {
			n, err := unix.EpollWait(w.epfd, events, 0)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return true
			}
			if n == 0 {
				return false
			}
			for _, e := range events[:max(n, 0)] {
				w.deliver(uint64(uint32(e.Pad))<<32|uint64(uint32(e.Fd)), e.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0)
			}
		}
	})
}

func (w *Watch) deliver(id uint64, gone bool) {
	w.mu.Lock()
	who := w.ended[id]
	w.mu.Unlock()
	if who != nil {
		who.InputEnded(gone)
	}
}

// Close ends the watch; nobody is told of anything once it has returned.
func (w *Watch) Close() {
	_ = w.file.Close() // nothing is written to it
	<-w.done
}
