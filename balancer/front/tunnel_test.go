package front_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"stoker/balancer/front"
	"stoker/exchange"
	"stoker/internal/steady"
	"stoker/internal/websocket"
)

// Bytes that a client sends behind its request are the tunnel's if it becomes one,
// and come after it has; so are those that the engine sends behind its 101.
func TestTunnelBothWays(t *testing.T) {
	engine, opened := sockets(string(text("welcome", false)))
	m := start(t, engine)
	c, in := m.dial(t)
	early := text("too early", true)
	_, _ = c.Write(append([]byte(goodOpening), early...))
	r, err := http.ReadResponse(in, nil) //nolint:bodyclose // 101 has none
	if err != nil {
		t.Fatal(err)
	}
	if r.StatusCode != http.StatusSwitchingProtocols || r.Header.Get("Upgrade") != "websocket" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") ||
		"Sec-WebSocket-Accept: "+r.Header.Get("Sec-WebSocket-Accept") != wsAccept || r.Header.Get("Sec-WebSocket-Protocol") != "chat" || r.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s %v", r.Status, r.Header)
	}
	e := <-opened
	defer close(e.done)
	_ = e.SetDeadline(time.Now().Add(patience))
	if h := e.request.Header; h.Get("Connection") != "Upgrade" || h.Get("Upgrade") != "websocket" || "Sec-WebSocket-Key: "+h.Get("Sec-WebSocket-Key") != wsKey || h.Get("Sec-WebSocket-Protocol") != "chat" || e.request.RequestURI != "/ws?q=1" {
		t.Errorf("the engine was asked %s %v", e.request.RequestURI, h)
	}
	expect(t, in, text("welcome", false))
	expect(t, e.in, early)
	if n := m.member.Tunnels(); n != 1 || m.member.InFlight() != 1 {
		t.Errorf("%d tunnels, %d in flight", n, m.member.InFlight())
	}
	in0, out0 := len(early), len(text("welcome", false))
	for _, size := range []int{0, 1, 125, 126, 5000, 64 << 10, 70000, 3 << 20} {
		down, up := text(strings.Repeat("d", size), false), text(strings.Repeat("u", size), true)
		go func() { _, _ = e.Write(down) }()
		go func() { _, _ = c.Write(up) }()
		expect(t, in, down)
		expect(t, e.in, up)
		in0, out0 = in0+len(up), out0+len(down)
	}
	_, _ = c.Write(closing(1000, true))
	expect(t, e.in, closing(1000, true))
	_, _ = e.Write(closing(1000, false))
	_ = e.Close()
	expect(t, in, closing(1000, false))
	ends(t, in)
	rec := m.record(t)
	if rec.Status != 101 || rec.Outcome != exchange.OutcomeOK || rec.BytesIn != int64(in0+8) || rec.BytesOut != int64(out0+4) {
		t.Errorf("%d %s, %d in (want %d), %d out (want %d): %v", rec.Status, rec.Outcome, rec.BytesIn, in0+8, rec.BytesOut, out0+4, rec.Err)
	}
	if n := m.member.Tunnels(); n != 0 || m.member.InFlight() != 0 {
		t.Errorf("%d tunnels, %d in flight after the end", n, m.member.InFlight())
	}
}

