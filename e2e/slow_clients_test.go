//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestSlowClientsHarmNobody: 500 connections on which a head comes a byte at a
// time, or stops, and 20 clients that ask for 8 MiB and read nothing, or a byte now
// and then, are rid of within 20 s; who is honest does not notice; and
// memory stays what it was.
func TestSlowClientsHarmNobody(t *testing.T) {
	t.Parallel()
	event := bytes.Repeat([]byte("x"), 32<<10)
	gush := `{"prompt":"x","fault":"bulk=8388608"}`
	for _, c := range []slowCase{
		{
			"a bare engine", served(t, "tcp", requests(func(c net.Conn, r *http.Request) bool {
				if r.URL.Path != "/stream" {
					sayWhole(c)
					return true
				}
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
				for range 256 {
					if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", len(event), event); err != nil {
						return false
					}
				}
				_, _ = io.WriteString(c, "0\r\n\r\n")
				return true
			})), "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n", "/stream", "/work", wholeAnswer,
		},
		{"FastAPI", fastapi(t, 1), "GET /bulk HTTP/1.1\r\nHost: a\r\n\r\n", "/bulk", "/work/1", strings.Repeat("answer 1 ", 20)},
		{
			"demo engine", demoPool(t, 1),
			fmt.Sprintf("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s", len(gush), gush),
			"/v1/completions", "/v1/models", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			works(t)
			slowClientsHarmNobody(t, c)
		})
	}
}

// slowCase is an engine with a stream of 8 MiB or more, and something small.
type slowCase struct {
	name, pool   string
	request      string // for the stream
	stream, path string
	answer       string // to the small one; empty: what it is when nobody is slow
}

func slowClientsHarmNobody(t *testing.T, c slowCase) {
	t.Helper()
	m := start(t, "recorder.memory_mib = 1\n"+c.pool).allReady()
	if c.answer == "" {
		a := (&caller{address: m.address}).get(c.path)
		if a.outcome != complete || a.status != 200 || len(a.body) < 20 {
			t.Fatalf("before all: %v", a)
		}
		c.answer = string(a.body)
	}
	before := m.resident()
	began := time.Now()
	var slow sync.WaitGroup
	var open atomic.Int64
	for i := range 500 {
		slow.Go(func() { m.slowHead(i, &open) })
	}
	for i := range 20 {
		slow.Go(func() { m.slowReader(c.request, i%2 == 0, &open) })
	}
	ended := make(chan struct{})
	go func() { slow.Wait(); close(ended) }()

	var honest sync.WaitGroup
	var longest, peak atomic.Int64
	var answered atomic.Int64
	for range 4 {
		honest.Go(func() {
			one := caller{address: m.address, keepAlive: true}
			defer one.close()
			for {
				select {
				case <-ended:
					return
				default:
				}
				began := time.Now()
				if a := one.get(c.path); a.outcome != complete || a.status != 200 || string(a.body) != c.answer {
					t.Errorf("an honest client: %v", a)
					return
				}
				answered.Add(1)
				raise(&longest, int64(time.Since(began)))
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	for done := false; !done; {
		select {
		case <-ended:
			done = true
		case <-time.After(200 * time.Millisecond):
			raise(&peak, m.resident())
			if time.Since(began) > patience {
				t.Fatalf("%d slow clients are still there", open.Load())
			}
		}
	}
	honest.Wait()
	took := time.Since(began)
	t.Logf("rid of all after %v; %d honest answers, the slowest after %v; %d KiB more at most", took, answered.Load(), time.Duration(longest.Load()), (peak.Load()-before)>>10)
	if took > 20*time.Second+2*time.Second { // to connect, on a busy machine
		t.Errorf("it took %v to be rid of all", took)
	}
	m.eventually("20 streams given up for being read too slowly", func() bool {
		given := 0
		for _, l := range m.logLines("outcome") {
			if l["path"] == c.stream && l["outcome"] == "client_gone" && strings.Contains(fmt.Sprint(l["error"]), "reads too slowly") {
				given++
			}
		}
		return given == 20
	})
	if growth := peak.Load() - before; growth > 64<<20 && !raced {
		t.Errorf("%d MiB more in use", growth>>20)
	}
	if limit := int64(2 * time.Second); longest.Load() > limit {
		t.Errorf("an honest client waited %v", time.Duration(longest.Load()))
	}
	if n := m.metric("stoker_requests_refused_total", `reason="head_timeout"`); n != 500 {
		t.Errorf("%v heads are counted as too slow", n)
	}
	if lines := m.logLines("outcome"); countLines(lines, "client_error") > 300 {
		t.Errorf("%d lines about slow heads", countLines(lines, "client_error"))
	}
	m.stop()
}

func countLines(lines []map[string]any, outcome string) (n int) {
	for _, l := range lines {
		if l["outcome"] == outcome {
			n++
		}
	}
	return n
}

func raise(to *atomic.Int64, n int64) {
	for was := to.Load(); n > was && !to.CompareAndSwap(was, n); was = to.Load() {
	}
}

// slowHead sends a head that never ends, until it is cut off.
func (m *master) slowHead(i int, open *atomic.Int64) {
	c, err := net.Dial("tcp", m.address)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer c.Close()
	open.Add(1)
	defer open.Add(-1)
	_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n")
	if i%2 == 0 {
		go func() {
			for range 1000 {
				if _, err := io.WriteString(c, "x"); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond) // a byte at a time, without end
			}
		}()
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	if text, _ := io.ReadAll(c); !strings.HasPrefix(string(text), "HTTP/1.1 408 ") {
		m.t.Errorf("a slow head got %q", text)
	}
}

// slowReader asks for a stream, reads nothing or next to nothing of it, and
// returns when it has been cut off.
func (m *master) slowReader(request string, nothing bool, open *atomic.Int64) {
	c, err := net.Dial("tcp", m.address)
	if err != nil {
		m.t.Error(err)
		return
	}
	defer c.Close()
	open.Add(1)
	defer open.Add(-1)
	_ = c.(*net.TCPConn).SetReadBuffer(64 << 10)
	_, _ = io.WriteString(c, request)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		// A reset shows at once, also while there is something to be read.
		if socketError(c.(*net.TCPConn)) != nil {
			return
		}
		if nothing {
			continue
		}
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return
		}
	}
	m.t.Error("a slow reader was not cut off")
}

// socketError is what has befallen a connection, nil if nothing.
func socketError(c *net.TCPConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var code int
	if err := raw.Control(func(fd uintptr) {
		code, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
	}); err != nil {
		return err
	}
	if code != 0 {
		return syscall.Errno(code)
	}
	return nil
}

// resident is the master's memory in bytes.
func (m *master) resident() int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10
}
