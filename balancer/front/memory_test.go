package front_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"time"

	"stoker/balancer"
	"stoker/balancer/front"
	"stoker/balancer/recorder"
	"stoker/balancer/tokens"
	"stoker/exchange"
	"stoker/upstream"
)

// An open stream takes 4 KiB of stack and less than 10 KiB of heap, the test's own
// two ends of its connections included: ten thousand of them are often open at once. A
// stack of 4 KiB grows to 8 for good when anything that a stream calls on its way
// needs more, however shortly; what the heap holds longer than needed is as easily
// added. What stands between front and balancer in the program takes less than deep.
func TestOpenStreamsAreSmall(t *testing.T) {
	if raceEnabled {
		t.Skip("frames are larger with the race detector; go test without it measures them")
	}
	t.Run("the first request", func(t *testing.T) { openStreamsAreSmall(t, false) })
	t.Run("later ones", func(t *testing.T) { openStreamsAreSmall(t, true) })
}

// openStreamsAreSmall opens some, on connections that have had other requests before if
// they are used.
func openStreamsAreSmall(t *testing.T, used bool) {
	t.Helper()
	const (
		streams   = 400
		mostStack = 5 << 10
		mostHeap  = 11 << 10
	)
	addr := startStreaming(t)
	var conns []net.Conn
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	open := func(n int) {
		var opened []net.Conn
		for range n {
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			opened = append(opened, c)
		}
		conns = append(conns, opened...)
		for _, c := range opened {
			if used { // watched from the second request on, and served within one wait after it
				refused(t, c)
				refused(t, c)
			}
			openStream(t, c)
		}
	}
	open(20) // what is there once for all
	stackBefore, heapBefore := weigh()
	open(streams)
	stack, heap := weigh()
	perStack, perHeap := (stack-stackBefore)/streams, (heap-heapBefore)/streams
	t.Logf("%d bytes of stack and %d of heap for each", perStack, perHeap)
	if perStack > mostStack || perHeap > mostHeap {
		t.Errorf("at most %d and %d were to be", mostStack, mostHeap)
	}
}

// weigh is what goroutines' stacks and the heap take when nothing else is left: what
// lies in pools goes with the second collection.
func weigh() (stack, heap int64) {
	for range 3 {
		runtime.GC()
	}
	samples := []metrics.Sample{{Name: "/memory/classes/heap/stacks:bytes"}, {Name: "/gc/heap/live:bytes"}}
	metrics.Read(samples)
	return int64(samples[0].Value.Uint64()), int64(samples[1].Value.Uint64())
}

const firstEvent = `data: {"id":"a","object":"text_completion","model":"tiny","choices":[{"index":0,"text":" one"}]}` + "\n\n"

// startStreaming serves, with all that is on by default, streams that have begun
// and go on for ever. It returns where.
func startStreaming(t *testing.T) string {
	t.Helper()
	engine := listen(t)
	var serving sync.WaitGroup
	serving.Go(func() { beginStreams(t, engine) })
	pool := upstream.NewPool("p", upstream.PoolOptions{QueueLength: 100, QueueTimeout: patience})
	member := pool.Add("m", 1)
	member.Reset(engine.Addr().String())
	member.SetReady(true)
	redactor, err := recorder.NewRedactor(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	rec, err := recorder.New(recorder.Options{Keep: 20, BodyLimit: 64 << 10, Memory: 64 << 20, Redactor: redactor})
	if err != nil {
		t.Fatal(err)
	}
	rules := balancer.DefaultRules()
	rules.WeighPrompts, rules.CountTokens = true, true
	b, err := balancer.New(balancer.Options{
		Pools: []balancer.Pool{balancer.Over(pool)}, Rules: map[string]balancer.Rules{"p": rules},
		Recorder: rec, Tokens: tokens.NewMetrics(nil), MaxBody: 1 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := front.New(front.Options{Handler: &deep{b}})
	if err != nil {
		t.Fatal(err)
	}
	door := openDoor(t)
	serving.Go(func() { _ = f.Serve(door) })
	t.Cleanup(func() {
		_ = door.Close()
		f.Close()
		_ = engine.Close()
		serving.Wait()
	})
	return door.Addr().String()
}

// deep leaves as much less of the stack as handlers before the balancer may take.
type deep struct{ next front.Handler }

func (d *deep) Serve(ctx context.Context, x *exchange.Exchange) {
	var room [64]byte
	at := len(x.Request.Target) % len(room)
	room[at] = 1
	d.next.Serve(ctx, x)
	x.Record.Own = room[at] != 1
}

// beginStreams answers one request of each connection, in one goroutine, until l
// is closed: goroutines of its own would be measured, too.
func beginStreams(t *testing.T, l net.Listener) {
	t.Helper()
	buf := make([]byte, 4<<10)
	answer := fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nServer: uvicorn\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(firstEvent), firstEvent)
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		conns = append(conns, c)
		if err := readUntil(c, buf, []byte(streamBody)); err != nil {
			t.Errorf("engine: %v", err)
			return
		}
		if _, err := c.Write(answer); err != nil {
			t.Errorf("engine: %v", err)
			return
		}
	}
}

const streamBody = `{"model":"tiny","prompt":"Once upon a time there was","stream":true}`

// refused makes a request that no engine gets, and after which the connection goes on.
func refused(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("TRACE / HTTP/1.1\r\nHost: example\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if err := readUntil(c, make([]byte, 4<<10), []byte("CONNECT and TRACE are not supported")); err != nil {
		t.Fatal(err)
	}
}

// openStream returns once the first event has come.
func openStream(t *testing.T, c net.Conn) {
	t.Helper()
	request := fmt.Sprintf("POST /v1/completions HTTP/1.1\r\nHost: example\r\nUser-Agent: OpenAI/Python 1.0\r\nAccept: application/json\r\n"+
		"Authorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", strings.Repeat("x", 40), len(streamBody), streamBody)
	if _, err := c.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if err := readUntil(c, make([]byte, 4<<10), []byte(firstEvent)); err != nil {
		t.Fatal(err)
	}
}

// readUntil reads into buf until end has come.
func readUntil(c net.Conn, buf, end []byte) error {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	for n := 0; !bytes.Contains(buf[:n], end); {
		got, err := c.Read(buf[n:])
		if err != nil {
			return err
		}
		n += got
	}
	return nil
}
