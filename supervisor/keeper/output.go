package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// tailSize is how much of the engine's last output is kept, raw.
	tailSize = 64 << 10
	// maxQueue bounds the lines that wait for a slow reader, in bytes.
	maxQueue = 256 << 10
	// partialAfter is how long the beginning of a line waits for its end.
	partialAfter = 200 * time.Millisecond
)

// output takes what the engine writes and passes it on, line by line, to the
// keeper's own stderr. It reads always: an engine whose pipe nobody reads
// freezes at 64 KiB, and one whose pipe has lost its reader dies of SIGPIPE.
// What stderr does not take in time is dropped by whole lines and counted.
type output struct {
	name string
	fd   int // the keeper's stderr, shared with others: never made non-blocking
	// also are descriptors that lead to the same, and are replaced with it: a
	// terminal or pipe shall not be held open that nothing is written to any more.
	also []int

	mu      sync.Mutex
	tail    ring
	queue   []byte // whole lines
	dropped int    // lines since the queue was last empty; while there are any, none is queued
	closed  bool
	// holding: the engine's lines wait in held, for letGo, which release calls.
	holding bool
	held    []byte
	release *time.Timer
	next    *passed       // replaces fd before the next line; nil: nothing is to
	wake    chan struct{} // 1-slot

	midline bool // the writer's own: the last write failed inside a line

	readers sync.WaitGroup
	written chan struct{} // closed when the writer has ended
}

func newOutput(name string, fd int, also ...int) *output {
	o := &output{name: name, fd: fd, also: also, wake: make(chan struct{}, 1), written: make(chan struct{})}
	go o.write()
	return o
}

// read passes r on until its end, then closes it. read returns at once; wait waits.
func (o *output) read(r *os.File) {
	o.readers.Go(func() {
		defer r.Close() //nolint:errcheck // only read
		l := newLines(o.name, o.take)
		defer l.flush()
		buf := make([]byte, 16<<10)
		for {
			var deadline time.Time
			if l.pending() > 0 {
				deadline = time.Now().Add(partialAfter)
			}
			if err := r.SetReadDeadline(deadline); err != nil {
				return
			}
			n, err := r.Read(buf)
			o.keep(buf[:n])
			l.write(buf[:n])
			if errors.Is(err, os.ErrDeadlineExceeded) {
				l.flush()
				continue
			}
			if err != nil {
				return
			}
		}
	})
}

// wait waits until all that was read is in the tail and the queue, but not for
// ever: a process outside the tree may have been handed the pipe.
func (o *output) wait(limit time.Duration) {
	done := make(chan struct{})
	go func() {
		o.readers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
	}
}

// close lets the writer write what it has, for at most the given time.
func (o *output) close(limit time.Duration) {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.poke()
	select {
	case <-o.written:
	case <-time.After(limit):
	}
}

// say adds a line of the keeper's own.
func (o *output) say(format string, args ...any) {
	o.put(fmt.Appendf(nil, "[%s] stoker keeper: %s\n", o.name, oneLine(fmt.Sprintf(format, args...))))
}

// oneLine is for joined errors, which come with newlines between them.
func oneLine(s string) string { return strings.ReplaceAll(s, "\n", "; ") }

// last is the engine's last output, oldest byte first.
func (o *output) last() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.tail.bytes()
}

func (o *output) keep(p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tail.write(p)
}

// hold keeps the engine's lines back from now on, for so long; 0: no longer. See
// Intent.HoldOutput.
func (o *output) hold(limit time.Duration) {
	if limit <= 0 {
		o.letGo()
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holding = true
	if o.release != nil {
		o.release.Stop()
	}
	o.release = time.AfterFunc(limit, o.letGo)
}

// letGo passes on what was held back.
func (o *output) letGo() {
	o.mu.Lock()
	held := o.held
	o.holding, o.held = false, nil
	if len(held) > 0 {
		o.queueUp(held)
	}
	o.mu.Unlock()
	o.poke()
}

// keepBack lets no time pass on what is held back.
func (o *output) keepBack() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.release != nil {
		o.release.Stop()
	}
}

// take is one line of the engine's.
func (o *output) take(line []byte) {
	o.mu.Lock()
	if o.holding && len(o.held)+len(line) <= maxQueue {
		o.held = append(o.held, line...)
		o.mu.Unlock()
		return
	}
	holding := o.holding
	o.mu.Unlock()
	if holding {
		o.letGo() // one that says so much repeats nothing
	}
	o.put(line)
}

// put queues one whole line, or counts it.
func (o *output) put(line []byte) {
	o.mu.Lock()
	o.queueUp(line)
	o.mu.Unlock()
	o.poke()
}

// queueUp takes whole lines, or counts them. The lock is held.
func (o *output) queueUp(lines []byte) {
	if o.dropped > 0 || len(o.queue)+len(lines) > maxQueue {
		o.dropped += bytes.Count(lines, []byte{'\n'})
		return
	}
	o.queue = append(o.queue, lines...)
}

