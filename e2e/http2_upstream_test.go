//go:build e2e

package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestHTTP2ToEngines: what clients of either version see of an engine is the same
// when it is spoken to in HTTP/2.
func TestHTTP2ToEngines(t *testing.T) {
	waits(t)
	s := newSecure(t)
	m := start(t, "access_log = \"off\"\n"+s.config+"[[pools]]\nname = \"p\"\nprotocol = \"h2\"\nworkers = 2\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").allReady()
	h2load := tool(t, "h2load", "apt-get install nghttp2-client")
	for _, at := range []string{m.url("/work"), s.url("/work")} {
		out, err := exec.Command(h2load, "-n", "3000", "-c", "3", "-m", "30", at).CombinedOutput()
		if n := number(out, `(\d+) 2xx`); err != nil || n != 3000 {
			t.Errorf("%s: %d of 3000 answers were 2xx, %v: %s", at, n, err, out)
		}
	}
	if a := (&caller{address: m.address}).get("/work"); a.outcome != complete || string(a.body) != wholeAnswer {
		t.Errorf("over HTTP/1.1: %v", a)
	}
	for _, http2 := range []bool{false, true} {
		c := s.client(t, http2)
		r, err := c.Get(s.url("/break"))
		if err == nil {
			_, err = io.ReadAll(r.Body)
			r.Body.Close()
		}
		if err == nil {
			t.Errorf("HTTP/2 %v: half an answer looks whole", http2)
		}
		r, err = c.Get(s.url("/head?a=b;c%20d"))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if !strings.Contains(string(text), `"target":"/head?a=b;c%20d"`) || !strings.Contains(string(text), `"host":"`+s.address) {
			t.Errorf("the engine sees %.300s", text)
		}
	}
	conn := s.dial(t, &tls.Config{})
	fmt.Fprint(conn, "GET /hold?id=h2 HTTP/1.1\r\nHost: a\r\n\r\n")
	m.eventually("the engine has the request", func() bool { return slices.Contains(m.engineEvents(), "held h2") })
	conn.Close()
	m.eventually("the engine knows that it is over", func() bool { return slices.Contains(m.engineEvents(), "gone h2") })

	conn = s.dial(t, &tls.Config{})
	fmt.Fprint(conn, "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	r, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusNotImplemented {
		t.Errorf("a WebSocket: %s", r.Status)
	}
	m.stop()
}

// TestProtocolIsChangedByAReload: engines that are to be spoken to in another
// protocol are rolled, and no request fails meanwhile.
func TestProtocolIsChangedByAReload(t *testing.T) {
	waits(t)
	m := start(t, "[[pools]]\nname = \"p\"\nprotocol = \"http/1.1\"\nworkers = 2\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").allReady()
	stop := m.load(4, "/work?ms=1")
	pids := []int{m.worker("p-0").PID, m.worker("p-1").PID}
	for _, c := range [][2]string{{"http/1.1", "h2"}, {"h2", "http/1.1"}} {
		m.rewrite(fmt.Sprintf("protocol = %q", c[0]), fmt.Sprintf("protocol = %q", c[1]))
		m.mustCommand("reload")
		now := []int{m.worker("p-0").PID, m.worker("p-1").PID}
		if now[0] == pids[0] || now[1] == pids[1] {
			t.Errorf("to %s: engines %v became %v", c[1], pids, now)
		}
		pids = now
	}
	if ended, _ := stop(); ended.except(string(complete)) != "" {
		t.Errorf("not every request was answered whole: %s", ended.except(string(complete)))
	}
	m.stop()
}
