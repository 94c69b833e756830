package front_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/balancer"
	"stoker/balancer/front"
	"stoker/balancer/recorder"
	"stoker/exchange"
	"stoker/internal/rawconn"
	"stoker/internal/steady"
	"stoker/upstream"
)

// patience bounds every wait; nothing is expected to take as long.
const patience = 10 * time.Second

type records chan exchange.Record

func (r records) Observe(x *exchange.Exchange) { r <- x.Record }

// machine is front, balancer and pool, with one engine.
type machine struct {
	front    *front.Front
	balancer *balancer.Balancer
	pool     *upstream.Pool
	member   *upstream.Member
	records  records
	addr     string
}

// start runs a machine over engine, which serves each of its connections.
func start(tb testing.TB, engine func(net.Conn)) *machine {
	tb.Helper()
	return startWith(tb, engine, nil)
}

// startRecorded makes a machine that keeps what passes, as the product does.
func startRecorded(tb testing.TB, engine func(net.Conn)) *machine {
	tb.Helper()
	redactor, err := recorder.NewRedactor(nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	r, err := recorder.New(recorder.Options{Keep: 20, BodyLimit: 64 << 10, Memory: 8 << 20, Redactor: redactor})
	if err != nil {
		tb.Fatal(err)
	}
	return startWith(tb, engine, r)
}

func startWith(tb testing.TB, engine func(net.Conn), r *recorder.Recorder) *machine {
	tb.Helper()
	l := listen(tb)
	var conns sync.WaitGroup
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				engine(c)
			})
		}
	}()
	m := &machine{records: make(records, 10000)}
	m.pool = upstream.NewPool("p", upstream.PoolOptions{QueueLength: 100, QueueTimeout: patience})
	m.member = m.pool.Add("m", 1)
	m.member.Reset(l.Addr().String())
	m.member.SetReady(true)
	b, err := balancer.New(balancer.Options{Pools: []balancer.Pool{balancer.Over(m.pool)}, Recorder: r})
	if err != nil {
		tb.Fatal(err)
	}
	m.balancer = b
	m.front, err = front.New(front.Options{Handler: b, Observers: []front.Observer{m.records}})
	if err != nil {
		tb.Fatal(err)
	}
	door := openDoor(tb)
	m.addr = door.Addr().String()
	served := make(chan error, 1)
	go func() { served <- m.front.Serve(door) }()
	tb.Cleanup(func() {
		_ = door.Close()
		m.front.Close()
		if err := <-served; err != nil {
			tb.Error(err)
		}
		_ = l.Close()
		<-accepted
		m.member.Reset(l.Addr().String()) // closes idle connections
		conns.Wait()
	})
	return m
}

func listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// openDoor listens as a door does.
func openDoor(tb testing.TB) net.Listener {
	tb.Helper()
	a, err := rawconn.NewAcceptor(listen(tb))
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func (m *machine) dial(tb testing.TB) (net.Conn, *bufio.Reader) {
	tb.Helper()
	c, err := net.Dial("tcp", m.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c, bufio.NewReader(c)
}

func (m *machine) record(tb testing.TB) exchange.Record {
	tb.Helper()
	select {
	case r := <-m.records:
		return r
	case <-time.After(patience):
		tb.Fatal("no record")
		panic("unreachable")
	}
}

// http2Client speaks HTTP/2 with prior knowledge.
func http2Client(tb testing.TB) *http.Client {
	tb.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// served serves a connection by handler, request after request.
func served(answer func(w io.Writer, r *http.Request)) func(net.Conn) {
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			answer(c, r)
		}
	}
}

// What happens to the client's connection, the log and the member when the
// client hangs up while the request waits, wherever that is.
func TestHangUp(t *testing.T) {
	const post = "POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Length: "
	for _, tc := range []struct {
		name    string
		request string
		ready   bool   // else it waits in the queue
		engine  string // what the engine says
	}{
		{"in the queue", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, ""},
		{"in the queue, body unread", post + "3\r\n\r\nabc", false, ""},
		{"small upload", post + "3\r\n\r\na", true, ""},
		{"large upload", post + "100000\r\n\r\nabc", true, ""},
		{"chunked upload", "POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true, ""},
		{"silent prefill", post + "3\r\n\r\nabc", true, ""},
		{"silent prefill after a large upload", post + "100000\r\n\r\n" + strings.Repeat("x", 100000), true, ""},
		{"mid-stream", post + "3\r\n\r\nabc", true, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reached, left := make(chan struct{}, 1), make(chan struct{})
			m := start(t, func(c net.Conn) {
				defer close(left)
				_, _ = c.Read(make([]byte, 1))
				_, _ = io.WriteString(c, tc.engine)
				reached <- struct{}{}
				_, _ = io.Copy(io.Discard, c) // until stoker hangs up
			})
			m.member.SetReady(tc.ready)
			c, in := m.dial(t)
			_, _ = io.WriteString(c, tc.request)
			status := 499
			switch {
			case !tc.ready:
				waitUntil(t, func() bool { return m.pool.Stats().Queued == 1 })
			case tc.engine != "":
				status = 200
				if _, err := in.ReadString('a'); err != nil {
					t.Fatal(err)
				}
			case tc.name != "small upload": // which no engine is bothered with
				<-reached
			default:
				waitUntil(t, func() bool { return m.member.InFlight() == 1 })
			}
			_ = c.Close()
			r := m.record(t)
			if r.Outcome != exchange.OutcomeClientGone || r.Status != status {
				t.Errorf("outcome %s, status %d, %v", r.Outcome, r.Status, r.Err)
			}
			if s := m.pool.Stats(); s.Queued != 0 || s.Members[0].InFlight != 0 || s.Members[0].Ready != tc.ready {
				t.Errorf("pool %+v", s)
			}
			if tc.ready && tc.name != "small upload" {
				select {
				case <-left:
				case <-time.After(patience):
					t.Error("the engine was not told")
				}
			}
		})
	}
}

// waitUntil polls what has no event to wait for.
func waitUntil(tb testing.TB, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatal("not reached")
		}
	}
}

