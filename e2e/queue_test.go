//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// TestQueueOrder: who waits is served by priority, then in the order of
// arrival; who hangs up loses the place, and the engine never hears of it.
func TestQueueOrder(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nmax_concurrency = 1\nqueue.length = 5\nqueue.priority_header = \"X-Priority\"\ncommand = "+
		list(engine("--socket", "{socket}")...)+"\n").allReady()
	open := func(id string, fields ...string) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", m.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "GET /hold?id=%s HTTP/1.1\r\nHost: x\r\n%s\r\n", id, strings.Join(append(fields, ""), "\r\n"))
		return conn
	}
	queued := func(n float64) {
		t.Helper()
		m.eventually(fmt.Sprintf("%v wait", n), func() bool { return m.metric("stoker_queue_length") == n })
	}
	conns := map[string]net.Conn{"first": open("first")}
	m.eventually("the first on the engine", func() bool { return m.noted("held first") })
	for i, id := range []string{"a", "gone", "b", "urgent", "c"} {
		var fields []string
		if id == "urgent" {
			fields = []string{"X-Priority: 5"}
		}
		conns[id] = open(id, fields...)
		queued(float64(i + 1))
	}
	// The queue is full: the next one is turned away at once.
	if a := (&caller{address: m.address}).get("/work"); a.status != 429 || !strings.Contains(string(a.body), `"queue_full"`) || a.header.Get("Retry-After") == "" {
		t.Errorf("%v, want 429 queue_full with Retry-After", a)
	}
	conns["gone"].Close()
	queued(4)
	order := []string{"first", "urgent", "a", "b", "c"}
	for _, id := range order {
		m.eventually(id+" on the engine", func() bool { return m.noted("held " + id) })
		conns[id].Close()
	}
	m.eventually("the last gone", func() bool { return m.noted("gone c") })
	var held []string
	for _, line := range m.engineEvents() {
		if id, ok := strings.CutPrefix(line, "held "); ok {
			held = append(held, id)
		}
	}
	if !slices.Equal(held, order) {
		t.Errorf("the engine had %v, want %v", held, order)
	}
	m.stop()
}

// testServer is an upstream inside the test, whose probes are always answered.
func testServer(t *testing.T, answer http.HandlerFunc) (address string, end func()) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/", answer)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	return listener.Addr().String(), func() { server.Close() }
}

// TestBreakerAndRetries: a server that breaks every request gets none after
// five, until one that it answers well; one that refuses connections fails
// nobody.
func TestBreakerAndRetries(t *testing.T) {
	var sick atomic.Bool
	sick.Store(true)
	var trials atomic.Int64
	bad, _ := testServer(t, func(w http.ResponseWriter, _ *http.Request) {
		if sick.Load() {
			panic(http.ErrAbortHandler)
		}
		trials.Add(1)
		fmt.Fprint(w, "bad")
	})
	good, _ := testServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "good") })
	gone, end := testServer(t, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "gone") })
	m := start(t, fmt.Sprintf("[[pools]]\nname = \"p\"\npolicy = \"round_robin\"\nbreaker.open = \"2s\"\nhealth.interval = \"1h\"\n"+
		"[[pools.servers]]\nname = \"bad\"\naddress = %q\n[[pools.servers]]\nname = \"good\"\naddress = %q\n[[pools.servers]]\nname = \"gone\"\naddress = %q\n", bad, good, gone))
	ready := func(n float64) func() bool {
		return func() bool { return m.answersAdmin() && m.metric("stoker_upstream_ready") == n }
	}
	m.eventually("all up", ready(3))
	c := &caller{address: m.address}
	ask := func(n int) *tally {
		ended := newTally()
		for range n {
			a := c.get("/")
			ended.add(fmt.Sprintf("%d %.4s", a.status, a.body), a.String())
		}
		return ended
	}
	end()
	// The next ones in turn meet the closed port, and go elsewhere.
	if ended := ask(15); ended.count("502 {\"er") != 5 || ended.except("502 {\"er", "200 good", "200 gone") != "" {
		t.Errorf("while one is sick and one gone: %s", ended.except())
	}
	if n := m.metric("stoker_request_retries_total", `reason="connect_failed"`) + m.metric("stoker_request_retries_total", `reason="connection_lost"`); n != 1 {
		t.Errorf("%v retries, want one: who refuses is taken out at once", n)
	}
	open := func(state string) bool {
		return m.metric("stoker_breaker_state", `worker="bad"`, `state="`+state+`"`) == 1
	}
	if !open("open") || m.metric("stoker_breaker_opened_total", `worker="bad"`) != 1 {
		t.Error("the breaker is not open after five failures")
	}
	if ended := ask(20); ended.count("200 good") != 20 {
		t.Errorf("while the breaker is open: %s", ended.except())
	}
	sick.Store(false)
	m.eventually("half open", func() bool { return open("half_open") })
	if ended := ask(1); ended.count("200 bad")+ended.count("200 good") != 1 {
		t.Errorf("the trial: %s", ended.except())
	}
	m.eventually("closed, by an answer", func() bool { return ask(1).except("200 good", "200 bad") == "" && open("closed") })
	if trials.Load() == 0 {
		t.Error("it was closed without a trial")
	}
	m.stop()
}
