package upstream

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// upload writes a large body, or one of unknown length, while the answer is
// being read by others: an upstream may refuse early, or answer as it reads.
// One goroutine, from startUpload to stop.
type upload struct {
	x    *exchange.Exchange
	conn wire

	// stopping: the exchange is over, the rest of the body is of no use.
	stopping atomic.Bool
	done     chan struct{}
	// ending: the last piece is being written, or was.
	ending atomic.Bool
	// tail is how much of a chunked body comes behind its last byte; to be read after done.
	tail int

	// aborted: the connection was cut because the body broke.
	aborted atomic.Bool

	// What went wrong; to be read after done. OpClientBody or OpWrite.
	op  Op
	err error

	mu       sync.Mutex
	timeout  time.Duration // for the head, from the end of the upload; 0: none
	answered bool          // the head has come: no clock must be started any more
}

func startUpload(x *exchange.Exchange, conn wire, timeout time.Duration) *upload {
	u := &upload{x: x, conn: conn, done: make(chan struct{}), timeout: timeout}
	go u.run()
	return u
}

// stop ends the upload and waits until body is not used any more.
func (u *upload) stop(body io.Reader) {
	u.stopping.Store(true)
	if i, ok := body.(Interrupter); ok && !u.over() {
		i.Interrupt()
	}
	<-u.done
}

func (u *upload) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// lastPiece is how long the write of the last piece may take once the whole
// answer is there, for the connection to be used again. Nearly always the
// upstream has read it, and only run has not had its turn since.
const lastPiece = 50 * time.Millisecond

// finished says whether the whole body was written.
func (u *upload) finished() bool {
	if !u.over() && u.ending.Load() {
		select {
		case <-u.done:
		case <-time.After(lastPiece):
		}
	}
	return u.over() && u.err == nil
}

func (u *upload) run() {
	defer close(u.done)
	buf := largeBuffers.Get().(*[largeBuffer]byte)
	defer largeBuffers.Put(buf)
	if u.x.Length < 0 {
		u.op, u.err = u.sendChunks(buf[:])
	} else {
		u.op, u.err = u.sendSized(buf[:])
	}
	switch {
	case u.err == nil:
		u.expectHead()
	case u.op == OpClientBody:
		u.aborted.Store(true)
		u.conn.Abort() // half a request must not look whole, nor wait for its rest
	}
}

func (u *upload) sendSized(buf []byte) (Op, error) {
	for left := u.x.Length; left > 0; {
		if left >= spliceFrom+int64(len(buf)) {
			moved, op, err := u.move(left - int64(len(buf)))
			if left -= moved; err != nil {
				return op, err
			}
		}
		n, err := u.x.Body.Read(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		u.ending.Store(left == 0)
		if err := u.write(buf[:n]); err != nil {
			return OpWrite, err
		}
		if err != nil && left > 0 {
			return u.unread(err)
		}
	}
	return "", nil
}

// move sends up to n bytes of the body without looking at them, if that can be.
// The last piece is never among them: see ending.
func (u *upload) move(n int64) (int64, Op, error) {
	from, able := u.x.Body.(exchange.Mover)
	to := spliceable(u.conn)
	if !able || to == nil || u.stopping.Load() {
		return 0, "", nil
	}
	moved, err := from.Move(to, n)
	if source, ok := errors.AsType[*rawconn.SourceError](err); ok {
		op, err := u.unread(source.Err)
		return moved, op, err
	}
	return moved, OpWrite, err
}

func (u *upload) sendChunks(buf []byte) (Op, error) {
	for {
		n, err := u.x.Body.Read(buf[http1.ChunkHead : len(buf)-http1.ChunkTail])
		if n > 0 {
			if err := u.write(http1.FrameChunk(buf, n)); err != nil {
				return OpWrite, err
			}
		}
		if errors.Is(err, io.EOF) {
			return u.sendLastChunk(buf[:0])
		}
		if err != nil {
			return u.unread(err)
		}
	}
}

// unread says whose fault it is that the body could not be read: ours, once the
// exchange is over and the read was interrupted.
func (u *upload) unread(err error) (Op, error) {
	if u.stopping.Load() {
		return OpWrite, errAnswered
	}
	return OpClientBody, noEOF(err)
}

func (u *upload) sendLastChunk(buf []byte) (Op, error) {
	var trailers http1.Fields
	if u.x.Trailers != nil {
		trailers = http1.StripHopByHop(u.x.Trailers())
	}
	last := http1.AppendLastChunk(buf, trailers)
	u.tail = http1.ChunkTail + len(last)
	u.ending.Store(true)
	if err := u.write(last); err != nil {
		return OpWrite, err
	}
	return "", nil
}

var errAnswered = errors.New("answered before the body was sent whole")

// write writes p, unless nobody wants it any more.
func (u *upload) write(p []byte) error {
	if u.stopping.Load() {
		return errAnswered
	}
	_, err := u.conn.Write(p)
	return err
}

// expectHead starts the clock for the answer's head, unless that was faster.
func (u *upload) expectHead() {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.timeout > 0 && !u.answered {
		_ = u.conn.SetReadDeadline(time.Now().Add(u.timeout))
	}
}

// headCame stops the clock, for good.
func (u *upload) headCame() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answered = true
	_ = u.conn.SetReadDeadline(time.Time{})
}

// blameUpload finds out what really failed: when the body could not be read
// the upload broke the connection itself, and when it could not be written the
// end of the answer is only what follows.
func (c *call) blameUpload(f *Failure) *Failure {
	switch {
	case f.Op == OpCanceled, f.Op == OpClientWrite:
		return f
	case c.upload.op == OpClientBody:
		return c.fail(OpClientBody, c.upload.err)
	case c.upload.op == OpWrite && f.Op == OpRead && !f.Begun && !errors.Is(c.upload.err, errAnswered):
		return c.fail(OpWrite, c.upload.err)
	}
	return f
}
