//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// served is a pool of one server: this process.
func served(t *testing.T, network string, handle func(net.Conn)) string {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unix" {
		address = filepath.Join(shortDir(t), "s")
	}
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				handle(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	address = l.Addr().String()
	if network == "unix" {
		address = "unix:" + address
	}
	return "[[pools]]\nname = \"far\"\n[[pools.servers]]\naddress = \"" + address + "\"\n"
}

// requests serves a connection's requests by answer, which says whether it goes on.
func requests(answer func(c net.Conn, r *http.Request) bool) func(net.Conn) {
	return func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			if !answer(c, r) {
				return
			}
		}
	}
}

func sayWhole(c net.Conn) {
	fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(wholeAnswer), wholeAnswer)
}

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
			t.Parallel()
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
	given := 0
	for _, l := range m.logLines("outcome") {
		if l["path"] == c.stream && l["outcome"] == "client_gone" && strings.Contains(fmt.Sprint(l["error"]), "reads too slowly") {
			given++
		}
	}
	if given != 20 {
		t.Errorf("%d of 20 streams were given up for being read too slowly", given)
	}
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

// TestIdleConnectionsThatTheEngineCloses: an engine that closes its connections
// just as they are used again costs no request.
func TestIdleConnectionsThatTheEngineCloses(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"tcp", "unix"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			m := start(t, served(t, network, func(c net.Conn) {
				in := bufio.NewReader(c)
				for used := false; ; used = true {
					// As servers do: nothing read for a while, and it closes.
					if used {
						_ = c.SetReadDeadline(time.Now().Add(time.Duration(rand.IntN(3000)) * time.Microsecond))
					}
					if _, err := in.Peek(1); err != nil {
						return
					}
					_ = c.SetReadDeadline(time.Time{})
					r, err := http.ReadRequest(in)
					if err != nil {
						return
					}
					_, _ = io.Copy(io.Discard, r.Body)
					sayWhole(c)
				}
			})).ready()
			seen := newTally()
			until := time.Now().Add(3 * time.Second)
			callers := make([]caller, 8)
			for i := range callers {
				callers[i] = caller{address: m.address, keepAlive: true}
			}
			crowd(len(callers), func(client, _ int) bool {
				a := callers[client].get("/work")
				if a.outcome == complete && a.status != 200 {
					seen.add(fmt.Sprint(a.status), a.String())
				} else {
					seen.add(string(a.outcome), a.String())
				}
				time.Sleep(time.Duration(rand.IntN(3000)) * time.Microsecond)
				return time.Now().Before(until)
			}).Wait()
			for i := range callers {
				callers[i].close()
			}
			t.Logf("%d requests", seen.count(string(complete)))
			if wrong := seen.except(string(complete)); wrong != "" {
				t.Errorf("of %d: %s", seen.count(string(complete)), wrong)
				for _, l := range m.logLines("outcome") {
					if l["status"] == float64(502) {
						t.Log(l["error"], l["attempts"], l["duration"])
					}
				}
			}
			m.stop()
		})
	}
}

// TestIdleConnectionsThatServersClose is the same with real servers, which close
// after a second, and clients that all come back after a second, so that each uses
// a connection which is being closed.
func TestIdleConnectionsThatServersClose(t *testing.T) {
	t.Parallel()
	const clients, rounds = 16, 6
	for _, s := range subjects() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			m := start(t, s.idle(t, time.Second)).allReady()
			ended := newTally()
			for round := range rounds {
				var all sync.WaitGroup
				for client := range clients {
					all.Go(func() {
						time.Sleep(time.Duration(rand.IntN(20000)) * time.Microsecond)
						if r := s.ask(m, client*100+round, false); r.err == nil && r.status == 200 && s.exact(r.body, r.n, false) {
							ended.add("right", "")
						} else {
							ended.add("wrong", r.String())
						}
					})
				}
				all.Wait()
				time.Sleep(980 * time.Millisecond)
			}
			if wrong := ended.except("right"); wrong != "" {
				t.Errorf("of %d: %s", clients*rounds, wrong)
			}
			m.stop()
		})
	}
}

