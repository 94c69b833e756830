//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// webSocket is a client's, in a Node of its own.
type webSocket struct {
	m     *master
	in    io.Writer
	lines chan wsEvent
}

// wsEvent is what has befallen it.
type wsEvent struct {
	Open   *string
	Error  string
	Text   string
	Bytes  int
	Code   int
	Reason string
}

// webSocket opens one; kind is "ws" or "builtin".
func (m *master) webSocket(kind, path string) *webSocket {
	m.t.Helper()
	return m.webSocketAt(kind, "ws://"+m.address+path)
}

// webSocketAt opens one at a URL, with what is added to the client's environment.
func (m *master) webSocketAt(kind, url string, env ...string) *webSocket {
	m.t.Helper()
	modules := nodeModule(m.t, "ws")
	args := []string{"testdata/websocket.cjs", url, kind}
	if kind == "builtin" {
		args = append(builtinWebSocket(m.t), args...)
	}
	cmd := exec.Command("node", args...)
	cmd.Env = append(append(os.Environ(), "NODE_PATH="+modules), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	w := &webSocket{m: m, in: in, lines: make(chan wsEvent, 100)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(w.lines)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var e wsEvent
			if json.Unmarshal(lines.Bytes(), &e) == nil {
				w.lines <- e
			}
		}
		_ = cmd.Wait()
	}()
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
	})
	return w
}

// builtinWebSocket returns the flags with which Node has a WebSocket of its own.
func builtinWebSocket(t *testing.T) []string {
	t.Helper()
	for _, flags := range [][]string{nil, {"--experimental-websocket"}} {
		if exec.Command("node", append(flags, "-e", "process.exit(globalThis.WebSocket ? 0 : 1)")...).Run() == nil {
			return flags
		}
	}
	missing(t, "a Node with a WebSocket of its own", "Node 22, or 20.10 and later")
	return nil
}

// next is what happens next.
func (w *webSocket) next() wsEvent {
	w.m.t.Helper()
	select {
	case e, more := <-w.lines:
		if !more {
			w.m.t.Fatal("the WebSocket's client has ended")
		}
		return e
	case <-time.After(patience):
		w.m.t.Fatal("nothing happens to the WebSocket")
	}
	panic("unreachable")
}

// opened waits until it is open and the application has said so.
func (w *webSocket) opened() *webSocket {
	w.m.t.Helper()
	if e := w.next(); e.Open == nil || *e.Open != "echo" {
		w.m.t.Fatalf("not opened with the subprotocol: %+v", e)
	}
	if e := w.next(); !strings.HasPrefix(e.Text, "hello from app-") {
		w.m.t.Fatalf("no hello: %+v", e)
	}
	return w
}

func (w *webSocket) send(line string) { _, _ = io.WriteString(w.in, line+"\n") }

// echoes fails unless a message comes back.
func (w *webSocket) echoes(text string) {
	w.m.t.Helper()
	w.send(text)
	if e := w.next(); e.Text != text {
		w.m.t.Fatalf("sent %q, got %+v", text, e)
	}
}

// closes fails unless it is closed next, with a code.
func (w *webSocket) closes(code int) {
	w.m.t.Helper()
	e := w.next()
	if e.Error != "" { // Node's own says so before it closes abnormally
		e = w.next()
	}
	if e.Code != code {
		w.m.t.Errorf("closed with %+v, want %d", e, code)
	}
}

// TestWebSocket leads real clients' WebSockets to a FastAPI application through
// all that may happen around them.
func TestWebSocket(t *testing.T) {
	waits(t)
	m := start(t, "shutdown.drain_timeout = \"6s\"\nclients.body_mib = 5\n"+fastapi(t, 1)).allReady()
	for _, kind := range []string{"ws", "builtin"} {
		w := m.webSocket(kind, "/ws/echo").opened()
		w.echoes("ä text")
		w.send("binary 300000")
		if e := w.next(); e.Bytes != 300000 {
			t.Errorf("%s: %+v", kind, e)
		}
		w.send("send 3000000")
		if e := w.next(); e.Bytes != 3000000 {
			t.Errorf("%s: %+v", kind, e)
		}
		w.send("bye")
		w.closes(1000)
		w = m.webSocket(kind, "/ws/echo").opened()
		w.send("close 4001")
		w.closes(4001)
	}
	m.webSocket("ws", "/ws/refuse").closes(1006) // 403
	m.eventually("no WebSocket left", func() bool { return m.metric("stoker_tunnels") == 0 })

	w := m.webSocket("ws", "/ws/echo").opened()
	if n, busy := m.metric("stoker_tunnels", `worker="app-0"`), m.worker("app-0").InFlight; n != 1 || busy != 1 {
		t.Errorf("%v WebSockets, %d requests in flight, want 1 and 1", n, busy)
	}
	m.rewrite("clients.body_mib = 5", "clients.body_mib = 6")
	m.mustCommand("reload")
	w.echoes("after a reload that is none of its business")

	m.mustCommand("upgrade")
	began := time.Now()
	w.echoes("after an upgrade")
	younger := m.webSocket("ws", "/ws/echo").opened()
	younger.echoes("in the new generation")
	w.closes(1001) // as the old generation's time is over
	if lasted := time.Since(began); lasted < 2*time.Second {
		t.Errorf("the old generation kept it for %v only", lasted)
	}
	younger.echoes("after the old generation's end")

	if err := syscall.Kill(m.worker("app-0").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	younger.closes(1006)
	m.eventually("another engine", func() bool { w := m.worker("app-0"); return w.State == "ready" && w.Restarts == 1 })

	w = m.webSocket("ws", "/ws/echo").opened()
	m.mustCommand("restart", "app-0")
	w.closes(1001)
	w = m.webSocket("builtin", "/ws/echo").opened()
	m.mustCommand("shutdown")
	w.closes(1001)
	m.nothingLeft()
	if broken := len(m.logLines("panic")); broken > 0 {
		t.Errorf("%d panics", broken)
	}
}

// TestWebSocketAskedBadly: what is no handshake never reaches the application.
func TestWebSocketAskedBadly(t *testing.T) {
	m := start(t, fakePool(1)).allReady()
	for want, fields := range map[int][]string{
		http.StatusBadRequest:      {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"},
		http.StatusUpgradeRequired: {"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 7", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="},
		http.StatusOK:              {"Connection: Upgrade", "Upgrade: h2c"},
	} {
		c := caller{address: m.address, keepAlive: true}
		if a := c.get("/work", fields...); a.outcome != complete || a.status != want {
			t.Errorf("%q: %v, want %d", fields, a, want)
		}
		c.close()
	}
	m.stop()
}
