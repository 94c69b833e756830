package front

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"stoker/exchange"
	"stoker/internal/steady"
)

// Idle HTTP/2 connections get GOAWAY; a stream that is open is finished.
func TestDrainHTTP2(t *testing.T) {
	steady.WithLimit(t, 300*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
		begun, finish := make(chan struct{}, 2), make(chan struct{})
		fx := start(t, func(_ context.Context, x *exchange.Exchange) {
			begun <- struct{}{}
			<-finish
			respond(x, 200, "whole")
		})
		type end struct {
			last []uint32
			body string
		}
		watch := func(streamOpen bool) chan end {
			nc, err := net.Dial("tcp", fx.addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = nc.SetDeadline(time.Now().Add(patience))
			t.Cleanup(func() { _ = nc.Close() })
			fr := openHTTP2(t, nc)
			if streamOpen {
				ask(t, fr, 1, "/")
				wait(t, begun, "request")
			}
			ch := make(chan end, 1)
			go func() {
				var got end
				for {
					f, err := fr.ReadFrame()
					if err != nil {
						ch <- got
						return
					}
					switch f := f.(type) {
					case *http2.GoAwayFrame:
						got.last = append(got.last, f.LastStreamID)
						if streamOpen && len(got.last) == 1 {
							ask(t, fr, 3, "/") // it was on its way
							<-begun
							close(finish)
						}
					case *http2.DataFrame:
						got.body += string(f.Data())
					}
				}
			}()
			return ch
		}
		quiet, busy := watch(false), watch(true)
		fx.until(t, "two HTTP/2 connections, one busy", func() bool {
			n := 0
			for c := range fx.conns {
				if c.is(streams) {
					n++
				}
			}
			return n == 2 && fx.busy == 1
		})
		if err := fx.CloseIdle(t.Context(), limit); err != nil {
			t.Error(err)
		}
		const highest = 1<<31 - 1
		if got := wait(t, quiet, "end of the idle one"); !slices.Equal(got.last, []uint32{highest, 0}) {
			t.Errorf("idle connection: last streams %d", got.last)
		}
		if got := wait(t, busy, "end of the busy one"); !slices.Equal(got.last, []uint32{highest, 3}) || got.body != "wholewhole" {
			t.Errorf("busy connection: %+v", got)
		}
	})
}

// Ours goes between two frames, never between fields and their continuation,
// however the frames are cut into writes; and not before SETTINGS.
func TestFarewellGoesBetweenFrames(t *testing.T) {
	frames := [][]byte{
		{0, 0, 0, 4, 0, 0, 0, 0, 0},                // SETTINGS
		{0, 0, 3, 1, 0, 0, 0, 0, 1, 'a', 'b', 'c'}, // HEADERS
		{0, 0, 1, 9, 4, 0, 0, 0, 1, 'd'},           // CONTINUATION
		{0, 0, 2, 0, 1, 0, 0, 0, 1, 'e', 'f'},      // DATA
	}
	stream := slices.Concat(frames...)
	for wanted := range stream {
		for size := 1; size < len(stream); size++ {
			var w farewell
			var out []byte
			for at := 0; at < len(stream); at += size {
				p := stream[at:min(at+size, len(stream))]
				w.follow(p)
				out = append(out, p...)
				w.wanted = w.wanted || at >= wanted
				if w.due() {
					w.said = true
					out = append(out, goAway...)
				}
			}
			if !w.wanted {
				continue
			}
			at := bytes.Index(out, goAway)
			if before := at; before != 9 && before != 31 && before != len(stream) {
				t.Fatalf("wanted at %d, by %d: after %d bytes", wanted, size, before)
			}
		}
	}
}

// After Drain an HTTP/2 client begins nothing more on its connection, one that
// it opens later included.
func TestDrainTellsHTTP2Clients(t *testing.T) {
	clients := make(chan netip.AddrPort, 1)
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		clients <- x.Client
		respond(x, 200, "")
	})
	client := http2Client(t)
	get := func() netip.AddrPort {
		t.Helper()
		r, err := client.Get("http://" + fx.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
		return <-clients
	}
	from := get()
	fx.Drain()
	for range 3 { // each time that the client has been told, it opens another
		now := get()
		for deadline := time.Now().Add(patience); now == from; now = get() {
			if time.Now().After(deadline) {
				t.Fatal("the client goes on over the same connection")
			}
		}
		from = now
	}
}
