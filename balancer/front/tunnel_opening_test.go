package front_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"stoker/exchange"
)

// What asks for a WebSocket and does not do so as it should is refused; what asks
// for something else, or not at all, is answered as if it had not.
func TestOpeningHandshakes(t *testing.T) {
	const get = "GET / HTTP/1.1"
	for _, tc := range []struct {
		name   string
		raw    string
		status int
		code   string // of the refusal; empty: the engine's answer
		heard  string
	}{
		{"POST", opening("POST / HTTP/1.1", wsUpgrade, wsConn, wsKey, wsVersion), 400, "bad_websocket", ""},
		{"a body", opening(get, wsUpgrade, wsConn, wsKey, wsVersion, "Content-Length: 2") + "{}", 400, "bad_websocket", ""},
		{"a chunked body", opening(get, wsUpgrade, wsConn, wsKey, wsVersion, "Transfer-Encoding: chunked") + "0\r\n\r\n", 400, "bad_websocket", ""},
		{"no key", opening(get, wsUpgrade, wsConn, wsVersion), 400, "bad_websocket", ""},
		{"two keys", opening(get, wsUpgrade, wsConn, wsKey, wsKey, wsVersion), 400, "bad_websocket", ""},
		{"a short key", opening(get, wsUpgrade, wsConn, "Sec-WebSocket-Key: AAAA", wsVersion), 400, "bad_websocket", ""},
		{"a key that is nominated", opening(get, wsUpgrade, wsConn+", Sec-WebSocket-Key", wsKey, wsVersion), 400, "bad_websocket", ""},
		{"no version", opening(get, wsUpgrade, wsConn, wsKey), 400, "bad_websocket", ""},
		{"another version", opening(get, wsUpgrade, wsConn, wsKey, "Sec-WebSocket-Version: 8"), 426, "websocket_version", ""},
		{"HTTP/1.0", opening("GET / HTTP/1.0", wsUpgrade, wsConn+", keep-alive", wsKey, wsVersion), 200, "", `GET / a ""`},
		{"no Connection", opening(get, wsUpgrade, wsKey, wsVersion), 200, "", `GET / a ""`},
		{"another Connection", opening(get, wsUpgrade, "Connection: keep-alive", wsKey, wsVersion), 200, "", `GET / a ""`},
		{"no Upgrade", opening(get, wsConn, wsKey, wsVersion), 200, "", `GET / a ""`},
		{"h2c", opening(get, "Upgrade: h2c", wsConn+", HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAAP__"), 200, "", `GET / a ""`},
		{"another protocol", opening(get, "Upgrade: TLS/1.0, foo", wsConn), 200, "", `GET / a ""`},
		{"one of several, which the engine does not take", opening(get, "Upgrade: foo, WebSocket", "Connection: close-not, upgrade", wsKey, wsVersion), 200, "", `GET / a "" Connection=["Upgrade"] Upgrade=["websocket"]`},
	} {
		for how, write := range writers {
			t.Run(tc.name+", "+how, func(t *testing.T) {
				var engine listener
				m := start(t, engine.serve)
				c, in := m.dial(t)
				write.send(t, c, tc.raw+"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")
				r, body := status(t, in, tc.status)
				if tc.code != "" && !strings.Contains(body, `"code":"`+tc.code+`"`) {
					t.Errorf("%s, want %s", body, tc.code)
				}
				if tc.status == http.StatusUpgradeRequired && (r.Header.Get("Sec-WebSocket-Version") != "13" || r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade")) {
					t.Errorf("426 with %v", r.Header)
				}
				if r.Close && strings.Contains(tc.raw, "chunked") {
					// Of a body whose end had not come by then nobody knows how much it is: the connection ends, and says so.
					if heard := engine.told(); len(heard) > 0 {
						t.Errorf("the engine was told %q", heard)
					}
					return
				}
				status(t, in, http.StatusOK) // what follows is another request
				want := []string{`GET /next a ""`}
				if tc.heard != "" {
					want = []string{tc.heard, want[0]}
				}
				if heard := engine.told(); fmt.Sprint(heard) != fmt.Sprint(want) {
					t.Errorf("the engine was told %q, want %q", heard, want)
				}
			})
		}
	}
}

// What is no acceptance is a 502, and none of what follows it reaches the client.
func TestBadAcceptances(t *testing.T) {
	for _, tc := range []struct{ name, request, answer, why string }{
		{"not asked for", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", switching + wsUpgrade + "\r\n" + wsConn + "\r\n" + wsAccept, "nobody asked for"},
		{"to something else", goodOpening, switching + "Upgrade: foo\r\n" + wsConn + "\r\n" + wsAccept, "something else"},
		{"no Upgrade", goodOpening, switching + wsConn + "\r\n" + wsAccept, "something else"},
		{"no Connection", goodOpening, switching + wsUpgrade + "\r\n" + wsAccept, "something else"},
		{"in HTTP/1.0", goodOpening, "HTTP/1.0 101 Switching Protocols\r\n" + wsUpgrade + "\r\n" + wsConn + "\r\n" + wsAccept, "something else"},
		{"no Accept", goodOpening, switching + wsUpgrade + "\r\n" + wsConn, "Sec-WebSocket-Accept"},
		{"a wrong Accept", goodOpening, switching + wsUpgrade + "\r\n" + wsConn + "\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "Sec-WebSocket-Accept"},
		{"two Accepts", goodOpening, switching + wsUpgrade + "\r\n" + wsConn + "\r\n" + wsAccept + "\r\n" + wsAccept, "Sec-WebSocket-Accept"},
		{"a body", goodOpening, switching + wsUpgrade + "\r\n" + wsConn + "\r\n" + wsAccept + "\r\nContent-Length: 5", "interim answer with a body"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := start(t, func(c net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
					_, _ = io.WriteString(c, tc.answer+"\r\n\r\nsecret")
				}
			})
			c, in := m.dial(t)
			_, _ = io.WriteString(c, tc.request)
			if _, body := status(t, in, http.StatusBadGateway); strings.Contains(body, "secret") {
				t.Error(body)
			}
			if r := m.record(t); r.Err == nil || !strings.Contains(r.Err.Error(), tc.why) || r.Outcome != exchange.OutcomeUpstreamError {
				t.Errorf("%s: %v, want %s", r.Outcome, r.Err, tc.why)
			}
		})
	}
}
