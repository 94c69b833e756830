package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"stoker/exchange"
	"stoker/internal/http1"
)

// frames is a client that writes what frames it likes, and reads all that comes.
type frames struct {
	*http2.Framer
	net.Conn
	hp     *hpack.Encoder
	block  bytes.Buffer
	next   uint32
	calmed atomic.Bool // told ENHANCE_YOUR_CALM
	closed chan struct{}
	locked sync.Mutex // held while writing
}

// newFrames connects and says hello; settings go with that.
func newFrames(t *testing.T, nc net.Conn, onData func(*frames, *http2.DataFrame), settings ...http2.Setting) *frames {
	t.Helper()
	c := &frames{Framer: http2.NewFramer(nc, nc), Conn: nc, next: 1, closed: make(chan struct{})}
	c.hp = hpack.NewEncoder(&c.block)
	t.Cleanup(func() { nc.Close(); <-c.closed })
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.WriteSettings(settings...)
	go func() {
		defer close(c.closed)
		defer nc.Close() // who writes on would wait for the kernel to find out that nobody reads
		for {
			f, err := c.ReadFrame()
			if err != nil {
				return
			}
			switch f := f.(type) {
			case *http2.GoAwayFrame:
				c.calmed.Store(c.calmed.Load() || f.ErrCode == http2.ErrCodeEnhanceYourCalm)
			case *http2.DataFrame:
				if onData != nil {
					onData(c, f)
				}
			}
		}
	}()
	return c
}

// ask sends a request's head and returns its stream.
func (c *frames) ask(end bool, fields ...string) (uint32, error) {
	return c.askFor("/", end, fields...)
}

func (c *frames) askFor(path string, end bool, fields ...string) (uint32, error) {
	c.locked.Lock()
	defer c.locked.Unlock()
	id := c.next
	c.next += 2
	c.block.Reset()
	fields = append([]string{":method", "POST", ":scheme", "http", ":authority", "a.test", ":path", path}, fields...)
	for i := 0; i < len(fields); i += 2 {
		c.hp.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return id, c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: true})
}

// TestFloods: what a client of HTTP/2 sends to keep us or the engines busy for
// nothing ends its connection, and the engines see a bounded number of requests.
func TestFloods(t *testing.T) {
	hold := func(c *frames) uint32 { id, _ := c.ask(false); return id }
	for _, tc := range []struct {
		name string
		// begin comes first, then round again and again.
		begin func(c *frames) uint32
		round func(c *frames, id uint32) error
		calm  bool // the client is told why
		most  int64
	}{
		{name: "rapid reset", round: func(c *frames, _ uint32) error {
			id, _ := c.ask(true)
			return c.WriteRSTStream(id, http2.ErrCodeCancel)
		}, calm: true, most: 3 * resets},
		{name: "made you reset", round: func(c *frames, _ uint32) error {
			id, _ := c.ask(true)
			return c.WriteRawFrame(http2.FrameWindowUpdate, 0, id, make([]byte, 4)) // by nothing, which is an error
		}, most: 3 * resets},
		{name: "made you reset, by DATA behind the end", round: func(c *frames, _ uint32) error {
			id, _ := c.ask(true)
			return c.WriteData(id, false, []byte("x"))
		}, most: 3 * resets},
		{name: "streams beyond the limit", round: func(c *frames, _ uint32) error { _, err := c.ask(true); return err }, calm: true, most: maxStreams},
		{name: "PING", round: func(c *frames, _ uint32) error { return c.WritePing(false, [8]byte{}) }, calm: true},
		{name: "PING that answers none", round: func(c *frames, _ uint32) error { return c.WritePing(true, [8]byte{}) }, calm: true},
		{name: "SETTINGS", round: func(c *frames, _ uint32) error { return c.WriteSettings() }, calm: true},
		{name: "SETTINGS of windows", begin: hold, round: func(c *frames, _ uint32) error {
			return c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 100}, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000})
		}, calm: true, most: 1},
		{name: "empty DATA", begin: hold, round: func(c *frames, id uint32) error { return c.WriteData(id, false, nil) }, calm: true, most: 1},
		{name: "padded DATA", begin: hold, round: func(c *frames, id uint32) error { return c.WriteDataPadded(id, false, nil, make([]byte, 10)) }, calm: true, most: 1},
		{name: "WINDOW_UPDATE", round: func(c *frames, _ uint32) error { return c.WriteWindowUpdate(0, 1) }, calm: true},
		{name: "PRIORITY", round: func(c *frames, _ uint32) error { return c.WritePriority(1001, http2.PriorityParam{Weight: 3}) }, calm: true},
		{name: "frames of no known kind", round: func(c *frames, _ uint32) error { return c.WriteRawFrame(0xbe, 0, 0, []byte("hello")) }, calm: true},
		{name: "RST_STREAM again and again", begin: hold, round: func(c *frames, id uint32) error { return c.WriteRSTStream(id, http2.ErrCodeCancel) }, calm: true, most: 1},
		{name: "CONTINUATION without end", begin: func(c *frames) uint32 {
			c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true})
			return 1
		}, round: func(c *frames, id uint32) error {
			return c.WriteContinuation(id, false, append([]byte{0x00, 0x01, 'x', 0x7f, 0xe9, 0x06}, make([]byte, 1000)...))
		}},
		{name: "empty CONTINUATION without end", begin: func(c *frames) uint32 {
			c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, EndStream: true})
			return 1
		}, round: func(c *frames, id uint32) error { return c.WriteContinuation(id, false, nil) }, calm: true},
	} {
		for _, secure := range []bool{false, true} {
			if secure && tc.name != "rapid reset" && tc.name != "PING" {
				continue
			}
			t.Run(fmt.Sprintf("%s, TLS %v", tc.name, secure), func(t *testing.T) {
				t.Parallel()
				var seen atomic.Int64
				handle := func(ctx context.Context, x *exchange.Exchange) {
					if ctx.Err() == nil { // who is gone before it began reaches no engine
						seen.Add(1)
					}
					<-ctx.Done()
					x.Record.Outcome = exchange.OutcomeClientGone
					x.Sink.Break(exchange.ErrClientGone)
				}
				quiet := func(f *Front) { f.observers = nil }
				var nc net.Conn
				var front *Front
				var err error
				if secure {
					s := startTLS(t, handle, quiet)
					front = s.Front
					nc, err = tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
				} else {
					fx := startAs(t, handle, quiet)
					front = fx.Front
					nc, err = net.Dial("tcp", fx.addr)
				}
				if err != nil {
					t.Fatal(err)
				}
				c := newFrames(t, nc, nil)
				var id uint32
				if tc.begin != nil {
					id = tc.begin(c)
				}
				began, rounds := time.Now(), 0
				for ; err == nil && time.Since(began) < time.Minute; rounds++ { // much of it fits into the kernel's buffers
					err = tc.round(c, id)
				}
				if err == nil {
					t.Fatalf("after %d rounds in %v the connection is still there", rounds, time.Since(began))
				}
				select {
				case <-c.closed:
				case <-time.After(30 * time.Second):
					t.Fatal("the connection is not closed")
				}
				waitFor(t, func() bool { return front.InFlight() == 0 && front.Connections() == 0 })
				// What comes back with time is the busy machine's, not the client's.
				most := tc.most + int64(time.Since(began).Seconds()*resetsPerSecond)
				if got := seen.Load(); got > most {
					t.Errorf("the engine saw %d requests, want at most %d", got, most)
				}
				t.Logf("%d rounds, %d requests, told to calm down: %v", rounds, seen.Load(), c.calmed.Load())
			})
		}
	}
}

