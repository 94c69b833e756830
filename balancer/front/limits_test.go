package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/steady"
)

// brief is a limit that is meant to be reached.
const brief = 100 * time.Millisecond

// trickle writes text a byte at a time until the connection ends or all is said.
func (c *client) trickle(text string) {
	for i := range len(text) {
		if _, err := io.WriteString(c, text[i:i+1]); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func TestHeadsThatTakeTooLong(t *testing.T) {
	fx := startAs(t, echo, func(f *Front) { f.limits.Load().Head = brief })
	for name, say := range map[string]func(c *client){
		"silence after the first bytes":             func(c *client) { c.send(t, "GET / HT") },
		"silence after the first bytes, kept alive": func(c *client) { c.send(t, get("/")); c.answer(t, "GET"); c.send(t, "G") },
		"silence behind a whole request":            func(c *client) { c.send(t, get("/")+"GET /"); c.answer(t, "GET") },
		"a byte now and then":                       func(c *client) { go c.trickle("GET / HTTP/1.1\r\n" + strings.Repeat("A: b\r\n", 90)) },
	} {
		t.Run(name, func(t *testing.T) {
			c := fx.dial(t)
			say(c)
			r, body := c.answer(t, "GET")
			if r.StatusCode != http.StatusRequestTimeout || !r.Close || !strings.Contains(body, "head_timeout") {
				t.Errorf("got %d %s, close %v", r.StatusCode, body, r.Close)
			}
			_ = c.Conn.(*net.TCPConn).CloseWrite()
		})
	}
}

func TestIdleConnectionsAreClosedInSilence(t *testing.T) {
	steady.WithLimit(t, brief, func(t *steady.Trial, limit time.Duration) {
		fx := startAs(t, echo, func(f *Front) { f.limits.Load().Idle = limit })
		silent := fx.dial(t)
		used := fx.dial(t)
		used.send(t, get("/"))
		used.answer(t, "GET")
		blank := fx.dial(t)
		blank.send(t, "\r\n") // begins nothing
		for _, c := range []*client{silent, used, blank} {
			c.closed(t)
		}
	})
}

// One empty line before a request is skipped, and no more, however they come.
func TestEmptyLineBeforeARequest(t *testing.T) {
	fx := startAs(t, echo, func(f *Front) { f.limits.Load().Head = patience })
	c := fx.dial(t)
	for i := range 3 {
		c.send(t, "\r\n")
		fx.until(t, "the line read", func() bool { return !slices.ContainsFunc(slices.Collect(maps.Keys(fx.conns)), (*conn).waiting) })
		c.send(t, get("/"+fmt.Sprint(i)))
		if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusOK {
			t.Fatalf("status %d", r.StatusCode)
		}
	}
	for range 2 {
		c.send(t, "\r\n")
		fx.until(t, "the line read", func() bool { return !slices.ContainsFunc(slices.Collect(maps.Keys(fx.conns)), (*conn).waiting) })
	}
	if r, _ := c.answer(t, "GET"); r.StatusCode != http.StatusBadRequest || !r.Close {
		t.Errorf("status %d, close %v", r.StatusCode, r.Close)
	}
}

// The limits are for clients that wait, not for those who are made to.
func TestSlowEnginesAreNotTheClientsFault(t *testing.T) {
	steady.WithLimit(t, brief, func(t *steady.Trial, limit time.Duration) {
		fx := startAs(t, func(ctx context.Context, x *exchange.Exchange) {
			<-time.After(3 * limit)
			echo(ctx, x)
		}, func(f *Front) { f.limits.Load().Idle, f.limits.Load().Head, f.limits.Load().Body = limit, limit, limit })
		c := fx.dial(t)
		c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"+get("/next"))
		for range 2 {
			if r, body := c.answer(t, "POST"); r.StatusCode != http.StatusOK {
				t.Errorf("got %d %s", r.StatusCode, body)
			}
		}
	})
}

func TestBodiesThatTakeTooLong(t *testing.T) {
	failed := make(chan error, 1)
	fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
		_, err := io.ReadAll(x.Body)
		failed <- err
		respond(x, 408, "slow")
	}, func(f *Front) { f.limits.Load().Body, f.limits.Load().BodyRate = brief, 1<<20 })
	for name, body := range map[string]string{
		"silence":                "Content-Length: 3\r\n\r\na",
		"silence in chunks":      "Transfer-Encoding: chunked\r\n\r\n3\r\na",
		"asked for, never comes": "Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
		"a byte now and then":    "Content-Length: 100000\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := fx.dial(t)
			c.send(t, "POST / HTTP/1.1\r\nHost: a\r\n"+body)
			if name == "a byte now and then" {
				go c.trickle(strings.Repeat("x", 10000))
			}
			if err := wait(t, failed, "the body's end"); !errors.Is(err, exchange.ErrClientSlow) {
				t.Errorf("the body ended with %v", err)
			}
			r, _ := c.answer(t, "POST")
			if r.StatusCode == http.StatusContinue {
				r, _ = c.answer(t, "POST")
			}
			if r.StatusCode != http.StatusRequestTimeout || !r.Close {
				t.Errorf("got %d, close %v", r.StatusCode, r.Close)
			}
		})
	}
}

