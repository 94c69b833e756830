package rawconn

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// gather is for how long descriptors are kept that are of no more use.
	gather = 25 * time.Millisecond
	// mostOver is how many, and shareOver what share of all that the process may
	// have, at most: where they are short, connections are worth more.
	mostOver  = 512
	shareOver = 64
)

// Closer closes connections without a word to the scheduler, which a close of the
// runtime's own always is (see Acceptor). It may do that only with a descriptor
// that nobody else can take for another's meanwhile. So the two halves of a close
// are done apart:
//
//	Close   another socket, one that is over, takes the connection's place under its
//	        number (dup3). The kernel closes the connection then and there, with all
//	        that a close means for its peer: what it has not read, a reset, a linger,
//	        and takes it out of every poller
//	later   the numbers are given back, many at a time, by one goroutine
//
// Of a connection that nobody has ever waited for (see socket) the number is not the
// runtime's, and a plain call closes it.
//
// What of a Conn is still used after that finds a connection that is over: reads
// are at the end, writes fail.
type Closer struct {
	over int // the socket that is over
	most int
	wake chan struct{} // that there is one; room for one
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	ended  bool
	closed []*Conn // whose numbers are still taken
	spare  []*Conn
}

// NewCloser returns a Closer that End must end. It needs a descriptor.
func NewCloser() (*Closer, error) { return newCloser(gather) }

func newCloser(gather time.Duration) (*Closer, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("close in batches: %w", os.NewSyscallError("socketpair", err))
	}
	_ = unix.Close(pair[1])
	k := &Closer{over: pair[0], most: mostOver, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{})}
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil {
		k.most = int(min(uint64(k.most), limit.Cur/shareOver))
	}
	go k.run(gather)
	return k, nil
}

// Close closes c, which nobody reads from or writes to any more. To close it once
// more does nothing.
func (k *Closer) Close(c *Conn) {
	if s, ok := c.conn.(*socket); ok && s.closeFresh() {
		return
	}
	if !k.admit(c) {
		_ = c.Close() // nothing more can be done about it
		return
	}
	var errno syscall.Errno
	err := c.raw.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(unix.SYS_DUP3, uintptr(k.over), fd, unix.O_CLOEXEC)
	})
	if err == nil && errno != 0 { // this kernel's own affair; soon it is closed all the same
		c.Abort()
	}
}

// admit puts c on the list, unless that is full or over.
func (k *Closer) admit(c *Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended || len(k.closed) >= k.most {
		return false
	}
	k.closed = append(k.closed, c)
	if len(k.closed) == 1 {
		select {
		case k.wake <- struct{}{}:
		default:
		}
	}
	return true
}

func (k *Closer) run(gather time.Duration) {
	defer close(k.done)
	timer := time.NewTimer(gather)
	defer timer.Stop()
	for {
		select {
		case <-k.wake:
		case <-k.stop:
			return
		}
		timer.Reset(gather)
		select {
		case <-timer.C:
		case <-k.stop:
			return
		}
		k.giveBack()
	}
}

// giveBack closes what was gathered.
func (k *Closer) giveBack() {
	k.mu.Lock()
	closed := k.closed
	k.closed, k.spare = k.spare[:0], nil
	k.mu.Unlock()
	for _, c := range closed {
		_ = c.Close() // or somebody else has
	}
	clear(closed)
	k.mu.Lock()
	k.spare = closed[:0]
	k.mu.Unlock()
}

// End closes what is left. Connections that are closed later are closed at once.
func (k *Closer) End() {
	k.mu.Lock()
	ended := k.ended
	k.ended = true
	k.mu.Unlock()
	if ended {
		return
	}
	close(k.stop)
	<-k.done
	k.giveBack()
	_ = unix.Close(k.over)
}
