package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// # HTTP/2
//
// A transport of HTTP/2 carries many exchanges side by side over few
// connections, trunks. net/http's client speaks the protocol; what is ours is
// which trunk carries an exchange, and what its failures mean:
//
//	dial ──▶ carries up to maxStreams exchanges ──▶ spent: gone, or told by GOAWAY
//	           │ the upstream may allow fewer          │ takes no more; what is on it goes on
//	           ▼                                       ▼
//	         another is dialed beside it             closed when the last has left
//
// An exchange that the upstream says it has not begun (GOAWAY with a lower
// number, REFUSED_STREAM) counts as one of which nothing was sent.

const (
	// maxStreams is how many exchanges share a trunk while the upstream allows
	// more: one lock and one reader serve all of a trunk's.
	maxStreams = 128
	// streamWindow is how much of an answer an upstream may send that its client
	// has not taken yet. It is held in memory.
	streamWindow = 512 << 10
	// trunkIdle is how long a trunk without exchanges is kept. Unlike HTTP/1.1's,
	// it may be closed by the upstream meanwhile without loss: see GOAWAY.
	trunkIdle = time.Minute
	// maxAnswerHead is as http1's for answers.
	maxAnswerHead = 64 << 10
)

// alpnHTTP2 is HTTP/2's name in the handshake of TLS.
const alpnHTTP2 = "h2"

var errNoHTTP2 = errors.New("the upstream does not speak HTTP/2 over TLS")

// trunk is one connection of HTTP/2.
type trunk struct {
	conn *http.ClientConn
	open int // exchanges on it; guarded by trunks.mu
}

// trunks are all of one transport.
type trunks struct {
	t    *Transport
	http http.Transport // makes trunks; it has no connections of its own

	mu     sync.Mutex
	list   []*trunk
	calls  map[*streamCall]struct{}
	closed bool
	// dialing is closed when the dial in progress is over; nil: there is none.
	// One dials for all who wait: a hundred requests at once need one trunk.
	dialing chan struct{}
	dialErr error // of the last dial, unless whoever dialed did not wait for it
}

func newTrunks(t *Transport) *trunks {
	m := &trunks{t: t, calls: make(map[*streamCall]struct{})}
	m.http = http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dialHTTP2(ctx) },
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{MaxReceiveBufferPerStream: streamWindow},
		DisableCompression:     true, // what the client has not asked for it does not get
		MaxResponseHeaderBytes: maxAnswerHead,
		IdleConnTimeout:        trunkIdle,
	}
	m.http.Protocols.SetUnencryptedHTTP2(true) // over TLS too: that is dialHTTP2's matter
	return m
}

// dialHTTP2 connects to where HTTP/2 can begin.
func (t *Transport) dialHTTP2(ctx context.Context) (net.Conn, error) {
	c, err := t.connect(ctx)
	if err != nil {
		return nil, err
	}
	counted := &countedConn{c, &t.received}
	if t.secure == nil {
		return counted, nil
	}
	secured := tls.Client(counted, t.secure)
	err = secured.HandshakeContext(ctx)
	if err == nil && secured.ConnectionState().NegotiatedProtocol != alpnHTTP2 {
		err = errNoHTTP2
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("TLS with %s: %w", c.RemoteAddr(), err)
	}
	return secured, nil
}

// countedConn counts what comes.
type countedConn struct {
	net.Conn
	received *atomic.Uint64
}

func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.received.Add(uint64(n))
	return n, err //nolint:wrapcheck // it is transparent
}

// take finds a trunk with room for one more, or makes one.
func (m *trunks) take(ctx context.Context) (*trunk, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		if k := m.reserve(); k != nil {
			return k, nil
		}
		if m.dialing == nil {
			return m.dial(ctx)
		}
		over := m.dialing
		m.mu.Unlock()
		var err error
		select {
		case <-over:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		m.mu.Lock()
		if err != nil {
			return nil, err
		}
		if m.dialErr != nil {
			return nil, m.dialErr
		}
	}
}

// reserve takes a place on a trunk, and forgets those that are spent. The lock is held.
func (m *trunks) reserve() *trunk {
	var found *trunk
	kept := m.list[:0]
	for _, k := range m.list {
		switch {
		case found == nil && k.open < maxStreams && k.conn.Reserve() == nil:
			found = k
			k.open++
		case k.open == 0 && k.conn.Err() != nil:
			_ = k.conn.Close()
			continue
		}
		kept = append(kept, k)
	}
	clear(m.list[len(kept):])
	m.list = kept
	return found
}

// dial makes a trunk, with a place taken on it. The lock is held before and after.
func (m *trunks) dial(ctx context.Context) (*trunk, error) {
	over := make(chan struct{})
	m.dialing = over
	m.mu.Unlock()
	conn, err := m.connect(ctx)
	m.mu.Lock()
	m.dialing, m.dialErr = nil, err
	close(over)
	if err != nil {
		if ctx.Err() != nil {
			m.dialErr = nil
		}
		return nil, err
	}
	k := &trunk{conn: conn, open: 1}
	m.list = append(m.list, k)
	if err := conn.Reserve(); err != nil { // it has gone already
		m.leave(k)
		return nil, fmt.Errorf("HTTP/2 with %s: %w", m.t.address, err)
	}
	return k, nil
}

func (m *trunks) connect(ctx context.Context) (*http.ClientConn, error) {
	if limit := m.t.options.Load().ConnectTimeout; limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return m.http.NewClientConn(ctx, "http", "upstream:80") //nolint:wrapcheck // the dial's own words; the address is dialHTTP2's
}

// release gives a place back.
func (m *trunks) release(k *trunk) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leave(k)
}

// leave is release with the lock held. Who is the last on a trunk that nobody will
// use again closes it.
func (m *trunks) leave(k *trunk) {
	k.open--
	if k.open > 0 || !m.closed && k.conn.Err() == nil {
		return
	}
	_ = k.conn.Close()
	for i := range m.list {
		if m.list[i] == k {
			m.list = append(m.list[:i], m.list[i+1:]...)
			return
		}
	}
}

// enter registers an exchange, until exit.
func (m *trunks) enter(c *streamCall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[c] = struct{}{}
}

func (m *trunks) exit(c *streamCall) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.calls, c)
}

// cut ends all exchanges with cause, and returns how many there were.
func (m *trunks) cut(cause error) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range m.calls {
		c.cancel(cause)
	}
	return len(m.calls)
}

// close closes what is idle, and has the rest closed when it is.
func (m *trunks) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	kept := m.list[:0]
	for _, k := range m.list {
		if k.open == 0 {
			_ = k.conn.Close()
			continue
		}
		kept = append(kept, k)
	}
	clear(m.list[len(kept):])
	m.list = kept
}