// A client that reads nothing, or next to nothing, is given up, in whatever
// way its answer is written; the connection is reset, so that nothing of it
// stays in the kernel.
func TestClientThatDoesNotReadIsGivenUp(t *testing.T) {
	for _, how := range []string{"chunked", "sized", "spliced", "until close"} {
		for _, reads := range []string{"nothing", "a little"} {
			t.Run(how+", reads "+reads, func(t *testing.T) {
				t.Parallel()
				failed := make(chan error, 1)
				fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
					err := flood(t, x, how)
					failed <- err
					x.Sink.Break(err)
				}, func(f *Front) { f.limits.Load().Write, f.limits.Load().WriteRate = 3*brief, 1<<20 })
				c := fx.dial(t)
				_ = c.Conn.(*net.TCPConn).SetReadBuffer(16 << 10)
				version := "1.1"
				if how == "until close" {
					version = "1.0"
				}
				c.send(t, "GET / HTTP/"+version+"\r\nHost: a\r\n\r\n")
				stop := make(chan struct{})
				var reading sync.WaitGroup
				if reads == "a little" {
					reading.Go(func() {
						for {
							select {
							case <-stop:
								return
							case <-time.After(brief / 10):
								_, _ = c.in.ReadByte()
							}
						}
					})
				}
				if err := wait(t, failed, "the write's error"); !errors.Is(err, errReadsSlowly) {
					t.Errorf("ended with %v", err)
				}
				close(stop)
				reading.Wait()
				if all, err := io.ReadAll(c.in); !errors.Is(err, syscall.ECONNRESET) || bytes.HasSuffix(all, []byte("0\r\n\r\n")) {
					t.Errorf("%d bytes, %v", len(all), err)
				}
				fx.until(t, "no connection", func() bool { return len(fx.conns) == 0 })
			})
		}
	}
}

// flood answers with more than any buffer holds until the client is given up.
func flood(t *testing.T, x *exchange.Exchange, how string) error {
	t.Helper()
	length := int64(-1)
	if how == "sized" || how == "spliced" {
		length = 1 << 40
	}
	_ = x.Sink.Head(&http1.Response{Status: 200}, length)
	if how == "spliced" {
		engine, src := pair(t)
		go func() {
			for p := make([]byte, 64<<10); ; {
				if _, err := engine.Write(p); err != nil {
					return
				}
			}
		}()
		_, err := x.Sink.Splice(src, length)
		return err
	}
	for {
		if _, err := x.Sink.Write(make([]byte, 64<<10)); err != nil {
			return err
		}
	}
}

// The same in HTTP/2, where a client may read its connection but not its stream.
func TestStreamThatIsNotReadIsGivenUp(t *testing.T) {
	failed := make(chan error, 1)
	fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/small" {
			respond(x, 200, "small")
			return
		}
		err := flood(t, x, "chunked")
		failed <- err
		x.Sink.Break(err)
	}, func(f *Front) { f.limits.Load().Write = 3 * brief })
	client := http2Client(t)
	r, err := client.Get("http://" + fx.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := wait(t, failed, "the write's error"); !errors.Is(err, errReadsSlowly) {
		t.Errorf("ended with %v", err)
	}
	if n, err := io.Copy(io.Discard, r.Body); err == nil {
		t.Errorf("%d bytes, and a clean end", n)
	}
	other, err := client.Get("http://" + fx.addr + "/small")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Body.Close()
	if body, err := io.ReadAll(other.Body); string(body) != "small" {
		t.Errorf("%q, %v", body, err)
	}
}

