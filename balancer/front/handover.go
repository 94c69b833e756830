package front

import (
	"context"
	"net"
	"sync"
	"time"
)

// preface is how an HTTP/2 connection begins. It is handed over only with all
// of it, so that its server has nothing to wait for.
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

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

// beginHandover is false when HTTP/2 is being ended: its server tells only
// those connections to go that it has when it is told so.
func (f *Front) beginHandover(c *conn) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ending || !f.moveLocked(c, streams) {
		return false
	}
	c.flood.begin()
	c.farewell.told = c.flood.wrote
	c.farewell.on.Store(true)
	c.farewell.wanted = f.draining.Load()
	c.handing = true
	f.handing++
	return true
}

// endHandover notes that the HTTP/2 server knows c, or that it never will. f.mu
// is held.
func (f *Front) endHandover(c *conn) {
	if c.handing {
		c.handing = false
		f.handing--
	}
}

// endHTTP2 sends every HTTP/2 connection its last GOAWAY after a while, and returns
// when they have gone or ctx ends. Those on their way to the server are waited for: one that
// arrived a moment too late was kept until its idle time-out.
func (f *Front) endHTTP2(ctx context.Context, after time.Duration) {
	_ = sleep(ctx, max(after, time.Millisecond), nil) // when time is over, it goes at once
	for {
		f.mu.Lock()
		f.ending = true
		left, changed := f.handing, f.whenChanged()
		f.mu.Unlock()
		if left == 0 || sleep(ctx, 0, changed) != nil {
			break
		}
	}
	_ = f.http2.Shutdown(ctx) // it says only whether ctx ended
}

// maybePreface says whether HTTP/2 may be beginning; a part of the preface is a
// whole head by itself.
func (s *session) maybePreface() bool {
	got := s.in.unread()
	return !s.begun && s.conn.by != onlyHTTP1 && len(got) < len(preface) && string(got) == preface[:len(got)]
}

// preface hands the connection over when HTTP/2 begins on it, and says so.
func (s *session) preface() bool {
	got := s.in.unread()
	if s.begun || s.conn.by == onlyHTTP1 || len(got) < len(preface) || string(got[:len(preface)]) != preface {
		return false
	}
	c, f := s.conn, s.conn.front
	if !f.beginHandover(c) {
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