// How either side ends is seen by the other at once, and counted right.
func TestTunnelEnds(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(c net.Conn, e *socket)
		// What the other end reads before its end.
		client, engine []byte
		want           exchange.Outcome
	}{
		{"the client vanishes", func(c net.Conn, _ *socket) { _ = c.Close() }, nil, nil, exchange.OutcomeClientGone},
		{"the client resets", func(c net.Conn, _ *socket) {
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}, nil, nil, exchange.OutcomeClientGone},
		{"the client says Close and leaves", func(c net.Conn, _ *socket) {
			_, _ = c.Write(closing(1000, true))
			_ = c.Close()
		}, nil, closing(1000, true), exchange.OutcomeOK},
		{"the engine dies", func(_ net.Conn, e *socket) { _ = e.Close() }, nil, nil, exchange.OutcomeUpstreamBroke},
		{"the engine resets", func(_ net.Conn, e *socket) {
			_ = e.Conn.(*net.TCPConn).SetLinger(0)
			_ = e.Close()
		}, nil, nil, exchange.OutcomeUpstreamBroke},
		{"the engine dies within a frame", func(_ net.Conn, e *socket) {
			_, _ = e.Write(text("half", false)[:4])
			_ = e.Close()
		}, text("half", false)[:4], nil, exchange.OutcomeUpstreamBroke},
		{"the engine says Close and leaves", func(_ net.Conn, e *socket) {
			_, _ = e.Write(closing(1011, false))
			_ = e.Close()
		}, closing(1011, false), nil, exchange.OutcomeOK},
		{"the engine says Close and waits for the client's", func(c net.Conn, e *socket) {
			_, _ = e.Write(closing(1011, false))
			_ = e.Conn.(*net.TCPConn).CloseWrite()
			_, _ = c.Write(closing(1011, true))
			_ = c.(*net.TCPConn).CloseWrite()
		}, closing(1011, false), closing(1011, true), exchange.OutcomeOK},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel() // some take the two seconds that the other side has
			engine, opened := sockets("")
			m := start(t, engine)
			c, in, e := open(t, m, opened)
			tc.end(c, e)
			if strings.HasPrefix(tc.name, "the client") {
				expect(t, e.in, tc.engine)
				ends(t, e.in)
			} else {
				expect(t, in, tc.client)
				ends(t, in)
				expect(t, e.in, tc.engine)
			}
			if rec := m.record(t); rec.Outcome != tc.want || rec.Status != 101 {
				t.Errorf("%d %s: %v, want %s", rec.Status, rec.Outcome, rec.Err, tc.want)
			}
		})
	}
}

// A client that is asked to go hears so between two frames, once, and its own
// Close reaches the engine; nothing that the engine says later reaches the client.
func TestTunnelDismissed(t *testing.T) {
	goodbye := websocket.GoingAway("worker is being stopped")
	for _, half := range []bool{false, true} {
		t.Run(fmt.Sprintf("within a frame: %v", half), func(t *testing.T) {
			engine, opened := sockets("")
			m := start(t, engine)
			c, in, e := open(t, m, opened)
			frame := text("whole", false)
			if half {
				_, _ = e.Write(frame[:3])
				expect(t, in, frame[:3])
			}
			m.member.Dismiss()
			if half {
				_, _ = e.Write(append(frame[3:], text("late", false)...))
				expect(t, in, frame[3:])
			}
			expect(t, in, goodbye)
			_, _ = e.Write(text("later", false))
			_, _ = c.Write(closing(1001, true))
			expect(t, e.in, closing(1001, true))
			_, _ = e.Write(closing(1001, false))
			_ = e.Close()
			ends(t, in)
			if rec := m.record(t); rec.Outcome != exchange.OutcomeDrained {
				t.Errorf("%s: %v", rec.Outcome, rec.Err)
			}
			// While it is out, another is told at once; then it may stay.
			_, in, e = open(t, m, opened)
			expect(t, in, goodbye)
			_ = e.Close()
			m.member.SetReady(true)
			_, in, e = open(t, m, opened)
			_, _ = e.Write(frame)
			expect(t, in, frame)
		})
	}
}