// TestBusyClientsAreNoFlood: a client of gRPC answers what it is sent by PING and
// WINDOW_UPDATE, and may leave all its requests at once.
func TestBusyClientsAreNoFlood(t *testing.T) {
	const events = 3 * idleFrames
	var gone sync.WaitGroup
	gone.Add(maxStreams)
	fx := startAs(t, func(ctx context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/" {
			<-ctx.Done()
			x.Sink.Break(exchange.ErrClientGone)
			gone.Done()
			return
		}
		x.Sink.Head(&http1.Response{Status: 200}, -1)
		for range events {
			x.Sink.Write([]byte("x"))
			x.Sink.Flush()
		}
		x.Sink.End(nil)
	}, func(f *Front) { f.observers = nil })
	nc, err := net.Dial("tcp", fx.addr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	got := 0
	c := newFrames(t, nc, func(c *frames, f *http2.DataFrame) {
		got += len(f.Data())
		if f.StreamEnded() {
			close(ended)
			return
		}
		c.locked.Lock()
		defer c.locked.Unlock()
		c.WritePing(false, [8]byte{1})
		c.WriteWindowUpdate(f.StreamID, 1)
		c.WriteWindowUpdate(0, 1)
	})
	if _, err := c.askFor("/events", true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-c.closed:
		t.Fatal("closed")
	case <-time.After(60 * time.Second):
		t.Fatal("the events do not end")
	}
	if got != events {
		t.Errorf("%d events", got)
	}
	var ids []uint32
	for range maxStreams {
		id, err := c.ask(true)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		c.locked.Lock()
		c.WriteRSTStream(id, http2.ErrCodeCancel)
		c.locked.Unlock()
	}
	gone.Wait()
	select {
	case <-c.closed:
		t.Error("closed for what any client may do")
	default:
	}
}

// TestHeaderBomb: a field that is sent once and named a thousand times is counted
// as often, and its request reaches nobody.
func TestHeaderBomb(t *testing.T) {
	var seen atomic.Int64
	fx := startAs(t, func(_ context.Context, x *exchange.Exchange) { seen.Add(1); x.Sink.Break(errors.New("x")) }, func(f *Front) { f.observers = nil })
	nc, err := net.Dial("tcp", fx.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newFrames(t, nc, nil)
	for range 20 {
		fields := []string{}
		for range 1000 {
			fields = append(fields, "bomb", strings.Repeat("b", 3000)) // some bytes each from the second on
		}
		if _, err := c.ask(true, fields...); err != nil {
			break
		}
	}
	c.WritePing(false, [8]byte{})
	_, _ = c.ask(true) // a good one, if the connection is still there
	waitFor(t, func() bool {
		select {
		case <-c.closed:
			return true
		default:
			return seen.Load() == 1
		}
	})
	if got := seen.Load(); got > 1 {
		t.Errorf("%d requests were passed on", got)
	}
}

// TestZeroWindows: a client that asks and opens no window for the answers keeps
// neither us nor the engine for longer than clients.write_timeout.
func TestZeroWindows(t *testing.T) {
	const asked = 100
	var ended sync.WaitGroup
	ended.Add(asked)
	fx := startAs(t, func(ctx context.Context, x *exchange.Exchange) {
		defer ended.Done()
		x.Sink.Head(&http1.Response{Status: 200}, -1)
		var err error
		for err == nil && ctx.Err() == nil {
			_, err = x.Sink.Write(make([]byte, 1000))
		}
		x.Sink.Break(err)
	}, func(f *Front) {
		f.observers = nil
		l := DefaultLimits()
		l.Write = 200 * time.Millisecond
		f.SetLimits(l)
	})
	nc, err := net.Dial("tcp", fx.addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newFrames(t, nc, nil, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	for range asked {
		if _, err := c.ask(true); err != nil {
			t.Fatal(err)
		}
	}
	ended.Wait()
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within 30 s")
		}
	}
}
