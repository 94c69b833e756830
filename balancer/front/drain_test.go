package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/steady"
)

// slowListener gives what it has accepted only when it may.
type slowListener struct {
	net.Listener
	got, give chan struct{}
}

func (l *slowListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err == nil {
		close(l.got)
		<-l.give
	}
	return nc, err
}

// TestDrainLosesNobodyJustAccepted: who was taken from the queue in the moment in
// which the listener was closed saw a reset.
func TestDrainLosesNobodyJustAccepted(t *testing.T) {
	fx := start(t, echo)
	l := &slowListener{Listener: listenTCP(t), got: make(chan struct{}), give: make(chan struct{})}
	addr := fx.listenAs(t, l, Manner{})
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(nc)
	defer c.Close()
	c.send(t, get("/"))
	wait(t, l.got, "the accept")
	fx.Drain()
	_, _ = fx.listen.Close(), l.Close()
	ended := make(chan error, 1)
	go func() {
		ended <- errors.Join(fx.WaitAccepted(t.Context()), fx.CloseIdle(t.Context(), time.Millisecond))
	}()
	select {
	case <-ended:
		close(l.give)
		t.Fatal("the end did not wait for who is being accepted")
	case <-time.After(20 * time.Millisecond):
	}
	close(l.give)
	if got, _ := c.answer(t, "GET"); got.StatusCode != http.StatusOK || !got.Close {
		t.Errorf("%s, to be closed: %v", got.Status, got.Close)
	}
	if err := wait(t, ended, "the end"); err != nil {
		t.Error(err)
	}
}

// Many clients with idle connections, one in the middle of a head, one in the
// middle of an answer, one that has said nothing yet: nobody is cut.
func TestDrainCutsNobody(t *testing.T) {
	steady.WithLimit(t, 200*time.Millisecond, func(t *steady.Trial, limit time.Duration) {
		begun, finish := make(chan struct{}), make(chan struct{})
		fx := start(t, func(_ context.Context, x *exchange.Exchange) {
			if x.Request.Target == "/slow" {
				_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
				_, _ = x.Sink.Write([]byte("begun "))
				_ = x.Sink.Flush()
				close(begun)
				<-finish
				_, _ = x.Sink.Write([]byte("done"))
				_ = x.Sink.End(nil)
				return
			}
			respond(x, 200, "ok")
		})
		const clients = 24
		var idleOnes []*client
		for range clients {
			c := fx.dial(t)
			c.send(t, get("/"))
			c.answer(t, "GET")
			idleOnes = append(idleOnes, c)
		}
		half := fx.dial(t)
		half.send(t, get("/"))
		half.answer(t, "GET")
		half.send(t, "GET /late HTT")
		slow := fx.dial(t)
		slow.send(t, get("/slow"))
		wait(t, begun, "slow request")
		silent := fx.dial(t)
		fx.until(t, "all connections known, two of them busy", func() bool { return len(fx.conns) == clients+3 && fx.busy == 2 })

		fx.Drain()
		grace := limit
		closed := make(chan error, 1)
		began := time.Now()
		go func() { closed <- fx.CloseIdle(t.Context(), grace) }()

		// A few use their last chance, and are told that it was.
		for _, c := range idleOnes[:5] {
			c.send(t, get("/last"))
			if r, body := c.answer(t, "GET"); body != "ok" || !r.Close {
				t.Errorf("last request: %q, close %v", body, r.Close)
			}
			c.closed(t)
		}
		// The others are told to go when the grace is over, not all at once.
		var ends []time.Duration
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, c := range append(idleOnes[5:], silent) {
			wg.Go(func() {
				if _, err := c.in.ReadByte(); !errors.Is(err, io.EOF) {
					t.Errorf("idle connection ended with %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, time.Since(began))
			})
		}
		wg.Wait()
		first, last := ends[0], ends[0]
		for _, e := range ends {
			first, last = min(first, e), max(last, e)
		}
		if first < grace || last-first < grace/20 {
			t.Errorf("idle connections were closed from %v to %v after the drain began", first, last)
		}
		// Whoever was reading or serving is still there.
		half.send(t, "P/1.1\r\nHost: a\r\n\r\n")
		if r, body := half.answer(t, "GET"); body != "ok" || !r.Close {
			t.Errorf("late head: %q, close %v", body, r.Close)
		}
		half.closed(t)
		if n := fx.InFlight(); n != 1 {
			t.Errorf("%d in flight, want the slow one", n)
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroke)
		if err := fx.WaitIdle(ctx); !errors.Is(err, errBroke) {
			t.Errorf("WaitIdle with a request in flight: %v", err)
		}
		close(finish)
		// Its head went out before the drain, so its connection is kept for the grace.
		if _, body := slow.answer(t, "GET"); body != "begun done" {
			t.Errorf("slow answer %q", body)
		}
		slow.closed(t)
		if err := wait(t, closed, "CloseIdle's end"); err != nil {
			t.Errorf("CloseIdle: %v", err)
		}
		if err := fx.WaitIdle(t.Context()); err != nil {
			t.Errorf("WaitIdle: %v", err)
		}
	})
}

// until waits for a state of the front; check runs under its lock.
func (fx *fixture) until(tb testing.TB, what string, check func() bool) {
	tb.Helper()
	deadline := time.After(patience)
	for {
		fx.mu.Lock()
		ok, changed := check(), fx.whenChanged()
		fx.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			tb.Fatalf("%s: not reached", what)
		}
	}
}

func TestCloseIdleWithoutGrace(t *testing.T) {
	fx := start(t, echo)
	c, blank := fx.dial(t), fx.dial(t)
	for _, c := range []*client{c, blank} {
		c.send(t, get("/"))
		c.answer(t, "GET")
	}
	blank.send(t, "\r\n") // begins nothing
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := fx.CloseIdle(ctx, brief); err != nil {
		t.Error(err)
	}
	c.closed(t)
	blank.closed(t)
}

func TestCloseIdleEndsWithItsContext(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		close(begun)
		<-finish
		respond(x, 200, "ok")
	})
	c := fx.dial(t)
	c.send(t, get("/"))
	wait(t, begun, "request")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errBroke)
	if err := fx.CloseIdle(ctx, 0); !errors.Is(err, errBroke) {
		t.Errorf("got %v", err)
	}
	close(finish)
	if r, _ := c.answer(t, "GET"); !r.Close {
		t.Error("answered without Connection: close")
	}
}

