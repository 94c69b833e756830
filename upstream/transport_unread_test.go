package upstream

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
)

// TestUnread: what is known of a request whose engine has ended.
func TestUnread(t *testing.T) {
	half := func(n int64) func(net.Conn) {
		return func(c net.Conn) { io.CopyN(io.Discard, c, n) }
	}
	whole := func(c net.Conn) {
		if r, err := http.ReadRequest(bufio.NewReaderSize(c, 1<<20)); err == nil {
			io.Copy(io.Discard, r.Body)
		}
	}
	untilLast := func(c net.Conn) { // an engine for which a body ends there
		var had []byte
		for b := make([]byte, 1); !bytes.HasSuffix(had, []byte("\r\n0\r\n")); had = append(had, b...) {
			if _, err := c.Read(b); err != nil {
				return
			}
		}
	}
	small, large := []byte("body"), bytes.Repeat([]byte("body"), 4<<20)
	// What does not fit into the buffers of the other side, and may into those of this one.
	buffered := bytes.Repeat([]byte("body"), 100<<10)
	for _, tc := range []struct {
		name   string
		engine func(net.Conn)
		body   []byte
		unread bool
		chunks bool
	}{
		{"hardly any of it", half(1), small, true, false},
		{"half of it", half(20), small, true, false},
		{"all of it", whole, small, false, false},
		{"a large one: half of it", half(1 << 20), large, true, false},
		{"a large one: all of it", whole, large, false, false},
		{"in chunks: all but the very end", untilLast, small, false, true},
		{"in chunks: all of it", whole, small, false, true},
		{"a large one, in chunks: half of it", half(1 << 20), large, true, true},
		{"a large one, in chunks: all of it", whole, large, false, true},
		{"buffered, in chunks: hardly any of it", half(1), buffered, true, true},
	} {
		for _, network := range transports {
			t.Run(network+"/"+tc.name, func(t *testing.T) {
				s := serve(t, network, tc.engine)
				x := post(tc.body)
				if tc.chunks {
					x.Length = -1
				}
				err := s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t))
				f, ok := errors.AsType[*Failure](err)
				if !ok || f.Unread != tc.unread || !f.Sent {
					t.Errorf("%+v, want unread %v", f, tc.unread)
				}
			})
		}
	}
}