// redirect makes to, which is the output's from now on, the keeper's stderr:
// every line that is put later goes there, and so do those that still wait.
func (o *output) redirect(to *passed) {
	o.mu.Lock()
	o.next.close() // that one has come too late
	o.next = to
	o.mu.Unlock()
	o.poke()
}

// turn replaces stderr if that was asked for, and reports whether it was. The
// writer alone calls it.
func (o *output) turn() bool {
	o.mu.Lock()
	next := o.next
	o.next = nil
	o.mu.Unlock()
	if next == nil {
		return false
	}
	defer next.close()
	for _, fd := range append([]int{o.fd}, o.also...) {
		_ = unix.Dup3(next.fd, fd, 0) // both are open, so it cannot fail
	}
	o.midline = false
	return true
}

func (o *output) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// write is the writer: it alone touches stderr.
func (o *output) write() {
	defer close(o.written)
	var batch []byte
	for range o.wake {
		for {
			lost := 0
			o.mu.Lock()
			batch, o.queue = o.queue, batch[:0]
			if len(batch) == 0 && o.dropped > 0 {
				lost, o.dropped = o.dropped, 0
				batch = fmt.Appendf(batch, "[%s] stoker keeper: dropped %d lines of output, because they were not read in time or could not be written\n", o.name, lost)
			}
			closed := o.closed
			o.mu.Unlock()
			if len(batch) == 0 {
				if closed {
					return
				}
				o.turn() // what was there may be waited for to be closed
				break
			}
			n, err := o.writeAll(batch)
			if err == nil {
				continue
			}
			if lost == 0 {
				lost = bytes.Count(batch[n:], []byte{'\n'})
			}
			o.mu.Lock()
			o.dropped += lost
			closed = o.closed
			o.mu.Unlock()
			if closed {
				return
			}
			break // the next line, not a busy loop, tries again
		}
	}
}

// writeAll writes whole lines of at most PIPE_BUF bytes together, which a pipe
// takes without mixing them with other keepers' lines, and asks first whether
// there is room, so that a reader who stands still costs no thread for ever.
// Stderr is replaced between two lines, and within one only if the old one
// takes no more: then the new one gets that line whole.
func (o *output) writeAll(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		if startOfLine(p, done) == done {
			o.turn()
		}
		err := o.room()
		if errors.Is(err, errTurned) {
			done = startOfLine(p, done)
			continue
		}
		if err == nil {
			var n int
			n, err = o.writePiece(p[done:])
			done += n
		}
		if err != nil {
			o.midline = o.midline || startOfLine(p, done) < done
			return done, err
		}
	}
	return done, nil
}

// writePiece writes as many whole lines of p as a pipe takes together, or a
// part of a line that is longer; fewer bytes, or none, are no error.
func (o *output) writePiece(p []byte) (int, error) {
	const pipeBuf = 4096
	if o.midline {
		p = []byte{'\n'}
	}
	if len(p) > pipeBuf {
		p = p[:pipeBuf]
		if i := bytes.LastIndexByte(p, '\n'); i >= 0 {
			p = p[:i+1]
		}
	}
	n, err := unix.Write(o.fd, p)
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
		return 0, nil
	}
	if o.midline && err == nil {
		o.midline, n = false, 0
	}
	return max(n, 0), err
}

// startOfLine is where the line that byte at belongs to begins.
func startOfLine(p []byte, at int) int { return bytes.LastIndexByte(p[:at], '\n') + 1 }

// errTurned: stderr has been replaced.
var errTurned = errors.New("stderr was replaced")

// room waits until stderr takes more; it gives up when the keeper ends.
func (o *output) room() error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(o.fd), Events: unix.POLLOUT}}, 100)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if o.turn() {
			return errTurned
		}
		o.mu.Lock()
		closed := o.closed
		o.mu.Unlock()
		if closed {
			return os.ErrDeadlineExceeded
		}
	}
}

// ring keeps the last tailSize bytes of what is written to it.
type ring struct {
	buf  []byte
	next int // where the next byte goes once buf is full
}

func (r *ring) write(p []byte) {
	if len(p) >= tailSize {
		r.buf, r.next = append(r.buf[:0], p[len(p)-tailSize:]...), 0
		return
	}
	grow := min(len(p), tailSize-len(r.buf))
	r.buf = append(r.buf, p[:grow]...)
	for p = p[grow:]; len(p) > 0; {
		n := copy(r.buf[r.next:], p)
		r.next = (r.next + n) % tailSize
		p = p[n:]
	}
}

func (r *ring) bytes() []byte {
	b := make([]byte, 0, len(r.buf))
	b = append(b, r.buf[r.next:]...)
	return append(b, r.buf[:r.next]...)
}
