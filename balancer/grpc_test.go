package balancer

import (
	"errors"
	"io"
	"testing"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

func TestIsGRPC(t *testing.T) {
	for kind, want := range map[string]bool{
		"application/grpc": true, "application/grpc+proto": true, "Application/GRPC;x=y": true, "application/grpc ; x=y": true,
		"application/grpc-web": false, "application/json": false, "": false, "application/gr": false,
	} {
		r := http1.Request{Proto: 20, Fields: http1.Fields{{Name: "Content-Type", Value: kind}}}
		if got := isGRPC(&r); got != want {
			t.Errorf("%q: %v", kind, got)
		}
		if r.Proto = 11; isGRPC(&r) {
			t.Errorf("%q over HTTP/1.1", kind)
		}
	}
}

// TestGRPCRefusals: what a client of gRPC is told of what goes wrong.
func TestGRPCRefusals(t *testing.T) {
	failed := func(op upstream.Op, err error) error { return &upstream.Failure{Op: op, Sent: true, Err: err} }
	for _, c := range []struct {
		err  error
		code string
		wait string
	}{
		{upstream.ErrNoneReady, "14", "5000"},
		{upstream.ErrPoolClosed, "14", "5000"},
		{upstream.ErrQueueFull, "8", "1000"},
		{upstream.ErrQueueTimeout, "8", "1000"},
		{exchange.ErrDeadline, "4", ""},
		{exchange.ErrDrained, "14", "1000"},
		{errNoRoute, "12", ""},
		{errMethod, "12", ""},
		{errTarget, "3", ""},
		{errTimeoutField, "3", ""},
		{errAheadTooLarge, "8", ""},
		{failed(upstream.OpRead, io.ErrUnexpectedEOF), "14", ""},
		{failed(upstream.OpTimeout, errors.New("late")), "4", ""},
		{failed(upstream.OpClientBody, exchange.ErrClientSlow), "1", ""},
		{failed(upstream.OpCanceled, exchange.ErrDeadline), "4", ""},
	} {
		r := grpcRefusal(classify(c.err))
		if r.status != 200 || len(r.body) > 0 || r.fields.Get("Content-Type") != "application/grpc" {
			t.Errorf("%v: %+v", c.err, r)
		}
		if code, wait := r.fields.Get("Grpc-Status"), r.fields.Get("Grpc-Retry-Pushback-Ms"); code != c.code || wait != c.wait {
			t.Errorf("%v: code %s, again after %q; want %s, %q", c.err, code, wait, c.code, c.wait)
		}
	}
	if got := grpcMessage("100% “sure”\n"); got != "100%25 %E2%80%9Csure%E2%80%9D%0A" {
		t.Errorf("%q", got)
	}
	if v := classify(failed(upstream.OpClientBody, upstream.ErrNoWebSocket)); v.status != 501 || v.blame || v.code != "websocket_over_http2" {
		t.Errorf("a WebSocket to an upstream of HTTP/2: %+v", v)
	}
}
