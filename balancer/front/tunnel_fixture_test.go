package front_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"stoker/internal/websocket"
)

// opening is the RFC's handshake with what a case adds to it.
func opening(line string, fields ...string) string {
	return line + "\r\nHost: a\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

const (
	wsKey     = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
	wsVersion = "Sec-WebSocket-Version: 13"
	wsUpgrade = "Upgrade: websocket"
	wsConn    = "Connection: Upgrade"
	wsAccept  = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	switching = "HTTP/1.1 101 Switching Protocols\r\n"
)

var goodOpening = opening("GET /ws?q=1 HTTP/1.1", wsUpgrade, wsConn, wsKey, wsVersion, "Sec-WebSocket-Protocol: chat")

// text is a frame, a client's where it is masked.
func text(s string, masked bool) []byte {
	f := []byte{0x81}
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	switch {
	case len(s) < 126:
		f = append(f, mask|byte(len(s)))
	case len(s) < 1<<16:
		f = binary.BigEndian.AppendUint16(append(f, mask|126), uint16(len(s)))
	default:
		f = binary.BigEndian.AppendUint64(append(f, mask|127), uint64(len(s)))
	}
	if masked {
		f = append(f, 0, 0, 0, 0)
	}
	return append(f, s...)
}

func closing(code uint16, masked bool) []byte {
	f := []byte{0x88, 2}
	if masked {
		f = []byte{0x88, 0x82, 0, 0, 0, 0}
	}
	return binary.BigEndian.AppendUint16(f, code)
}

// socket is an engine that opens a WebSocket and lends it to a test.
type socket struct {
	net.Conn
	in      *bufio.Reader
	request *http.Request
	done    chan struct{}
}

// sockets gives each connection that asks for a WebSocket to the test, when it has
// said 101. With behind, that follows in the same write.
func sockets(behind string) (engine func(net.Conn), opened chan *socket) {
	opened = make(chan *socket, 10)
	return func(c net.Conn) {
		in := bufio.NewReader(c)
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		_, _ = io.WriteString(c, switching+"upgrade: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n"+
			"Sec-WebSocket-Accept: "+websocket.Accept(r.Header.Get("Sec-WebSocket-Key"))+"\r\nSec-WebSocket-Protocol: chat\r\n\r\n"+behind)
		s := &socket{Conn: c, in: in, request: r, done: make(chan struct{})}
		opened <- s
		<-s.done
	}, opened
}

// open makes a tunnel, and returns both of its ends.
func open(tb testing.TB, m *machine, opened chan *socket) (client net.Conn, in *bufio.Reader, engine *socket) {
	tb.Helper()
	client, in = m.dial(tb)
	_, _ = io.WriteString(client, goodOpening)
	r, err := http.ReadResponse(in, nil) //nolint:bodyclose // 101 has none
	if err != nil || r.StatusCode != http.StatusSwitchingProtocols {
		tb.Fatal(r, err)
	}
	engine = <-opened
	tb.Cleanup(func() { close(engine.done) })
	_ = engine.SetDeadline(time.Now().Add(patience))
	return client, in, engine
}

func expect(tb testing.TB, in io.Reader, want []byte) {
	tb.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(in, got); err != nil || !bytes.Equal(got, want) {
		tb.Fatalf("%.80q, %v, want %.80q", got[:n], err, want)
	}
}

// ends fails unless nothing more comes.
func ends(tb testing.TB, in io.Reader) {
	tb.Helper()
	rest, err := io.ReadAll(in)
	if len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		tb.Errorf("%.80q, %v", rest, err)
	}
}