// TestShutdownUnderHTTP2Load is TestShutdownUnderLoad over HTTP/2: requests that
// cannot be sent twice are served, or never begun.
func TestShutdownUnderHTTP2Load(t *testing.T) {
	t.Parallel()
	for run := range 5 {
		m := start(t, "access_log = \"off\"\n"+fakePool(2)).allReady()
		seen := newTally()
		clients := make([]*http.Client, 100)
		for i := range clients {
			p := new(http.Protocols)
			p.SetUnencryptedHTTP2(true)
			tr := &http.Transport{Protocols: p}
			defer tr.CloseIdleConnections()
			clients[i] = &http.Client{Transport: tr, Timeout: patience}
		}
		load := crowd(len(clients), func(client, _ int) bool {
			// A body that can be read once keeps net/http from trying again.
			r, err := clients[client].Post(m.url("/work?ms=5"), "text/plain", io.MultiReader(strings.NewReader("once")))
			if err != nil {
				what := string(classify(err, closed))
				seen.add(what, err.Error())
				return what != string(refused)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			switch {
			case err != nil:
				seen.add("half an answer", err.Error())
			case r.StatusCode != http.StatusOK || string(body) != wholeAnswer:
				seen.add(r.Status, string(body))
			default:
				seen.add(string(complete), "")
			}
			return true
		})
		m.eventually("every client served a few times", func() bool { return seen.count(string(complete)) > 500 })
		m.signal(syscall.SIGTERM)
		load.Wait()
		if code := m.exit(patience); code != 0 {
			t.Errorf("run %d: exit code %d, want 0", run, code)
		}
		if wrong := seen.except(string(complete), string(refused)); wrong != "" {
			t.Errorf("run %d: of %d answers: %s", run, seen.count(string(complete)), wrong)
		}
	}
}

// TestWhatClientsMayTake: the limits of bodies and connections, changed by a reload.
func TestWhatClientsMayTake(t *testing.T) {
	t.Parallel()
	var bodies atomic.Int64
	pool := served(t, "tcp", func(c net.Conn) {
		for in := bufio.NewReader(c); ; {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if r.Method == http.MethodPost {
				bodies.Add(1)
			}
			sayWhole(c)
		}
	})
	m := start(t, "clients.body_mib = 2\n"+pool).ready()
	post := func(size int, chunked bool) int {
		var body io.Reader = bytes.NewReader(make([]byte, size))
		if chunked {
			body = io.MultiReader(body)
		}
		r, err := http.Post(m.url("/"), "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		if r.StatusCode == http.StatusRequestEntityTooLarge && !strings.Contains(string(text), `"code":"body_too_large"`) {
			t.Errorf("%s", text)
		}
		return r.StatusCode
	}
	for _, chunked := range []bool{false, true} {
		if small, large := post(2<<20, chunked), post(2<<20+1, chunked); small != 200 || large != 413 {
			t.Errorf("chunked %v: %d and %d", chunked, small, large)
		}
	}
	if n := bodies.Load(); n != 2 {
		t.Errorf("%d whole bodies at the engine", n)
	}
	held := caller{address: m.address, keepAlive: true}
	defer held.close()
	held.get("/")
	m.rewrite("clients.body_mib = 2", "clients.connections_per_address = 1\nclients.body_mib = 1")
	m.mustCommand("reload")
	other := caller{address: m.address}
	if a := other.get("/"); a.status != 429 || !strings.Contains(string(a.body), "too_many_connections") || a.header.Get("Retry-After") == "" {
		t.Errorf("a second connection: %v", a)
	}
	if a := held.get("/"); a.status != 200 {
		t.Errorf("the first: %v", a)
	}
	m.rewrite("connections_per_address = 1", "connections = 1")
	m.mustCommand("reload")
	if a := other.get("/"); a.status != 503 {
		t.Errorf("a second connection: %v", a)
	}
	held.close()
	m.eventually("room", func() bool { return other.get("/").status == 200 })
	got := 0
	m.eventually("room again, the last one's connection having gone", func() bool { got = post(1<<20+1, false); return got != 503 })
	if got != 413 {
		t.Errorf("a body of 1 MiB and a byte: %d", got)
	}
	if n := m.metric("stoker_requests_refused_total", `reason="too_many_connections"`); n < 2 {
		t.Errorf("%v refused connections are counted", n)
	}
	if w := m.status().Pools[0].Servers[0]; w.State != "ready" {
		t.Errorf("the server is %s", w.State)
	}
	m.stop()
}

// TestRefusedHeads: what is no request is answered, logged and counted.
func TestRefusedHeads(t *testing.T) {
	t.Parallel()
	m := start(t, fakePool(1)).ready()
	for _, c := range []struct {
		raw    string
		status int
		reason string
	}{
		{"GET / HTTP/1.1\r\n\r\n", 400, "bad_request"},
		{"\x16\x03\x01", 400, "bad_request"},
		{"GET /" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\n\r\n", 414, "uri_too_long"},
		{"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", 431, "head_too_large"},
		{"GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505, "version_not_supported"},
	} {
		conn, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, c.raw)
		_ = conn.SetReadDeadline(time.Now().Add(patience))
		text, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(text), fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(string(text), c.reason) {
			t.Errorf("%.40q: %s", c.raw, text)
		}
		m.eventually("its line", func() bool {
			for _, l := range m.logLines("outcome") {
				if l["status"] == float64(c.status) && l["outcome"] == "client_error" && l["client"] == "127.0.0.1" && l["error"] != nil {
					return true
				}
			}
			return false
		})
		if m.metric("stoker_requests_refused_total", `reason="`+c.reason+`"`) < 1 {
			t.Errorf("%d is not counted", c.status)
		}
	}
	m.stop()
}
