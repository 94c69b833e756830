package keeper

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestLines(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, tc := range []struct {
		name string
		in   []string // "" flushes
		want string
	}{
		{"whole", []string{"a\nb\n"}, "[w] a\n[w] b\n"},
		{"in pieces", []string{"a", "b", "\n"}, "[w] ab\n"},
		{"empty lines", []string{"\n\na\n"}, "[w] \n[w] \n[w] a\n"},
		{"flushed, then its end", []string{"a", "", "\nb\n"}, "[w] a\n[w] b\n"},
		{"flushed, then more", []string{"a", "", "b\n"}, "[w] a\n[w] b\n"},
		{"flushed, then an empty line", []string{"a", "", "\n\n"}, "[w] a\n[w] \n"},
		{"nothing to flush", []string{"", "a\n", "", ""}, "[w] a\n"},
		{"CRLF", []string{"a\r\nb\r", "\nc\n"}, "[w] a\n[w] b\n[w] c\n"},
		{"progress", []string{"\r10%\r20%\r", "30%\n"}, "[w] 10%\n[w] 20%\n[w] 30%\n"},
		{"just long enough", []string{long + "\n"}, "[w] " + long + "\n"},
		{"too long", []string{long + "y\n"}, "[w] " + long + "\n[w] y\n"},
		{"too long in pieces", []string{long, "y", "z\n"}, "[w] " + long + "\n[w] yz\n"},
		{"binary", []string{"\x00\xff\n\xfe\n"}, "[w] \x00\xff\n[w] \xfe\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got bytes.Buffer
			l := newLines("w", func(b []byte) { got.Write(b) })
			for _, in := range tc.in {
				if in == "" {
					l.flush()
				}
				l.write([]byte(in))
			}
			l.flush()
			if got.String() != tc.want {
				t.Errorf("got %.200q, want %.200q", got.String(), tc.want)
			}
		})
	}
}

func twoEnds(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return r, w
}

// TestHeldOutput: what is held back is passed on when the time is over, the engine
// is asked to end, or it says very much, and not when it ends by itself before.
func TestHeldOutput(t *testing.T) {
	for _, tc := range []struct {
		name string
		hold time.Duration
		lots bool
		then func(o *output)
		want bool
	}{
		{"not held", 0, false, func(*output) {}, true},
		{"the time is over", time.Millisecond, false, func(o *output) {
			for held := true; held; time.Sleep(time.Millisecond) {
				o.mu.Lock()
				held = o.holding
				o.mu.Unlock()
			}
		}, true},
		{"asked to end", time.Hour, false, (*output).letGo, true},
		{"ended by itself", time.Hour, false, (*output).keepBack, false},
		{"ended by itself, and asked for", time.Hour, false, func(o *output) { o.keepBack(); o.hold(0) }, true},
		{"very much", time.Hour, true, (*output).keepBack, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, w := twoEnds(t)
			o := newOutput("w", int(w.Fd()))
			o.hold(tc.hold)
			engineEnd, engine := twoEnds(t)
			o.read(engineEnd)
			text := "one line\n"
			if tc.lots {
				text = strings.Repeat(text, maxQueue/len(text)+1)
			}
			shown := make(chan string, 1)
			go func() {
				all, _ := io.ReadAll(r)
				shown <- string(all)
			}()
			_, _ = engine.WriteString(text)
			engine.Close()
			o.wait(10 * time.Second)
			o.say("of the keeper itself")
			tc.then(o)
			o.close(10 * time.Second)
			w.Close()
			got := <-shown
			if strings.Contains(got, "[w] one line\n") != tc.want || !tc.lots && !strings.Contains(got, "of the keeper itself") {
				t.Errorf("shown: %.200q", got)
			}
			if !strings.Contains(string(o.last()), "one line") {
				t.Error("it is not in the tail")
			}
		})
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\r\nb\rc\n\n\xff"), uint8(3))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		cut := func(n int) (out []byte) {
			l := newLines("w", func(b []byte) {
				if !bytes.HasPrefix(b, []byte("[w] ")) || bytes.IndexByte(b, '\n') != len(b)-1 || len(b) > maxLine+5 {
					t.Fatalf("not a line: %q", b)
				}
				out = append(out, b...)
			})
			for rest := in; len(rest) > 0; rest = rest[min(n, len(rest)):] {
				l.write(rest[:min(n, len(rest))])
			}
			l.flush()
			return out
		}
		if a, b := cut(len(in)+1), cut(int(size)+1); !bytes.Equal(a, b) {
			t.Errorf("%q: whole gives %q, by %d gives %q", in, a, size+1, b)
		}
	})
}

func TestRingKeepsTheLast(t *testing.T) {
	for _, tc := range []struct {
		name   string
		writes []int
	}{
		{"nothing", nil},
		{"less", []int{10, 20}},
		{"exactly full", []int{tailSize}},
		{"full in two", []int{tailSize - 1, 1}},
		{"one more", []int{tailSize, 1}},
		{"over the edge", []int{tailSize - 10, 30}},
		{"much more at once", []int{5, 3*tailSize + 7}},
		{"round and round", []int{tailSize - 3, tailSize - 5, 100, tailSize - 1, 7}},
		{"full then full", []int{tailSize - 1, tailSize, 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var r ring
			var all []byte
			for i, n := range tc.writes {
				p := bytes.Repeat([]byte{byte('a' + i)}, n)
				for j := range p {
					p[j] += byte(j % 7)
				}
				r.write(p)
				all = append(all, p...)
			}
			if want := all[max(0, len(all)-tailSize):]; !bytes.Equal(r.bytes(), want) {
				t.Errorf("%d bytes, want %d, or they differ", len(r.bytes()), len(want))
			}
		})
	}
}

