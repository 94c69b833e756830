package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// The benchmarks compare Do with what net/http's ReverseProxy does: its
// Transport, and a copy that flushes after each read. Both talk to the same
// raw server in this process and give the answer to a sink that does nothing,
// so that what differs is the transport.

const smallJSON = `{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"`

// benchRequest is 1 KiB; so is benchAnswer's body.
var (
	benchRequest = []byte(strings.Repeat("r", 1024))
	benchAnswer  = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ndate: Mon, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"+
		"content-type: application/json\r\ncontent-length: 1024\r\n\r\n%-1024s", smallJSON)
)

// events is how many SSE chunks a streamed answer of the benchmark has.
const events = 100

// benchServer answers with no more work than two system calls: one read takes
// a request whole. A stream waits for a token before each event.
func benchServer(b *testing.B, network string, step <-chan struct{}) *rawServer {
	b.Helper()
	const data = `data: {"choices":[{"delta":{"content":"x"}}]}` + "\n\n"
	event := fmt.Appendf(nil, "%x\r\n%s\r\n", len(data), data)
	return serve(b, network, func(c net.Conn) {
		conn, err := rawconn.Wrap(c)
		if err != nil {
			b.Error(err)
			return
		}
		buf := make([]byte, 8<<10)
		for {
			for got := 0; got < len(benchRequest); { // head and body may come apart
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				got += n
			}
			if step == nil {
				conn.Write(benchAnswer)
				continue
			}
			io.WriteString(conn, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
			for range events {
				if _, ok := <-step; !ok {
					return
				}
				conn.Write(event)
			}
			io.WriteString(conn, "0\r\n\r\n")
		}
	})
}

// void is a sink that takes everything and, for a stream, asks for the next event.
type void struct{ step chan<- struct{} }

func (v void) Interim(int, http1.Fields) error                { return nil }
func (v void) Head(*http1.Response, int64) error              { return nil }
func (v void) Write(p []byte) (int, error)                    { return len(p), nil }
func (v void) Splice(s *rawconn.Conn, n int64) (int64, error) { return rawconn.Copy(io.Discard, s, n) }
func (v void) End(http1.Fields) error                         { return nil }
func (v void) Break(error)                                    {}
func (v void) Flush() error {
	if v.step != nil {
		select {
		case v.step <- struct{}{}:
		default:
		}
	}
	return nil
}

// carrier is one way to bring a request to the upstream and its answer back.
type carrier func(b *testing.B, s *rawServer) func(ctx context.Context, body []byte, sink void) error

func ours(b *testing.B, s *rawServer) func(context.Context, []byte, void) error {
	b.Helper()
	t := s.transport(b, TransportOptions{})
	x := get()
	x.Request.Method, x.Request.Target = "POST", "/v1/chat/completions"
	x.Request.Fields = http1.Fields{{Name: "Content-Type", Value: "application/json"}, {Name: "X-Request-Id", Value: "0123456789abcdef"}}
	var in bytes.Reader
	return func(ctx context.Context, body []byte, sink void) error {
		in.Reset(body)
		x.Body, x.Length = &in, int64(len(body))
		return t.Do(ctx, x, sink)
	}
}

func netHTTP(b *testing.B, s *rawServer) func(context.Context, []byte, void) error {
	b.Helper()
	network, address := "tcp", s.address
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		},
		DisableCompression: true, MaxIdleConnsPerHost: 256,
	}
	b.Cleanup(t.CloseIdleConnections)
	buf := make([]byte, 32<<10)
	return func(ctx context.Context, body []byte, sink void) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://test/v1/chat/completions", bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("X-Request-Id", "0123456789abcdef")
		a, err := t.RoundTrip(r)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		sink.Flush()
		for {
			n, err := a.Body.Read(buf)
			sink.Write(buf[:n])
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			sink.Flush()
		}
	}
}

// reportCPU measures the processor time of the whole process, server included:
// what a proxy pays for a wake-up does not show in the time that passes.
func reportCPU(b *testing.B) func() {
	b.Helper()
	used := func() time.Duration {
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/float64(b.N), "cpu-ns/op") }
}

var carriers = []struct {
	name string
	make carrier
}{{"ours", ours}, {"nethttp", netHTTP}}

// BenchmarkSmall is a POST of 1 KiB answered with 1 KiB, on a connection kept alive.
func BenchmarkSmall(b *testing.B) {
	for _, network := range transports {
		for _, c := range carriers {
			b.Run(network+"/"+c.name, func(b *testing.B) {
				do := c.make(b, benchServer(b, network, nil))
				ctx, cancel := context.WithCancelCause(b.Context())
				defer cancel(exchange.ErrClientGone)
				b.ReportAllocs()
				defer reportCPU(b)()
				for b.Loop() {
					if err := do(ctx, benchRequest, void{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkEvent is one event of a stream, sent after the last was flushed.
func BenchmarkEvent(b *testing.B) {
	for _, network := range transports {
		for _, c := range carriers {
			b.Run(network+"/"+c.name, func(b *testing.B) {
				step := make(chan struct{}, events)
				do := c.make(b, benchServer(b, network, step))
				ctx, cancel := context.WithCancelCause(b.Context())
				defer cancel(exchange.ErrClientGone)
				b.ReportAllocs()
				defer reportCPU(b)()
				for i := 0; i < b.N; i += events {
					if err := do(ctx, benchRequest, void{step}); err != nil {
						b.Fatal(err)
					}
					for len(step) > 0 {
						<-step
					}
				}
			})
		}
	}
}

// BenchmarkAfterFunc is what watching a context costs each exchange.
func BenchmarkAfterFunc(b *testing.B) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	f := func() {}
	b.ReportAllocs()
	for b.Loop() {
		context.AfterFunc(ctx, f)()
	}
}
