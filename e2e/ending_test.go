//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// politely answers as an engine does that dies with good manners: the stream's
// framing ends as it should, and some of the answer is missing.
func politely(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	for i := range 5 {
		fmt.Fprintf(w, "data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\" %d\"},\"finish_reason\":null}]}\n\n", i)
		w.(http.Flusher).Flush()
	}
	switch r.FormValue("end") {
	case "finish":
		fmt.Fprint(w, "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n")
	case "done":
		fmt.Fprint(w, "data: [DONE]\n\n")
	case "ping":
		fmt.Fprint(w, ": ping\n\n")
	}
}

// TestCleanEndsAreNone: half an answer that an engine ends cleanly breaks for
// clients of either version, whichever the engine speaks, and nothing is to be configured for it.
func TestCleanEndsAreNone(t *testing.T) {
	waits(t)
	both := new(http.Protocols)
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	engine := httptest.NewUnstartedServer(http.HandlerFunc(politely))
	engine.Config.Protocols = both
	engine.Start()
	t.Cleanup(engine.Close)
	address := engine.Listener.Addr().String()
	closes := served(t, "tcp", requests(func(c net.Conn, r *http.Request) bool { // a body that only the connection's end ends
		answer := httptest.NewRecorder()
		politely(answer, r)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n%s", answer.Body)
		return false
	}))
	s := newSecure(t)
	m := start(t, s.config+closes+
		"[[pools]]\nname = \"h1\"\n[[pools.servers]]\naddress = \""+address+"\"\n"+
		"[[pools]]\nname = \"h2\"\nprotocol = \"h2\"\n[[pools.servers]]\naddress = \""+address+"\"\n"+
		"[[routes]]\npath = \"/far\"\npool = \"far\"\n[[routes]]\npath = \"/h2\"\npool = \"h2\"\n[[routes]]\npool = \"h1\"\n").allReady()
	for _, w := range ways(t, m, s) {
		for _, pool := range []string{"h1", "h2", "far"} {
			for end, whole := range map[string]bool{"": false, "ping": false, "finish": true, "done": true} {
				for _, path := range []string{"/v1/chat/completions", "/v1/events"} {
					at := fmt.Sprintf("/%s%s?end=%s", pool, path, end)
					r, err := w.client.Post(w.base+at, "application/json", strings.NewReader(`{"stream":true}`))
					if err != nil {
						t.Fatalf("%s, %s: %v", w.name, at, err)
					}
					text, err := io.ReadAll(r.Body)
					r.Body.Close()
					if want := whole || path == "/v1/events"; (err == nil) != want {
						t.Errorf("%s, %s: %v after %q", w.name, at, err, text)
					}
					if n := strings.Count(string(text), "content"); n != 5 {
						t.Errorf("%s, %s: %d of 5 events came", w.name, at, n)
					}
				}
			}
		}
	}
	if n := m.metric("stoker_request_outcomes_total", `outcome="upstream_broke"`); n != 4*3*2 {
		t.Errorf("%v are said to have broken", n)
	}
	m.stop()
}