// An engine that dies in the middle of its answer: the client sees it.
func TestEngineDiesMidAnswer(t *testing.T) {
	for name, answer := range map[string]string{
		"sized":   "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
		"large":   "HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + strings.Repeat("half", 100000),
		"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
	} {
		m := start(t, func(c net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.WriteString(c, answer)
			}
		})
		for version, client := range map[string]*http.Client{"http/1.1": {Timeout: patience}, "http/2": http2Client(t)} {
			t.Run(name+" "+version, func(t *testing.T) {
				r, err := client.Get("http://" + m.addr)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Body.Close()
				if body, err := io.ReadAll(r.Body); err == nil {
					t.Errorf("%d bytes, and a clean end", len(body))
				}
				if rec := m.record(t); rec.Outcome != exchange.OutcomeUpstreamBroke || rec.Status != 200 {
					t.Errorf("outcome %s, status %d, %v", rec.Outcome, rec.Status, rec.Err)
				}
			})
		}
	}
}

func TestEngineDiesBeforeItsAnswer(t *testing.T) {
	m := start(t, func(c net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(c)) })
	for version, client := range map[string]*http.Client{"http/1.1": {Timeout: patience}, "http/2": http2Client(t)} {
		t.Run(version, func(t *testing.T) {
			r, err := client.Post("http://"+m.addr, "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, _ := io.ReadAll(r.Body)
			if r.StatusCode != http.StatusBadGateway || !strings.Contains(string(body), `"type":"upstream_error"`) {
				t.Errorf("%d %s", r.StatusCode, body)
			}
		})
	}
}

// Nobody listens: the member leaves the pool, the request waits for another.
func TestRefusedConnectionTakesTheMemberOut(t *testing.T) {
	m := start(t, served(func(w io.Writer, _ *http.Request) {
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}))
	dead := m.pool.Add("dead", 1)
	dead.Reset(steady.Reserve(t, "127.0.0.1"))
	dead.SetReady(true)
	for range 4 {
		r, err := http.Get("http://" + m.addr)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		if r.StatusCode != http.StatusOK {
			t.Errorf("status %d", r.StatusCode)
		}
	}
	if dead.Ready() {
		t.Error("still in the pool")
	}
}

func TestMalformedChunkIsNotTheEnginesFault(t *testing.T) {
	m := start(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	c, in := m.dial(t)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, _ := io.ReadAll(r.Body); r.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "bad_body") {
		t.Errorf("%d %s", r.StatusCode, body)
	}
	if rec := m.record(t); rec.Outcome != exchange.OutcomeClientError || !m.member.Ready() {
		t.Errorf("outcome %s, member ready: %v", rec.Outcome, m.member.Ready())
	}
}