// A client that is cut hears so too, where no frame is half written.
func TestTunnelCut(t *testing.T) {
	for _, tc := range []struct {
		name string
		cut  func(m *machine)
		half bool
		want []byte
		out  exchange.Outcome
	}{
		{"by the front", func(m *machine) { m.front.Cut(exchange.ErrShutdown) }, false, websocket.GoingAway("server is shutting down"), exchange.OutcomeShutdown},
		{"by the pool", func(m *machine) { m.pool.Cut() }, false, websocket.GoingAway("worker is being stopped"), exchange.OutcomeDrained},
		{"within a frame", func(m *machine) { m.front.Cut(exchange.ErrShutdown) }, true, nil, exchange.OutcomeShutdown},
		{"when the front is closed", func(m *machine) { m.front.Close() }, true, nil, exchange.OutcomeShutdown},
	} {
		t.Run(tc.name, func(t *testing.T) {
			engine, opened := sockets("")
			m := start(t, engine)
			_, in, e := open(t, m, opened)
			if tc.half {
				_, _ = e.Write(text("x", false)[:2])
				expect(t, in, text("x", false)[:2])
			}
			tc.cut(m)
			expect(t, in, tc.want)
			ends(t, in)
			ends(t, e.in)
			if rec := m.record(t); rec.Outcome != tc.out {
				t.Errorf("%s: %v", rec.Outcome, rec.Err)
			}
		})
	}
}

// Who sends nothing for as long as may be is asked to go; bytes in either
// direction count.
func TestTunnelIdle(t *testing.T) {
	steady.WithLimit(t, 300*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
		engine, opened := sockets("")
		m := start(t, engine)
		l := front.DefaultLimits()
		l.Tunnel = limit
		m.front.SetLimits(l)
		c, in, e := open(t, m, opened)
		began := time.Now()
		for time.Since(began) < 3*l.Tunnel { // by turns, each time before it is over
			_, _ = c.Write(text("u", true))
			expect(t, e.in, text("u", true))
			time.Sleep(l.Tunnel / 10)
			_, _ = e.Write(text("d", false))
			expect(t, in, text("d", false))
		}
		last := time.Now()
		expect(t, in, websocket.GoingAway("idle for too long"))
		if waited := time.Since(last); waited < l.Tunnel/2 {
			t.Errorf("gone after %s", waited)
		}
		_ = c.Close()
		ends(t, e.in)
		_ = e.Close()
		if rec := m.record(t); rec.Outcome != exchange.OutcomeIdle {
			t.Errorf("%s: %v", rec.Outcome, rec.Err)
		}
	})
}

// A tunnel outlasts a drain of the front, which waits for it, and the client's
// limits for requests.
func TestTunnelOutlastsLimits(t *testing.T) {
	steady.WithLimit(t, 50*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
		engine, opened := sockets("")
		m := start(t, engine)
		l := front.DefaultLimits()
		l.Head, l.Idle, l.Body = limit, limit, limit
		m.front.SetLimits(l)
		c, in, e := open(t, m, opened)
		m.front.Drain()
		ctx, cancel := context.WithTimeout(t.Context(), 4*l.Idle)
		defer cancel()
		if err := m.front.CloseIdle(ctx, 0); err == nil {
			t.Error("the front has no connection any more")
		}
		_, _ = e.Write(text("still here", false))
		expect(t, in, text("still here", false))
		_, _ = c.Write(text("me too", true))
		expect(t, e.in, text("me too", true))
		_, _ = c.Write(closing(1000, true))
		_ = c.Close()
		ends(t, io.MultiReader(bytes.NewReader(nil), eof{e.in, closing(1000, true)}))
		if err := m.front.CloseIdle(t.Context(), 0); err != nil {
			t.Error(err)
		}
	})
}

