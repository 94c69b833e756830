package linewriter

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// sink is a sink under the test's hand: it takes at most so many bytes at once,
// fails when told to, and can be held.
type sink struct {
	mu     sync.Mutex
	got    bytes.Buffer
	err    error
	most   int           // bytes per Write, 0 for all
	held   chan struct{} // while not closed Write blocks; nil: never
	writes int
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.most > 0 && len(p) > s.most {
		p = p[:s.most]
		s.got.Write(p)
		return len(p), cmp.Or(s.err, io.ErrShortWrite)
	}
	if s.err != nil {
		return 0, s.err
	}
	return s.got.Write(p)
}

func (s *sink) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) tries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.String()
}

func write(t *testing.T, w *Writer, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if n, err := io.WriteString(w, p); n != len(p) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", p, n, err)
		}
	}
}

func short(dst []byte, lines uint64) []byte { return fmt.Appendf(dst, "-%d\n", lines) }

// TestDropsWholeLines writes into a buffer of 10 bytes while the sink is held with
// a first line in its hands, then lets it go.
func TestDropsWholeLines(t *testing.T) {
	for name, c := range map[string]struct {
		writes []string
		want   string
	}{
		"all fit":                  {[]string{"1234\n", "5678\n"}, "1234\n5678\n"},
		"one too many":             {[]string{"1234\n", "5678\n", "9\n"}, "1234\n5678\n-1\n"},
		"nothing after a loss":     {[]string{"123\n", "567890\n", "9\n"}, "123\n-2\n"},
		"several lines at once":    {[]string{"1\n2\n3\n4\n5\n6\n"}, "-6\n"},
		"longer than the buffer":   {[]string{"12345678901234\n"}, "-1\n"},
		"line in parts":            {[]string{"12", "34", "\n", "5\n"}, "1234\n5\n"},
		"end of a line lost":       {[]string{"1\n", "2345", "67890\n"}, "1\n-1\n"},
		"beginning of a line lost": {[]string{"1\n", "2345678901", "23", "4\n", "5\n"}, "1\n-2\n"},
		"lost end, next line":      {[]string{"1\n", "2345", "678901", "2\n3\n"}, "1\n-2\n"},
		"unfinished":               {[]string{"1\n", "2"}, "1\n2"},
		"empty":                    {[]string{"", "\n", ""}, "\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &sink{held: make(chan struct{})}
				w := New(s, Options{Size: 10, Note: short})
				write(t, w, "first\n")
				synctest.Wait() // the sink has it
				write(t, w, c.writes...)
				close(s.held)
				if err := w.Close(time.Second); err != nil {
					t.Error(err)
				}
				if got := s.String(); got != "first\n"+c.want {
					t.Errorf("sink has %q, want %q", got, "first\n"+c.want)
				}
				if _, err := w.Write([]byte("late\n")); !errors.Is(err, ErrClosed) {
					t.Errorf("Write after Close: %v", err)
				}
				if err := w.Close(time.Second); !errors.Is(err, ErrClosed) {
					t.Errorf("second Close: %v", err)
				}
			})
		})
	}
}

// TestOnlyTheRestOfALostLineIsSkipped: once the sink has caught up, the end of a
// line whose beginning was lost must not appear as a line.
func TestOnlyTheRestOfALostLineIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := New(s, Options{Size: 10, Note: short})
		write(t, w, "1234567890x")
		synctest.Wait()
		write(t, w, "yz", " end\nnext\n")
		if err := w.Close(time.Second); err != nil {
			t.Error(err)
		}
		if got := s.String(); got != "-1\nnext\n" {
			t.Errorf("sink has %q", got)
		}
		if w.Dropped() != 1 {
			t.Errorf("%d dropped", w.Dropped())
		}
	})
}