// A stream whose handler begins when its connection has gone already is none. It
// was taken out of the list of requests all the same, and the others with it.
func TestStreamOfAConnectionThatHasGone(t *testing.T) {
	begun, finish := make(chan struct{}), make(chan struct{})
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		begun <- struct{}{}
		<-finish
		respond(x, 200, "")
	})
	c := fx.dial(t)
	c.send(t, get("/"))
	wait(t, begun, "another request")
	late := &conn{front: fx.Front}
	late.phase.Store(int32(gone))
	r := httptest.NewRequestWithContext(context.WithValue(t.Context(), connKey{}, late), http.MethodGet, "/", nil)
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler { //nolint:errorlint // the very value
				t.Errorf("ended with %v", p)
			}
		}()
		fx.ServeHTTP(httptest.NewRecorder(), r)
	}()
	if n := fx.InFlight(); n != 1 {
		t.Errorf("%d requests in flight", n)
	}
	if n := fx.Cut(exchange.ErrShutdown); n != 1 {
		t.Errorf("cut %d", n)
	}
	close(finish)
}

// Cut reaches every kind of request that does not end by itself.
func TestCut(t *testing.T) {
	waiting := make(chan string, 10)
	fx := start(t, func(ctx context.Context, x *exchange.Exchange) {
		var err error
		switch x.Request.Target {
		case "/upload":
			waiting <- "upload"
			_, err = io.ReadAll(x.Body)
		case "/deaf":
			_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
			waiting <- "deaf"
			for err == nil {
				_, err = x.Sink.Write(make([]byte, 64<<10))
			}
			x.Sink.Break(err)
			return
		case "/begun":
			_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
			_ = x.Sink.Flush()
			waiting <- "begun"
			<-ctx.Done()
			x.Sink.Break(context.Cause(ctx))
			return
		default:
			waiting <- "silent"
			<-ctx.Done()
		}
		if !errors.Is(context.Cause(ctx), exchange.ErrShutdown) {
			t.Errorf("%s: cause %v after %v", x.Request.Target, context.Cause(ctx), err)
		}
		respond(x, 503, "cut")
	})
	requests := map[string]string{
		"/upload": "POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
		"/deaf":   get("/deaf"),
		"/begun":  get("/begun"),
		"/silent": get("/silent"),
	}
	conns := make(map[string]*client)
	for target, request := range requests {
		conns[target] = fx.dial(t)
		conns[target].send(t, request)
		wait(t, waiting, target)
	}
	h2 := http2Client(t)
	over := make(chan error, 2)
	for _, target := range []string{"/upload", "/deaf"} {
		body, w := io.Pipe()
		defer w.Close()
		go func() {
			r, err := h2.Post("http://"+fx.addr+target, "text/plain", body)
			if err == nil {
				if target == "/upload" {
					_, err = io.ReadAll(r.Body)
				}
				_ = r.Body.Close()
			}
			over <- err
		}()
		wait(t, waiting, "http/2 "+target)
	}
	if n := fx.Cut(exchange.ErrShutdown); n != len(requests)+2 {
		t.Errorf("cut %d", n)
	}
	for _, target := range []string{"/upload", "/silent"} {
		if r, body := conns[target].answer(t, "GET"); r.StatusCode != http.StatusServiceUnavailable || body != "cut" {
			t.Errorf("%s: %d %q", target, r.StatusCode, body)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := fx.WaitIdle(ctx); err != nil {
		t.Errorf("still busy: %v", err)
	}
	r, err := http.ReadResponse(conns["/begun"].in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if _, err := io.ReadAll(r.Body); err == nil {
		t.Error("an answer that was cut looks whole")
	}
	for range 2 {
		wait(t, over, "http/2 answer")
	}
}

// Close alone ends everything, and only returns when every handler has.
func TestCloseWaitsForHandlers(t *testing.T) {
	begun := make(chan struct{}, 10)
	var running sync.WaitGroup
	fx := start(t, func(ctx context.Context, x *exchange.Exchange) {
		running.Add(1)
		defer running.Done()
		begun <- struct{}{}
		<-ctx.Done()
		x.Sink.Break(context.Cause(ctx))
	})
	fx.dial(t) // says nothing
	for range 3 {
		fx.dial(t).send(t, get("/"))
		wait(t, begun, "request")
	}
	go func() {
		if r, err := http2Client(t).Get("http://" + fx.addr); err == nil {
			_ = r.Body.Close()
		}
	}()
	wait(t, begun, "http/2 request")
	fx.Close()
	running.Wait() // at once, or the race detector complains
	if n := fx.InFlight(); n != 0 {
		t.Errorf("%d in flight", n)
	}
}

// Connections come and go during all of it.
func TestDrainUnderLoad(t *testing.T) {
	fx := start(t, func(_ context.Context, x *exchange.Exchange) { respond(x, 200, x.Request.Target) })
	var wg sync.WaitGroup
	var mu sync.Mutex
	answered, refused := 0, 0
	warm := make(chan struct{}, 20)
	for i := range 20 {
		wg.Go(func() {
			var c *client
			for n := 0; ; n++ {
				if n == 10 {
					warm <- struct{}{}
				}
				if c == nil {
					nc, err := net.Dial("tcp", fx.addr)
					if err != nil {
						mu.Lock()
						refused++
						mu.Unlock()
						return
					}
					defer nc.Close()
					c = newClient(nc)
				}
				target := fmt.Sprintf("/%d/%d", i, n)
				c.send(t, get(target))
				r, body := c.answer(t, "GET")
				if body != target {
					t.Errorf("%s: got %q", target, body)
				}
				mu.Lock()
				answered++
				mu.Unlock()
				if r.Close {
					c = nil
				}
			}
		})
	}
	for range 20 {
		wait(t, warm, "load")
	}
	_ = fx.listen.Close()
	// Nobody is idle but who is not run just now: who was told to go comes back, and is refused.
	if err := fx.CloseIdle(t.Context(), patience); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if refused != 20 || answered < 200 {
		t.Errorf("%d answered, %d refused", answered, refused)
	}
}