// An engine that refuses an upload early: the client gets the refusal.
func TestEarlyRefusal(t *testing.T) {
	m := start(t, func(c net.Conn) {
		_, _ = http.ReadRequest(bufio.NewReader(c))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
	})
	c, in := m.dial(t)
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n"+strings.Repeat("x", 300000))
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if body, err := io.ReadAll(r.Body); r.StatusCode != http.StatusRequestEntityTooLarge || string(body) != "big" {
		t.Errorf("%d %q %v", r.StatusCode, body, err)
	}
	if _, err := in.ReadByte(); err == nil {
		t.Error("the connection goes on")
	}
}

// While the pool is closed, new requests on old connections are told so.
func TestPoolClosed(t *testing.T) {
	m := start(t, served(func(w io.Writer, _ *http.Request) {
		_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}))
	c, in := m.dial(t)
	ask := func() int {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
		r, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		return r.StatusCode
	}
	if status := ask(); status != http.StatusOK {
		t.Errorf("status %d", status)
	}
	m.front.Drain()
	m.pool.Close()
	if status := ask(); status != http.StatusServiceUnavailable {
		t.Errorf("status %d", status)
	}
}

// Cut tells those who have had nothing yet, and visibly breaks the others.
func TestCutWithEngine(t *testing.T) {
	begun := make(chan struct{}, 2)
	m := start(t, served(func(w io.Writer, r *http.Request) {
		if r.URL.Path == "/stream" {
			_, _ = io.WriteString(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		}
		begun <- struct{}{}
	}))
	type result struct {
		status int
		err    error
	}
	results := make(map[string]chan result)
	for _, path := range []string{"/stream", "/silent"} {
		ch := make(chan result, 1)
		results[path] = ch
		go func() {
			r, err := http.Get("http://" + m.addr + path)
			if err != nil {
				ch <- result{err: err}
				return
			}
			defer r.Body.Close()
			_, err = io.ReadAll(r.Body)
			ch <- result{r.StatusCode, err}
		}()
	}
	<-begun
	<-begun
	waitUntil(t, func() bool { return m.front.InFlight() == 2 })
	if n := m.front.Cut(exchange.ErrShutdown); n != 2 {
		t.Errorf("cut %d", n)
	}
	if got := <-results["/stream"]; got.err == nil {
		t.Errorf("stream: %+v, want it broken", got)
	}
	if got := <-results["/silent"]; got.status != http.StatusServiceUnavailable || got.err != nil {
		t.Errorf("silent: %+v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := m.front.WaitIdle(ctx); err != nil {
		t.Error(err)
	}
	for range 2 {
		if r := m.record(t); r.Outcome != exchange.OutcomeShutdown || !errors.Is(r.Err, exchange.ErrShutdown) {
			t.Errorf("outcome %s, %v", r.Outcome, r.Err)
		}
	}
}

// Many short POST streams, the answer racing with the end of the body; in
// other proxies 1.7 % of these were lost.
func TestShortPostStreams(t *testing.T) {
	m := start(t, served(func(w io.Writer, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(body), body)
		_, _ = io.WriteString(w, "0\r\n\r\n")
	}))
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			tr := &http.Transport{MaxIdleConnsPerHost: 1}
			defer tr.CloseIdleConnections()
			client := &http.Client{Transport: tr, Timeout: patience}
			for i := range 250 {
				want := fmt.Sprintf("%d/%d", worker, i)
				// No length: the body is chunked and its end comes apart.
				r, err := client.Post("http://"+m.addr, "text/plain", io.MultiReader(strings.NewReader(want)))
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(r.Body)
				_ = r.Body.Close()
				if err != nil || string(body) != want || r.StatusCode != http.StatusOK {
					t.Errorf("%s: %d %q %v", want, r.StatusCode, body, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestLargeDownload(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	m := start(t, served(func(w io.Writer, _ *http.Request) {
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content))
		_, _ = w.Write(content)
	}))
	for version, client := range map[string]*http.Client{"http/1.1": {Timeout: patience}, "http/2": http2Client(t)} {
		t.Run(version, func(t *testing.T) {
			r, err := client.Get("http://" + m.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || !bytes.Equal(body, content) {
				t.Errorf("%d bytes, %v", len(body), err)
			}
			if rec := m.record(t); rec.BytesOut != int64(len(content)) || rec.Outcome != exchange.OutcomeOK {
				t.Errorf("record %+v", rec)
			}
		})
	}
}