// TestSinkThatFails: nothing is lost over an error that passes, not even when it
// came in the middle of a line, and a failing sink is not tried in a hot loop.
func TestSinkThatFails(t *testing.T) {
	for _, failure := range []error{syscall.EAGAIN, syscall.EPIPE, syscall.ENOSPC} {
		synctest.Test(t, func(t *testing.T) {
			s := &sink{err: failure}
			w := New(s, Options{Size: 20, Note: short})
			write(t, w, "one\n")
			time.Sleep(time.Minute)
			if tries := s.tries(); tries > 70 {
				t.Errorf("%v: tried %d times in a minute", failure, tries)
			}
			write(t, w, "two\n", strings.Repeat("x", 20)+"\n", "three\n")
			if err := w.Flush(time.Second); !errors.Is(err, ErrTimeout) {
				t.Errorf("%v: Flush: %v", failure, err)
			}
			s.fail(nil)
			if err := w.Flush(2 * longestRetry); err != nil {
				t.Errorf("%v: Flush: %v", failure, err)
			}
			if got := s.String(); got != "one\ntwo\n-2\n" {
				t.Errorf("%v: sink has %q", failure, got)
			}
			if err := w.Close(time.Second); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLinesGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s counting
		w := New(&s, Options{Gather: 2 * time.Millisecond})
		start := time.Now()
		write := func(n int) {
			for range n {
				if _, err := w.Write([]byte("line\n")); err != nil {
					t.Fatal(err)
				}
				time.Sleep(100 * time.Microsecond)
			}
		}
		write(1)
		synctest.Wait()
		if s.writes != 1 {
			t.Fatalf("the first line waits: %d writes", s.writes)
		}
		write(999) // in 100 ms
		time.Sleep(10 * time.Millisecond)
		synctest.Wait()
		if s.bytes != 5000 || s.writes > 52 {
			t.Errorf("%d bytes in %d writes", s.bytes, s.writes)
		}
		write(2) // the second of them waits
		before := time.Now()
		if err := w.Flush(time.Second); err != nil || s.bytes != 5010 || time.Since(before) > 0 {
			t.Errorf("flush: %v, %d bytes, after %s", err, s.bytes, time.Since(before))
		}
		write(2)
		before = time.Now()
		if err := w.Close(time.Second); err != nil || s.bytes != 5020 || time.Since(before) > 0 {
			t.Errorf("close: %v, %d bytes, after %s of %s", err, s.bytes, time.Since(before), time.Since(start))
		}
	})
}

type counting struct{ writes, bytes int }

func (c *counting) Write(p []byte) (int, error) {
	c.writes++
	c.bytes += len(p)
	return len(p), nil
}

func TestShortWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{most: 3}
		w := New(s, Options{})
		write(t, w, "a longer line\n", "and another\n")
		if err := w.Close(time.Minute); err != nil {
			t.Error(err)
		}
		if got := s.String(); got != "a longer line\nand another\n" {
			t.Errorf("sink has %q", got)
		}
	})
}

// TestReopenRepeatsTheLineCutInTwo: the old file has "one\ntw", the new one begins
// with "two".
func TestReopenRepeatsTheLineCutInTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := &sink{most: 6, held: make(chan struct{})}
		w := New(old, Options{})
		write(t, w, "one\ntwo\nthree\n")
		synctest.Wait() // in the old sink's hands
		fresh := &sink{}
		w.Reopen(fresh)
		close(old.held)
		if err := w.Flush(time.Minute); err != nil {
			t.Error(err)
		}
		if old.String() != "one\ntw" || fresh.String() != "two\nthree\n" {
			t.Errorf("old has %q, fresh has %q", old.String(), fresh.String())
		}
		if err := w.Close(time.Second); err != nil {
			t.Error(err)
		}
	})
}

// TestFlushIsNotStarved: lines that come after a Flush began do not prolong it.
func TestFlushIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{}
		w := New(&dripping{s, time.Second}, Options{})
		stop := make(chan struct{})
		var logging sync.WaitGroup
		logging.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
					io.WriteString(w, "busy\n")
				}
			}
		})
		time.Sleep(10 * time.Second)
		began := time.Now()
		write(t, w, "mine\n")
		if err := w.Flush(time.Minute); err != nil || time.Since(began) > 2*time.Second {
			t.Errorf("Flush: %v after %v", err, time.Since(began))
		}
		if !strings.Contains(s.String(), "mine\n") {
			t.Error("Flush returned before the line was out")
		}
		close(stop)
		logging.Wait()
		if err := w.Close(time.Minute); err != nil {
			t.Error(err)
		}
	})
}