// A transfer may take as long as it likes while it moves, also when it moves so
// slowly that the socket takes nothing for longer than the limit.
func TestSlowReaderIsServed(t *testing.T) {
	steady.WithLimit(t, brief, func(t *steady.Trial, limit time.Duration) {
		const size = 6 << 20
		engine, src := pair(t)
		fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
			_ = x.Sink.Head(&http1.Response{Status: 200}, size)
			if _, err := x.Sink.Splice(src, size); err != nil {
				x.Sink.Break(err)
				return
			}
			_ = x.Sink.End(nil)
		}, func(f *Front) { f.limits.Load().Write = limit })
		go func() { _, _ = engine.Write(make([]byte, size)) }()
		c := fx.dial(t)
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10)
		c.send(t, get("/"))
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		began, got := time.Now(), 0
		for buf := make([]byte, 128<<10); ; {
			n, err := io.ReadFull(r.Body, buf)
			got += n
			if err != nil {
				break
			}
			time.Sleep(limit / 4)
		}
		if took := time.Since(began); got != size || took < 5*limit {
			t.Errorf("%d bytes of %d in %v", got, size, took)
		}
	})
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		limits func(l *Limits)
		status int
	}{
		{"in all", func(l *Limits) { l.Conns = 2 }, http.StatusServiceUnavailable},
		{"of one address", func(l *Limits) { l.ConnsPerAddress = 2 }, http.StatusTooManyRequests},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			fx := startAs(t, echo, func(f *Front) { tc.limits(f.limits.Load()) })
			var held []*client
			for range 2 {
				c := fx.dial(t)
				c.send(t, get("/"))
				c.answer(t, "GET")
				held = append(held, c)
			}
			for len(fx.records) > 0 {
				<-fx.records
			}
			// It may be told when it asks, in one piece or more, or at last when it does not.
			for _, ask := range []string{get("/"), "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "no HTTP\r\n\r\n", "GET / HT"} {
				c := fx.dial(t)
				c.send(t, ask)
				if r, body := c.answer(t, "GET"); r.StatusCode != tc.status || !r.Close || !strings.Contains(body, "too_many_connections") || r.Header.Get("Retry-After") == "" {
					t.Errorf("%q: got %d %s", ask, r.StatusCode, body)
				}
				c.closed(t)
				if rec := wait(t, fx.records, "record"); rec.Outcome != exchange.OutcomeLimited || rec.Refused != codeTooMany || rec.Status != tc.status {
					t.Errorf("%q: record %+v", ask, rec)
				}
			}
			for range 2 {
				held[0].send(t, get("/")) // who is there is served
				held[0].answer(t, "GET")
			}
			_ = held[0].Close()
			fx.until(t, "one connection", func() bool { return len(fx.conns) == 1 })
			c := fx.dial(t)
			c.send(t, get("/"))
			c.answer(t, "GET")
		})
	}
}

// Who is refused holds a connection for a moment; when there are many, not even that.
func TestFloodOfConnections(t *testing.T) {
	t.Parallel()
	fx := startAs(t, echo, func(f *Front) { f.limits.Load().Conns = 1 })
	honest := fx.dial(t)
	honest.send(t, get("/"))
	honest.answer(t, "GET")
	var flood []*client
	for range maxRefused + 20 {
		flood = append(flood, fx.dial(t))
	}
	last := flood[len(flood)-1]
	if r, _ := last.answer(t, "GET"); r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("got %d", r.StatusCode)
	}
	if n := fx.Connections(); n > maxRefused+1 {
		t.Errorf("%d connections", n)
	}
	honest.send(t, get("/"))
	honest.answer(t, "GET")
	for _, c := range flood[:3] {
		c.answer(t, "GET")
	}
}

