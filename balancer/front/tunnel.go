package front

import (
	"errors"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// tunnel is a session's connection when HTTP has ended on it. What the client
// had sent behind its request is read first.
type tunnel struct {
	answer *answer
}

var (
	_ exchange.Upgrader = (*answer)(nil)
	_ exchange.Tunnel   = (*tunnel)(nil)
)

var upgradeLines = []byte("Connection: Upgrade\r\nUpgrade: websocket\r\n")

// Upgrade implements exchange.Upgrader.
func (a *answer) Upgrade(r *http1.Response) (exchange.Tunnel, error) {
	s := a.session
	if a.begun || !s.WebSocket {
		return nil, errNoUpgrade
	}
	a.hold()
	out, err := http1.AppendResponse(a.out, r, upgradeLines)
	if err != nil {
		return nil, err
	}
	// Before the client can know of it, or what it says and its leaving right
	// behind would be a hang-up, which cuts off what it has said.
	if err := s.conn.front.dig(s); err != nil {
		return nil, err
	}
	// No body is missing, however it ends, and no request follows.
	a.out, a.begun, a.bare, a.close = out, true, true, true
	if err := a.flush(); err != nil {
		return nil, err
	}
	s.shed()
	return &tunnel{a}, nil
}

// dig lets the client's connection be read at any time from now on. A hang-up
// cuts nothing off any more: the tunnel's reader finds it behind the last bytes.
func (f *Front) dig(s *session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := s.conn
	if c.hurried.Load() { // it has been cut, or its client has left, before
		return s.life.Err()
	}
	c.tunnel = true
	c.readDeadline = time.Time{}
	return c.SetReadDeadline(time.Time{})
}

// ReadLazily implements exchange.Tunnel.
func (t *tunnel) ReadLazily(room func() []byte, rest func() error) (n int, err error) {
	s := t.answer.session
	if len(s.in.unread()) > 0 {
		n = s.in.take(room())
	} else {
		n, err = s.conn.ReadLazily(room, rest)
	}
	s.Record.BytesIn += int64(n)
	return n, err
}

// Write implements exchange.Tunnel.
func (t *tunnel) Write(p []byte) (int, error) {
	a := t.answer
	n, err := a.session.conn.Write(p)
	if err != nil {
		a.err = unread(err)
		return n, a.err
	}
	return n, nil
}

// Splice implements exchange.Tunnel.
func (t *tunnel) Splice(src *rawconn.Conn, n int64) (int64, error) {
	a := t.answer
	moved, err := a.session.conn.Splice(src, n)
	var source *rawconn.SourceError
	if err != nil && !errors.As(err, &source) {
		a.err = unread(err)
		err = a.err
	}
	return moved, err
}

// CloseWrite implements exchange.Tunnel.
func (t *tunnel) CloseWrite() error { return t.answer.session.conn.CloseWrite() }

// Interrupt implements exchange.Tunnel.
func (t *tunnel) Interrupt() {
	_ = t.answer.session.conn.SetReadDeadline(time.Now()) // fails on a closed connection only
}

// IdleLimit implements exchange.Tunnel.
func (t *tunnel) IdleLimit() time.Duration {
	return t.answer.session.conn.front.limits.Load().Tunnel
}
