//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// What WebSockets' frames say that is of interest here. None is longer than 125 bytes.
const (
	frameText  = 0x81
	frameClose = 0x88
)

// readFrame reads one frame, masked or not.
func readFrame(in io.Reader) (kind byte, payload []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	var mask [4]byte
	if head[1]&0x80 != 0 {
		if _, err := io.ReadFull(in, mask[:]); err != nil {
			return 0, nil, err
		}
	}
	payload = make([]byte, head[1]&0x7f)
	if _, err := io.ReadFull(in, payload); err != nil {
		return 0, nil, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0], payload, nil
}

// echoFrames is an engine's WebSocket.
func echoFrames(w http.ResponseWriter, r *http.Request) {
	c, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	for {
		kind, payload, err := readFrame(buffered)
		if err != nil {
			return
		}
		if _, err := c.Write(append([]byte{kind, byte(len(payload))}, payload...)); err != nil || kind == frameClose {
			return
		}
	}
}

// converse opens a WebSocket over TLS, and has what it says sent back to it until
// over, or until it is asked to go, which is said as "asked to go"; anything
// else that ends it is said as what it is.
func (s *secure) converse(t *testing.T, over *atomic.Bool) (what, example string) {
	t.Helper()
	c, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		return "not connected", err.Error()
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * patience))
	fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	in := bufio.NewReader(c)
	r, err := http.ReadResponse(in, nil)
	if err != nil {
		return "no answer", err.Error()
	}
	r.Body.Close()
	if r.StatusCode != http.StatusSwitchingProtocols {
		return "refused", r.Status
	}
	for n := 0; !over.Load(); n++ {
		text := fmt.Sprint("message ", n)
		if _, err := c.Write(append([]byte{frameText, 0x80 | byte(len(text)), 0, 0, 0, 0}, text...)); err != nil {
			return "broken", err.Error()
		}
		kind, payload, err := readFrame(in)
		switch {
		case err != nil:
			return "broken", err.Error()
		case kind == frameClose && len(payload) >= 2 && int(payload[0])<<8|int(payload[1]) == 1001:
			_, _ = c.Write(append([]byte{frameClose, 0x80 | byte(len(payload)), 0, 0, 0, 0}, payload...))
			return "asked to go", string(payload[2:])
		case kind != frameText || string(payload) != text:
			return "something else", fmt.Sprintf("%x %q", kind, strings.ToValidUTF8(string(payload), "?"))
		}
		time.Sleep(5 * time.Millisecond) // more would only be load
	}
	return "ok", ""
}