// dripping takes its time for each write.
type dripping struct {
	io.Writer
	each time.Duration
}

func (d *dripping) Write(p []byte) (int, error) {
	time.Sleep(d.each)
	return d.Writer.Write(p)
}

// TestBlockedPipe: a real pipe whose reader hangs does not hold up the writers,
// and Close gets away from it; the reader finds whole lines and the note.
func TestBlockedPipe(t *testing.T) {
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Less than a buffer: what is in one must not fit, if the writers have done before it is first written.
	raw, err := pw.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 4096) })
	if err != nil {
		t.Fatal(err)
	}
	w := New(pw, Options{Size: 64 << 10, Note: short})
	line := strings.Repeat("x", 99) + "\n"
	const writers, each = 4, 5000 // 2 MB, against 4 KiB of pipe and two buffers of 64
	var all sync.WaitGroup
	began := time.Now()
	for range writers {
		all.Go(func() {
			for range each {
				io.WriteString(w, line)
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > 30*time.Second { // it is a moment, or for ever
		t.Errorf("writing took %v", took)
	}
	if err := w.Flush(10 * time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("Flush: %v", err)
	}

	// The reader wakes up and reads all.
	var got bytes.Buffer
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(&got, r)
		read <- err
	}()
	if err := w.Flush(5 * time.Second); err != nil {
		t.Error(err)
	}
	if err := w.Close(5 * time.Second); err != nil {
		t.Error(err)
	}
	pw.Close()
	if err := <-read; err != nil {
		t.Fatal(err)
	}
	whole, noted := uint64(0), uint64(0)
	for l := range strings.Lines(got.String()) {
		var n uint64
		if _, err := fmt.Sscanf(l, "-%d\n", &n); err == nil {
			noted += n
		} else if l == line {
			whole++
		} else {
			t.Fatalf("a broken line: %q", l)
		}
	}
	if noted == 0 || noted != w.Dropped() || whole+noted != writers*each {
		t.Errorf("%d lines, %d noted as dropped, %d counted, want %d together", whole, noted, w.Dropped(), writers*each)
	}
}

func TestCloseLeavesAHungReader(t *testing.T) {
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer pw.Close()
	w := New(pw, Options{})
	for range 2000 {
		io.WriteString(w, strings.Repeat("x", 99)+"\n")
	}
	if err := w.Close(10 * time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("Close: %v", err)
	}
	<-w.done // the goroutine is gone too
}

// TestReaderGone: EPIPE costs nobody anything but the lines.
func TestReaderGone(t *testing.T) {
	r, pw, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pw.Close()
	r.Close()
	w := New(pw, Options{Size: 1000})
	for range 1000 {
		io.WriteString(w, "a line\n")
	}
	if err := w.Close(30 * time.Millisecond); !errors.Is(err, ErrTimeout) {
		t.Errorf("Close: %v", err)
	}
	if w.Dropped() == 0 {
		t.Error("nothing dropped?")
	}
}

func TestWriteDoesNotAllocate(t *testing.T) {
	w := New(io.Discard, Options{Size: 64 << 10})
	defer w.Close(time.Second)
	line := []byte(strings.Repeat("x", 99) + "\n")
	for range 10_000 { // both buffers at their full size
		w.Write(line)
	}
	if n := testing.AllocsPerRun(1000, func() { w.Write(line) }); n > 0.1 {
		t.Errorf("%v allocations per line", n)
	}
}

func BenchmarkWrite(b *testing.B) {
	line := []byte(strings.Repeat("x", 199) + "\n")
	b.Run("null", func(b *testing.B) {
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		if err != nil {
			b.Fatal(err)
		}
		defer null.Close()
		benchmark(b, null, line)
	})
	b.Run("failing", func(b *testing.B) { benchmark(b, &sink{err: syscall.ENOSPC}, line) })
}

func benchmark(b *testing.B, to io.Writer, line []byte) {
	b.Helper()
	w := New(to, Options{})
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w.Write(line)
		}
	})
	b.ReportMetric(float64(w.Dropped())/float64(b.N), "dropped/line")
	w.Close(10 * time.Millisecond)
}
