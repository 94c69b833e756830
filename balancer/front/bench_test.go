package front_test

import (
	"bufio"
	"context"
	"io"
	"testing"

	"stoker/balancer"
	"stoker/balancer/front"
	"stoker/exchange"
	"stoker/internal/http1"
)

// ownPool answers by itself, so that only front and balancer are measured.
type ownPool struct{ body []byte }

func (p *ownPool) Name() string { return "p" }

func (p *ownPool) Acquire(context.Context, *balancer.Want) (balancer.Lease, error) { return p, nil }

func (p *ownPool) Refused() {}

func (p *ownPool) Release()  {}
func (p *ownPool) Failed()   {}
func (p *ownPool) Answered() {}

var engineFields = http1.Fields{
	{Name: "Content-Type", Value: "application/json"},
	{Name: "Date", Value: "Mon, 02 Jan 2006 15:04:05 GMT"},
	{Name: "Server", Value: "uvicorn"},
}

func (p *ownPool) Do(_ context.Context, x *exchange.Exchange, sink exchange.Sink) error {
	if x.Body != nil {
		if _, err := io.Copy(io.Discard, x.Body); err != nil {
			return err
		}
	}
	_ = sink.Head(&http1.Response{Status: 200, Fields: engineFields}, int64(len(p.body)))
	_, _ = sink.Write(p.body)
	return sink.End(nil)
}

func BenchmarkServeHTTP(b *testing.B) {
	pool := &ownPool{body: make([]byte, 1024)}
	bal, err := balancer.New(balancer.Options{Pools: []balancer.Pool{pool}})
	if err != nil {
		b.Fatal(err)
	}
	f, err := front.New(front.Options{Handler: bal})
	if err != nil {
		b.Fatal(err)
	}
	l := listen(b)
	go func() { _ = f.Serve(l) }()
	b.Cleanup(f.Close)
	m := &machine{addr: l.Addr().String()}
	c, in := m.dial(b)
	request := []byte("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nAuthorization: Bearer x\r\nUser-Agent: bench\r\nContent-Length: 4\r\n\r\nbody")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		skipAnswer(b, in)
	}
}

// skipAnswer reads one without making garbage.
func skipAnswer(b *testing.B, in *bufio.Reader) {
	b.Helper()
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			b.Fatal(err)
		}
		if len(line) == 2 {
			break
		}
	}
	if _, err := in.Discard(1024); err != nil {
		b.Fatal(err)
	}
}