// A client that takes nothing holds the engine back, and is given up after a while;
// one that is merely slow gets everything.
func TestTunnelBackPressure(t *testing.T) {
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads at last: %v", reads), func(t *testing.T) {
			engine, opened := sockets("")
			m := start(t, engine)
			l := front.DefaultLimits()
			if !reads {
				l.Write = 500 * time.Millisecond
			}
			m.front.SetLimits(l)
			_, in, e := open(t, m, opened)
			frame := text(strings.Repeat("x", 60000), false) // less than what is worth a splice
			const frames = 1000
			sent := make(chan int, 1)
			go func() {
				n := 0
				for ; n < frames; n++ {
					if _, err := e.Write(frame); err != nil {
						break
					}
				}
				sent <- n
			}()
			if !reads {
				if rec := m.record(t); rec.Outcome != exchange.OutcomeClientGone {
					t.Errorf("%s: %v", rec.Outcome, rec.Err)
				}
				if n := <-sent; n == frames {
					t.Error("the engine was never held back")
				}
				return
			}
			select {
			case <-sent:
				t.Fatal("the engine was never held back")
			case <-time.After(200 * time.Millisecond):
			}
			for range frames {
				expect(t, in, frame)
			}
			if n := <-sent; n != frames {
				t.Errorf("%d frames sent", n)
			}
		})
	}
}

// However many end, in whatever way and at once: nothing of them is left.
func TestTunnelsInACrowd(t *testing.T) {
	engine, opened := sockets("")
	m := start(t, engine)
	go func() {
		for n := 0; ; n++ {
			var e *socket
			select {
			case e = <-opened:
			case <-t.Context().Done():
				return
			}
			go func() {
				defer close(e.done)
				_ = e.SetDeadline(time.Now().Add(patience))
				_, _ = e.Write(text(strings.Repeat("d", n*997%100000), false))
				if n%3 == 0 {
					_, _ = e.Write(closing(1000, false))
					return
				}
				_, _ = io.CopyN(e, e.in, int64(n%5)*50)
			}()
		}
	}()
	var crowd sync.WaitGroup
	for n := range 60 {
		crowd.Go(func() {
			c, err := net.Dial("tcp", m.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			_, _ = io.WriteString(c, goodOpening)
			_, _ = c.Write(text(strings.Repeat("u", 991+n*991%99000), true)) // more than any engine waits for
			switch n % 4 {
			case 0:
				_, _ = c.Write(closing(1000, true))
			case 1:
				_, _ = io.CopyN(io.Discard, c, int64(n*10))
				return
			}
			_, _ = io.Copy(io.Discard, c)
		})
		switch n {
		case 20:
			m.member.Dismiss()
			m.member.SetReady(true)
		case 40:
			m.pool.Cut()
		}
	}
	crowd.Wait()
	// Not when there are as many records as clients: one that is told that its worker
	// is gone makes another, by the frame that it has sent and that is no request.
	waitUntil(t, func() bool { return m.front.Connections() == 0 })
	for range len(m.records) {
		if rec := m.record(t); rec.Outcome == front.OutcomePanic {
			t.Error(rec.Err)
		}
	}
	if n := m.member.Tunnels(); n != 0 || m.member.InFlight() != 0 {
		t.Errorf("%d tunnels, %d in flight are left", n, m.member.InFlight())
	}
}

// Over HTTP/2 there are none, and nobody is told that there are (RFC 8441 3).
func TestNoWebSocketOverHTTP2(t *testing.T) {
	var engine listener
	m := start(t, engine.serve)
	c, _ := m.dial(t)
	_, _ = io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, c)
	_ = fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", "/ws"}, {":authority", "a"}, {"sec-websocket-version", "13"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if v, told := f.Value(http2.SettingEnableConnectProtocol); told && v != 0 {
				t.Error("SETTINGS_ENABLE_CONNECT_PROTOCOL is offered")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID != 1 || f.ErrCode != http2.ErrCodeProtocol {
				t.Errorf("%v", f)
			}
			if heard := engine.told(); len(heard) > 0 {
				t.Errorf("the engine was told %q", heard)
			}
			return
		}
	}
}

// eof reads what is expected first.
type eof struct {
	io.Reader
	want []byte
}

func (e eof) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if n > 0 && bytes.HasPrefix(e.want, p[:n]) {
		return 0, nil
	}
	return n, err
}