func TestTailAndLinesOfAnEngine(t *testing.T) {
	o := options(t, "sh", "-c", "echo out; echo err >&2; printf half; exec sleep 600")
	c := start(t, o)
	mustHold(t, "half a line comes without waiting for its end", func() bool {
		b, _ := os.ReadFile(o.Stderr.Name())
		return strings.Contains(string(b), "[w-0] half\n")
	})
	b, err := c.Tail(testContext(t))
	if err != nil || len(b) != len("out\nerr\nhalf") || !bytes.Contains(b, []byte("err\n")) {
		t.Errorf("tail is %q, %v", b, err)
	}
	got, _ := os.ReadFile(o.Stderr.Name())
	for _, want := range []string{"[w-0] out\n", "[w-0] err\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q lacks %q", got, want)
		}
	}
}

// chatter writes n numbered lines of 100 bytes and exits with 7 if it can.
func chatter(n int) []string {
	return []string{"sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do printf '%%099d\\n' $i || exit 1; i=$((i+1)); done; exit 7", n)}
}

func TestNobodyReadsTheOutput(t *testing.T) {
	const n = 20000 // 2 MB: more than pipe and queue hold together
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := options(t, chatter(n)...)
	o.Stderr = w
	c := start(t, o)
	w.Close()
	if s := until(t, c, "end", phase(Ended)); s.Exit.Code != 7 {
		t.Fatalf("exit is %+v", s.Exit)
	}
	tail, err := c.Tail(testContext(t))
	if err != nil || len(tail) != tailSize || !bytes.HasSuffix(tail, fmt.Appendf(nil, "%099d\n", n-1)) {
		t.Errorf("tail has %d bytes, %v", len(tail), err)
	}
	got := make(chan []byte)
	go func() { // now somebody does
		b, _ := io.ReadAll(r)
		got <- b
	}()
	mustAck(t, c, o.Dir)
	checkFlood(t, <-got, n)
}

// checkFlood accounts for every line: there, in order, or counted as dropped.
func checkFlood(t *testing.T, got []byte, n int) {
	t.Helper()
	notice := regexp.MustCompile(`^\[w-0\] stoker keeper: dropped (\d+) lines`)
	next := 0
	for line := range strings.Lines(string(got)) {
		if m := notice.FindStringSubmatch(line); m != nil {
			k, _ := strconv.Atoi(m[1])
			next += k
			continue
		}
		if want := fmt.Sprintf("[w-0] %099d\n", next); line != want {
			t.Fatalf("line is %q, want %q", line, want)
		}
		next++
	}
	if next != n {
		t.Errorf("%d lines are accounted for, of %d", next, n)
	}
}

func TestOutputNobodyCanTake(t *testing.T) {
	for _, tc := range []struct {
		name string
		open func(t *testing.T) *os.File
	}{
		{"reader gone", func(t *testing.T) *os.File {
			t.Helper()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			r.Close()
			return w
		}},
		{"disk full", func(t *testing.T) *os.File {
			t.Helper()
			f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
			if err != nil {
				t.Skipf("SKIPPED: %v", err)
			}
			return f
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := options(t, chatter(3000)...)
			o.Stderr = tc.open(t)
			defer o.Stderr.Close()
			c := start(t, o)
			if s := until(t, c, "end", phase(Ended)); s.Exit.Code != 7 {
				t.Errorf("exit is %+v", s.Exit)
			}
			mustAck(t, c, o.Dir)
		})
	}
}

func TestOutputGoesOnAfterAnError(t *testing.T) {
	// A file may grow to 50 bytes; then it may grow further.
	path := filepath.Join(t.TempDir(), "log")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	o := newOutput("w", int(w.Fd()))
	r.Close()
	o.put([]byte("[w] lost\n"))
	mustHold(t, "the loss is counted", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.dropped == 1 && len(o.queue) == 0
	})
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Dup3(int(f.Fd()), int(w.Fd()), 0); err != nil {
		t.Fatal(err)
	}
	o.put([]byte("[w] also lost\n")) // it wakes the writer, whose first word is the count
	mustHold(t, "the count is said", func() bool {
		b, _ := os.ReadFile(path)
		return strings.Contains(string(b), "dropped 2 lines")
	})
	o.put([]byte("[w] well again\n"))
	o.close(limit)
	b, _ := os.ReadFile(path)
	if !strings.HasSuffix(string(b), "[w] well again\n") {
		t.Errorf("log is %q", b)
	}
}

func TestOutputEndsThoughNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	o := newOutput("w", int(w.Fd()))
	for range 3000 {
		o.put([]byte("[w] " + strings.Repeat("x", 95) + "\n"))
	}
	began := time.Now()
	o.close(limit)
	if took := time.Since(began); took > limit/2 {
		t.Errorf("took %s", took)
	}
}
