package front

import (
	"net"
	"sync"
	"time"
)

// preface is how an HTTP/2 connection begins: the part that looks like a request.
// The rest is "SM\r\n\r\n".
const preface = "PRI * HTTP/2.0\r\n\r\n"

// handover is the listener of the HTTP/2 server: it accepts the connections on
// which sessions found the preface.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newHandover() *handover {
	return &handover{conns: make(chan net.Conn), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (h *handover) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// Addr implements net.Listener.
func (h *handover) Addr() net.Addr { return &net.UnixAddr{Name: "handover", Net: "unix"} }

// preface hands the connection over when HTTP/2 begins on it, and says so.
func (s *session) preface() bool {
	got := s.in.unread()
	if s.begun || len(got) < len(preface) || string(got[:len(preface)]) != preface {
		return false
	}
	c, f := s.conn, s.conn.front
	if !f.move(c, streams) {
		return true
	}
	s.handed = true
	c.replay = append([]byte(nil), got...)
	_ = c.SetReadDeadline(time.Time{}) // fails on a closed connection only
	_ = c.SetWriteDeadline(time.Time{})
	select {
	case f.handover.conns <- c:
	case <-f.handover.done:
		_ = c.Close()
		f.bye(c)
	}
	return true
}