func TestWhoIsCountedByAddress(t *testing.T) {
	l := Limits{Exempt: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")}}
	for client, want := range map[string]string{
		"192.0.2.7": "192.0.2.7", "10.1.2.3": "", "fd00::1": "", "2001:db8:1:2:3::4": "2001:db8:1:2::", "fe80::1%eth0": "fe80::",
	} {
		got := ""
		if a := l.peerOf(netip.MustParseAddr(client)); a.IsValid() {
			got = a.String()
		}
		if got != want {
			t.Errorf("%s is counted as %q, want %q", client, got, want)
		}
	}
	if l.peerOf(netip.Addr{}).IsValid() {
		t.Error("a unix socket's peer is counted")
	}
}

// An engine that takes a body slowly makes no client slow.
func TestSlowEngineIsNotASlowBody(t *testing.T) {
	steady.WithLimit(t, 6*brief, func(t *steady.Trial, limit time.Duration) {
		fx := startAs(t, func(_ context.Context, x *exchange.Exchange) {
			got, pauses := 0, 0
			for buf := make([]byte, 1<<20); ; {
				n, err := x.Body.Read(buf)
				got += n
				if err != nil {
					respond(x, 200, fmt.Sprint(got, " ", err))
					return
				}
				if pauses < 3 {
					pauses++
					time.Sleep(limit + limit/3)
				}
			}
		}, func(f *Front) { f.limits.Load().Body, f.limits.Load().BodyRate = limit, 1<<30 })
		c := fx.dial(t)
		c.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n")
		go func() { _, _ = c.Write(make([]byte, 8<<20)) }()
		if _, body := c.answer(t, "POST"); body != "8388608 EOF" {
			t.Errorf("got %s", body)
		}
	})
}

// Byte for byte: what the client gets of an answer.
func TestAnswersOnTheWire(t *testing.T) {
	const date = "\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\n"
	fields := http1.Fields{{Name: "x-B", Value: "2"}, {Name: "Date", Value: "Mon, 02 Jan 2006 15:04:05 GMT"}, {Name: "X-a", Value: "1"}}
	lines := "x-B: 2" + date + "X-a: 1\r\n"
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		length, body := int64(-1), "abc"
		fmt.Sscanf(x.Request.Target, "/%d", &length)
		if length >= 0 {
			body = body[:min(length, 3)]
		}
		status := 200
		if strings.HasSuffix(x.Request.Target, "no") {
			status = 204
		}
		_ = x.Sink.Interim(103, http1.Fields{{Name: "link", Value: "x"}})
		_ = x.Sink.Head(&http1.Response{Status: status, Reason: "Fine", Fields: fields}, length)
		if x.Request.Method != http.MethodHead && status == 200 {
			_, _ = x.Sink.Write([]byte(body))
		}
		if err := x.Sink.End(nil); err != nil {
			x.Sink.Break(err)
		}
	})
	const hints = "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n"
	for _, tc := range []struct{ name, request, want string }{
		{"sized", "GET /3 HTTP/1.1", hints + "HTTP/1.1 200 Fine\r\n" + lines + "Content-Length: 3\r\nConnection: close\r\n\r\nabc"},
		{"chunked", "GET / HTTP/1.1", hints + "HTTP/1.1 200 Fine\r\n" + lines + "Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n"},
		{"HEAD", "HEAD /3 HTTP/1.1", hints + "HTTP/1.1 200 Fine\r\n" + lines + "Content-Length: 3\r\nConnection: close\r\n\r\n"},
		{"204", "GET /0no HTTP/1.1", hints + "HTTP/1.1 204 Fine\r\n" + lines + "Connection: close\r\n\r\n"},
		{"too little", "GET /5 HTTP/1.1", hints + "HTTP/1.1 200 Fine\r\n" + lines + "Content-Length: 5\r\nConnection: close\r\n\r\nabc"},
		{"HTTP/1.0, sized", "GET /3 HTTP/1.0", "HTTP/1.1 200 Fine\r\n" + lines + "Content-Length: 3\r\nConnection: close\r\n\r\nabc"},
		{"HTTP/1.0, until close", "GET / HTTP/1.0", "HTTP/1.1 200 Fine\r\n" + lines + "Connection: close\r\n\r\nabc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := fx.dial(t)
			c.send(t, tc.request+"\r\nHost: a\r\nConnection: close\r\n\r\n")
			if all, err := io.ReadAll(c.in); string(all) != tc.want {
				t.Errorf("got  %q, %v\nwant %q", all, err, tc.want)
			}
		})
	}
	t.Run("HTTP/1.0, kept", func(t *testing.T) {
		c := fx.dial(t)
		for range 2 {
			c.send(t, "GET /3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
			if r, body := c.answer(t, "GET"); body != "abc" || r.Header.Get("Connection") != "keep-alive" {
				t.Errorf("got %q, %v", body, r.Header)
			}
		}
		c.send(t, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		c.answer(t, "GET")
		c.closed(t)
	})
	t.Run("a Date where there is none", func(t *testing.T) {
		fx := start(t, func(_ context.Context, x *exchange.Exchange) { respond(x, 200, "") })
		c := fx.dial(t)
		c.send(t, get("/"))
		r, _ := c.answer(t, "GET")
		if at, err := http.ParseTime(r.Header.Get("Date")); err != nil || time.Since(at) > time.Minute {
			t.Errorf("Date %q, %v", r.Header.Get("Date"), err)
		}
	})
}

// Mistakes of who answers break the answer; they never shift it into the next.
func TestAnswersThatDoNotFitTheirHead(t *testing.T) {
	errs := make(chan error, 2)
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		if x.Request.Target != "/none" {
			_ = x.Sink.Head(&http1.Response{Status: 200}, 3)
		}
		_, err := x.Sink.Write([]byte("abcdef"))
		errs <- err
		err = x.Sink.End(nil)
		errs <- err
		x.Sink.Break(err)
	})
	for _, target := range []string{"/none", "/more"} {
		c := fx.dial(t)
		c.send(t, get(target))
		for range 2 {
			if err := wait(t, errs, "error"); err == nil {
				t.Errorf("%s was taken", target)
			}
		}
		if all, _ := io.ReadAll(c.in); bytes.Contains(all, []byte("def")) {
			t.Errorf("%s: got %q", target, all)
		}
	}
}
