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
	small, large := []byte("body"), bytes.Repeat([]byte("body"), 4<<20)
	for _, tc := range []struct {
		name   string
		engine func(net.Conn)
		body   []byte
		unread bool
	}{
		{"hardly any of it", half(1), small, true},
		{"half of it", half(20), small, true},
		{"all of it", whole, small, false},
		{"a large one: half of it", half(1 << 20), large, true},
		{"a large one: all of it", whole, large, false},
	} {
		for _, network := range transports {
			t.Run(network+"/"+tc.name, func(t *testing.T) {
				s := serve(t, network, tc.engine)
				x := post(tc.body)
				err := s.transport(t, TransportOptions{}).Do(t.Context(), x, newNotes(t))
				f, ok := errors.AsType[*Failure](err)
				if !ok || f.Unread != tc.unread || !f.Sent {
					t.Errorf("%+v, want unread %v", f, tc.unread)
				}
			})
		}
	}
}
