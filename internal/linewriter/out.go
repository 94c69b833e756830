package linewriter

import (
	"bytes"
	"io"
	"time"
)

// run is the writer's goroutine: it alone touches the sink.
func (w *Writer) run() {
	defer close(w.done)
	batch := []byte(nil)
	for {
		batch = w.swap(batch)
		if len(batch) == 0 {
			if w.isClosed() {
				return
			}
			<-w.wake
			continue
		}
		if !w.put(batch) {
			return
		}
		w.pause()
	}
}

// pause lets those lines gather that follow a write at once, unless somebody waits
// for them.
func (w *Writer) pause() {
	if w.gather <= 0 || w.isAwaited() {
		return
	}
	timer := time.NewTimer(w.gather)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.urgent:
	}
}

// swap gives the written batch back and takes the lines that came meanwhile, with
// the note about those that found no room. The beginning of a line stays behind.
func (w *Writer) swap(written []byte) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	batch, rest := w.fill[:w.whole], w.fill[w.whole:]
	w.fill = append(written[:0], rest...)
	w.whole = 0
	if w.lost > 0 {
		batch = w.note(batch, w.lost)
		w.lost = 0
	}
	w.busy = len(batch) > 0
	w.tellFlushed()
	return batch
}

// tellFlushed is called at each swap: those who waited for the last batch have it
// written, those who waited for the buffer wait for the new batch.
func (w *Writer) tellFlushed() {
	if w.flushing != nil {
		close(w.flushing)
	}
	w.flushing, w.asked = w.asked, nil
	if !w.busy && w.flushing != nil {
		close(w.flushing)
		w.flushing = nil
	}
}

// isAwaited tells those who waited for the batch that it is out, and says whether
// somebody waits for what comes after it.
func (w *Writer) isAwaited() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flushing != nil {
		close(w.flushing)
		w.flushing = nil
	}
	return w.closed || w.asked != nil
}

func (w *Writer) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed && w.whole == 0 && w.lost == 0
}

// put writes a batch out, however often that takes. False: Close has lost patience.
func (w *Writer) put(batch []byte) bool {
	wait := firstRetry
	for out := 0; out < len(batch); {
		if w.isHurried() {
			return false
		}
		sink, reopened := w.current()
		if reopened {
			out = bytes.LastIndexByte(batch[:out], '\n') + 1
		}
		n, err := sink.Write(batch[out:])
		out += max(0, min(n, len(batch)-out))
		if n > 0 {
			wait = firstRetry
		}
		if err == nil && n <= 0 {
			err = io.ErrShortWrite
		}
		if err == nil {
			continue
		}
		if !w.sleep(wait) {
			return false
		}
		wait = min(2*wait, longestRetry)
	}
	return true
}

func (w *Writer) current() (sink io.Writer, reopened bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	sink, reopened = w.sink, w.reopened
	w.reopened = false
	return sink, reopened
}

func (w *Writer) isHurried() bool {
	select {
	case <-w.hurry:
		return true
	default:
		return false
	}
}

// sleep waits before the next try, unless Close has lost patience.
func (w *Writer) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-w.hurry:
		return false
	}
}
