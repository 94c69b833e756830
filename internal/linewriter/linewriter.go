// Package linewriter puts an io.Writer between a log and its sink, so that no
// one who logs ever waits for whoever reads the log: a terminal that is held, a
// pipe whose reader hangs, a full disk. It knows nothing of log formats.
//
// Write appends to one of two buffers and returns; a goroutine swaps them and
// writes the other one out. When the sink is slower than the log for longer than
// a buffer lasts, whole lines are dropped until the buffers swap, and a line of
// its own says how many at the place where they are missing. A sink that fails
// (EPIPE, ENOSPC, EAGAIN …) keeps what it has not taken and is tried again, after
// 10 ms at first and every second in the end; memory stays bounded by two buffers.
//
// A process whose standard output or error may lose its reader must catch SIGPIPE
// (signal.Notify, whose effect engines don't inherit): without that Go's
// run-time ends the process on the first EPIPE there.
package linewriter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// DefaultSize of each of the two buffers in bytes: some thousand lines.
const DefaultSize = 1 << 20

const (
	firstRetry   = 10 * time.Millisecond
	longestRetry = time.Second
)

// Errors of Flush and Close.
var (
	// ErrTimeout: the sink did not take everything in time.
	ErrTimeout = errors.New("the log's sink is too slow")
	// ErrClosed: the writer was closed before.
	ErrClosed = errors.New("the log writer is closed")
)

// Options of New; the zero value is ready to use.
type Options struct {
	// Size of each of the two buffers in bytes; 0 means DefaultSize. A line that is
	// longer is dropped.
	Size int
	// Note appends to dst the line that stands for so many dropped ones, in the
	// log's own format, newline included; nil: a plain sentence.
	Note func(dst []byte, lines uint64) []byte
	// Gather is for how long lines gather after a write before the next, where they
	// come faster than that: with a write for each, and a thread woken for it, an access
	// log took 12 to 17 % of the throughput of small requests. 0: each is written as
	// soon as may be.
	Gather time.Duration
}

// Writer is safe for use by several goroutines. One Write should be one or more
// whole lines; a line written in parts must not be interleaved with another's.
type Writer struct {
	size   int
	note   func([]byte, uint64) []byte
	gather time.Duration

	mu       sync.Mutex
	fill     []byte // what Write appends to; its lines up to whole are complete
	whole    int    // length of fill up to its last newline
	lost     uint64 // lines dropped since the last swap
	midLost  bool   // the rest of a dropped line is still to come
	sink     io.Writer
	reopened bool          // sink is new: begin with a whole line
	busy     bool          // the goroutine has a batch that is not out yet
	asked    chan struct{} // closed when what is in fill is out; made by Flush
	flushing chan struct{} // asked, when what was in fill is the batch
	closed   bool

	dropped atomic.Uint64
	wake    chan struct{} // one token: there is something to do
	urgent  chan struct{} // one token: it must not wait for more
	hurry   chan struct{} // closed by Close when its time is over
	done    chan struct{} // closed by the goroutine
}

// New starts a writer to sink. Close ends it.
func New(sink io.Writer, o Options) *Writer {
	w := &Writer{
		size:   o.Size,
		note:   o.Note,
		sink:   sink,
		gather: o.Gather,
		wake:   make(chan struct{}, 1),
		urgent: make(chan struct{}, 1),
		hurry:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	if w.size <= 0 {
		w.size = DefaultSize
	}
	if w.note == nil {
		w.note = plainNote
	}
	go w.run()
	return w
}

func plainNote(dst []byte, lines uint64) []byte {
	return fmt.Appendf(dst, "%d log lines dropped here: the reader of the log was too slow or gone\n", lines)
}

// Write takes p and returns at once. It reports len(p) even when lines were
// dropped, since its caller could do nothing about that; after Close it returns
// ErrClosed.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, ErrClosed
	}
	w.take(p)
	// A line that is not complete yet alone need not wake anybody.
	if w.whole > 0 || w.lost > 0 {
		w.rouse()
	}
	return len(p), nil
}

// take appends p to the buffer or counts its lines as lost.
func (w *Writer) take(p []byte) {
	if w.midLost {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			return
		}
		w.midLost = false
		p = p[end+1:]
	}
	if len(p) == 0 {
		return
	}
	// Once a line is lost all are until the swap, so that the note stands exactly
	// where they are missing.
	if w.lost > 0 || len(w.fill)+len(p) > w.size {
		w.lose(p)
		return
	}
	if last := bytes.LastIndexByte(p, '\n'); last >= 0 {
		w.whole = len(w.fill) + last + 1
	}
	w.fill = append(w.fill, p...)
}

// lose drops p, together with the beginning of its first line.
func (w *Writer) lose(p []byte) {
	w.fill = w.fill[:w.whole]
	lines := uint64(bytes.Count(p, []byte{'\n'}))
	if p[len(p)-1] != '\n' {
		lines++
		w.midLost = true
	}
	w.lost += lines
	w.dropped.Add(lines)
}

func (w *Writer) rouse() {
	if w.busy {
		return // it looks again before it sleeps
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// urge ends the gathering of lines.
func (w *Writer) urge() {
	select {
	case w.urgent <- struct{}{}:
	default:
	}
}

// Dropped is the number of lines dropped so far.
func (w *Writer) Dropped() uint64 { return w.dropped.Load() }

// Reopen makes the writer go on with another sink, such as the new file after a
// rotation. A line of which the old sink has only a part is written whole to the
// new one. The old sink is the caller's again once a Flush has returned without
// an error.
func (w *Writer) Reopen(sink io.Writer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sink = sink
	w.reopened = true
}

// Flush waits until the sink has taken all lines that were written before, or for
// the time-out, after which it returns ErrTimeout.
func (w *Writer) Flush(timeout time.Duration) error {
	w.mu.Lock()
	if w.asked == nil {
		w.asked = make(chan struct{})
		w.rouse()
		w.urge()
	}
	asked := w.asked
	w.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-asked:
		return nil
	case <-timer.C:
		return ErrTimeout
	}
}

// Close writes out what there is, for so long at most, and ends the writer; the
// sink is left open. ErrTimeout says that something was lost: then a sink with
// deadlines is told to give up, and a goroutine that is blocked in any other
// sink ends when that sink lets it go.
func (w *Writer) Close(timeout time.Duration) error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return ErrClosed
	}
	w.closed = true
	if w.whole < len(w.fill) { // the last line may lack its end
		w.whole = len(w.fill)
	}
	w.rouse()
	w.urge()
	w.mu.Unlock()

	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-w.done:
		return nil
	case <-timer.C:
	}
	close(w.hurry)
	w.mu.Lock()
	sink := w.sink
	w.mu.Unlock()
	if d, ok := sink.(interface{ SetWriteDeadline(time.Time) error }); ok && d.SetWriteDeadline(time.Unix(1, 0)) == nil {
		<-w.done
		_ = d.SetWriteDeadline(time.Time{})
	}
	return ErrTimeout
}
