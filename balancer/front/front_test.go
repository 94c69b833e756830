package front

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/steady"
)

// patience bounds every wait of a test; nothing is expected to take as long.
const patience = 10 * time.Second

type handlerFunc func(ctx context.Context, x *exchange.Exchange)

func (h handlerFunc) Serve(ctx context.Context, x *exchange.Exchange) { h(ctx, x) }

type observed chan exchange.Record

func (o observed) Observe(x *exchange.Exchange) { o <- x.Record }

// fixture is a front on a loopback port.
type fixture struct {
	*Front
	addr    string
	listen  net.Listener
	records observed
}

func start(tb testing.TB, serve handlerFunc) *fixture {
	tb.Helper()
	return startAs(tb, serve, func(*Front) {})
}

// startAs changes the front before it serves.
func startAs(tb testing.TB, serve handlerFunc, change func(f *Front)) *fixture {
	tb.Helper()
	fx := &fixture{records: make(observed, 1000)}
	f, err := New(Options{Handler: serve, Observers: []Observer{fx.records}})
	if err != nil {
		tb.Fatal(err)
	}
	change(f)
	fx.Front = f
	fx.listen = listenOn(tb, "tcp", steady.Reserve(tb, "127.0.0.1")) // where nobody else is met when it is closed
	fx.addr = fx.listen.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.Serve(fx.listen) }()
	tb.Cleanup(func() {
		_ = fx.listen.Close()
		f.Close()
		if err := <-served; err != nil {
			tb.Errorf("Serve: %v", err)
		}
	})
	return fx
}

// listenOn returns a listener as a door makes it.
func listenOn(tb testing.TB, network, address string) net.Listener {
	tb.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	a, err := rawconn.NewAcceptor(l)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

// client is a raw connection.
type client struct {
	net.Conn
	in *bufio.Reader
}

func (fx *fixture) dial(tb testing.TB) *client {
	tb.Helper()
	nc, err := net.Dial("tcp", fx.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = nc.Close() })
	return newClient(nc)
}

func newClient(nc net.Conn) *client {
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{Conn: nc, in: bufio.NewReader(nc)}
}

func (c *client) send(tb testing.TB, text string) {
	tb.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		tb.Fatal(err)
	}
}

// answer reads a whole one.
func (c *client) answer(tb testing.TB, method string) (reply, string) {
	tb.Helper()
	r, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err != nil {
		tb.Fatalf("no answer: %v", err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		tb.Fatalf("answer broken: %v", err)
	}
	return reply{r}, string(body)
}

// reply is what came of an answer whose body has been read.
type reply struct{ *http.Response }

// closed fails unless the connection ends without another byte.
func (c *client) closed(tb testing.TB) {
	tb.Helper()
	b, err := c.in.ReadByte()
	if err == nil {
		tb.Fatalf("got %q, want the connection closed", b)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		tb.Fatal("the connection was not closed")
	}
}

func get(path string) string { return "GET " + path + " HTTP/1.1\r\nHost: a.test\r\n\r\n" }

// respond writes a whole answer.
func respond(x *exchange.Exchange, status int, body string, fields ...http1.Field) {
	_ = x.Sink.Head(&http1.Response{Status: status, Fields: fields}, int64(len(body)))
	if x.Request.Method != http.MethodHead {
		_, _ = x.Sink.Write([]byte(body))
	}
	_ = x.Sink.End(nil)
}

// echo answers with what it was asked.
func echo(_ context.Context, x *exchange.Exchange) {
	var body []byte
	if x.Body != nil {
		var err error
		if body, err = io.ReadAll(x.Body); err != nil {
			respond(x, 400, err.Error())
			return
		}
	}
	slices.SortFunc(x.Request.Fields, func(a, b http1.Field) int { return strings.Compare(a.Name, b.Name) })
	text := fmt.Sprintf("%s %s %s %d len=%d %v %s", x.Request.Method, x.Request.Target, x.Request.Authority,
		x.Request.Proto, x.Length, x.Request.Fields, body)
	if x.Trailers != nil {
		text += fmt.Sprint(" ", x.Trailers())
	}
	respond(x, 200, text)
}

// http2Client speaks HTTP/2 with prior knowledge.
func http2Client(tb testing.TB) *http.Client {
	tb.Helper()
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	tb.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

func wait[T any](tb testing.TB, ch <-chan T, what string) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		tb.Fatalf("%s did not come", what)
		panic("unreachable")
	}
}

func TestRequestIsPassedOnAsReceived(t *testing.T) {
	fx := start(t, echo)
	for _, tc := range []struct{ name, request, want string }{
		{"get", get("/a"), "GET /a a.test 11 len=0 [] "},
		{"escapes, doubled slashes, dots and an odd query stay", get("//a%2Fb/../%7e;x?q=%zz&&b=;?"), "GET //a%2Fb/../%7e;x?q=%zz&&b=;? a.test 11 len=0 [] "},
		{"absolute form", "GET http://b.test?x=1 HTTP/1.1\r\nHost: b.test\r\n\r\n", "GET /?x=1 b.test 11 len=0 [] "},
		{"absolute form without path", "GET http://b.test HTTP/1.1\r\nHost: b.test\r\n\r\n", "GET / b.test 11 len=0 [] "},
		{"options *", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", "OPTIONS * a.test 11 len=0 [] "},
		{"options of a server in absolute form", "OPTIONS http://b.test HTTP/1.1\r\nHost: b.test\r\n\r\n", "OPTIONS * b.test 11 len=0 [] "},
		{"fields of one name in order", "GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nB: 2\r\nX-A: 3\r\n\r\n", "GET / a 11 len=0 [{B 2} {X-A 1} {X-A 3}] "},
		{"sized body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "POST / a 11 len=3 [] abc []"},
		{"empty body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "POST / a 11 len=0 [] "},
		{"chunked body with trailer", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n", "POST / a 11 len=-1 [{Trailer X-T}] abc [{X-T 1}]"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := fx.dial(t)
			c.send(t, tc.request)
			r, body := c.answer(t, "GET")
			if r.StatusCode != http.StatusOK || body != tc.want {
				t.Errorf("got %d %q\nwant %q", r.StatusCode, body, tc.want)
			}
		})
	}
	t.Run("http/2", func(t *testing.T) {
		req, err := http.NewRequest(http.MethodPost, "http://"+fx.addr, strings.NewReader("abc"))
		if err != nil {
			t.Fatal(err)
		}
		req.URL.Opaque = "/a%2Fb//?q=%zz"
		req.Host, req.ContentLength = "a.test", -1
		req.Header = http.Header{"X-A": {"1"}, "User-Agent": {""}, "Accept-Encoding": {"identity"}}
		r, err := http2Client(t).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		if want := "POST /a%2Fb//?q=%zz a.test 20 len=-1 [{Accept-Encoding identity} {X-A 1}] abc []"; string(body) != want {
			t.Errorf("got  %q\nwant %q", body, want)
		}
		if r.ProtoMajor != 2 {
			t.Errorf("answered by %s", r.Proto)
		}
	})
}

func TestAnswerIsPassedOnAsGiven(t *testing.T) {
	const date = "Mon, 02 Jan 2006 15:04:05 GMT"
	given := []http1.Field{{Name: "date", Value: date}, {Name: "x-a", Value: "1"}, {Name: "X-A", Value: "2"}}
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		switch x.Request.Target {
		case "/plain":
			respond(x, 200, "<html>", given...)
		case "/head":
			_ = x.Sink.Head(&http1.Response{Status: 200, Fields: given}, 12345)
			_ = x.Sink.End(nil)
		case "/304", "/204":
			status := 304
			if x.Request.Target == "/204" {
				status = 204
			}
			_ = x.Sink.Head(&http1.Response{Status: status, Fields: given}, -1)
			_ = x.Sink.End(nil)
		case "/trailers":
			_ = x.Sink.Head(&http1.Response{Status: 200, Fields: given}, -1)
			_, _ = x.Sink.Write([]byte("body"))
			_ = x.Sink.End(http1.Fields{{Name: "grpc-status", Value: "0"}})
		case "/hints":
			_ = x.Sink.Interim(103, http1.Fields{{Name: "Link", Value: "</a>"}})
			respond(x, 200, "after")
		}
	})
	check := func(t *testing.T, r *http.Response, length int64) {
		t.Helper()
		if got := r.Header.Values("Date"); len(got) != 1 || got[0] != date {
			t.Errorf("Date %q", got)
		}
		if got := r.Header.Values("X-A"); !slices.Equal(got, []string{"1", "2"}) {
			t.Errorf("X-A %q", got)
		}
		if _, guessed := r.Header["Content-Type"]; guessed {
			t.Errorf("Content-Type %q was made up", r.Header["Content-Type"])
		}
		if r.ContentLength != length {
			t.Errorf("length %d, want %d", r.ContentLength, length)
		}
	}
	c := fx.dial(t)
	for _, tc := range []struct {
		method, path string
		length       int64
		body         string
	}{{"GET", "/plain", 6, "<html>"}, {"HEAD", "/head", 12345, ""}, {"GET", "/304", 0, ""}, {"GET", "/204", 0, ""}, {"GET", "/trailers", -1, "body"}} {
		t.Run(tc.method+tc.path, func(t *testing.T) {
			c.send(t, tc.method+" "+tc.path+" HTTP/1.1\r\nHost: a\r\n\r\n")
			r, body := c.answer(t, tc.method)
			check(t, r.Response, tc.length)
			if body != tc.body {
				t.Errorf("body %q", body)
			}
			if tc.path == "/trailers" && r.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("trailers %v", r.Trailer)
			}
		})
		t.Run("h2 "+tc.method+tc.path, func(t *testing.T) {
			req, _ := http.NewRequest(tc.method, "http://"+fx.addr+tc.path, nil)
			r, err := http2Client(t).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != tc.body {
				t.Errorf("body %q, %v", body, err)
			}
			if strings.HasSuffix(tc.path, "04") {
				r.ContentLength = tc.length // the two versions differ in how they say "none"
			}
			check(t, r, tc.length)
			if tc.path == "/trailers" && r.Trailer.Get("Grpc-Status") != "0" {
				t.Errorf("trailers %v", r.Trailer)
			}
		})
	}
	t.Run("early hints", func(t *testing.T) {
		c := fx.dial(t)
		c.send(t, get("/hints"))
		r, _ := c.answer(t, "GET")
		if r.StatusCode != http.StatusEarlyHints || r.Header.Get("Link") != "</a>" {
			t.Fatalf("got %d %v", r.StatusCode, r.Header)
		}
		r, body := c.answer(t, "GET")
		if r.StatusCode != http.StatusOK || body != "after" || r.Header.Get("Link") != "" {
			t.Errorf("got %d %q %v", r.StatusCode, body, r.Header)
		}
	})
}

func TestEventArrivesBeforeTheNextIsMade(t *testing.T) {
	next := make(chan struct{})
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		_ = x.Sink.Head(&http1.Response{Status: 200}, -1)
		for i := range 3 {
			fmt.Fprintf(x.Sink, "data: %d\n\n", i)
			_ = x.Sink.Flush()
			<-next
		}
		_ = x.Sink.End(nil)
	})
	read := func(t *testing.T, body io.Reader) {
		t.Helper()
		buf := make([]byte, 64)
		for i := range 3 {
			n, err := io.ReadAtLeast(body, buf, len("data: 0\n\n"))
			if err != nil || string(buf[:n]) != fmt.Sprintf("data: %d\n\n", i) {
				t.Fatalf("event %d: %q, %v", i, buf[:n], err)
			}
			next <- struct{}{}
		}
		if n, err := body.Read(buf); n != 0 || err != io.EOF {
			t.Errorf("after the last: %d bytes, %v", n, err)
		}
	}
	t.Run("http/1.1", func(t *testing.T) {
		c := fx.dial(t)
		c.send(t, get("/"))
		r, err := http.ReadResponse(c.in, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		read(t, r.Body)
	})
	t.Run("http/2", func(t *testing.T) {
		r, err := http2Client(t).Get("http://" + fx.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		read(t, r.Body)
	})
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	fx := start(t, echo)
	c := fx.dial(t)
	c.send(t, get("/1")+"POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"+get("/3"))
	for i := 1; i <= 3; i++ {
		if _, body := c.answer(t, "GET"); !strings.Contains(body, fmt.Sprintf(" /%d ", i)) {
			t.Errorf("answer %d: %q", i, body)
		}
	}
}

func TestPanicEndsOneRequestAndIsReportedOnce(t *testing.T) {
	fx := start(t, func(_ context.Context, x *exchange.Exchange) {
		if x.Request.Target == "/panic" {
			panic("defect")
		}
		respond(x, 200, "ok")
	})
	c := fx.dial(t)
	c.send(t, get("/panic"))
	c.closed(t)
	if rec := wait(t, fx.records, "record"); rec.Outcome != OutcomePanic || rec.Err == nil {
		t.Errorf("outcome %q, %v", rec.Outcome, rec.Err)
	}
	c = fx.dial(t)
	c.send(t, get("/"))
	c.answer(t, "GET")
}

func TestUnixSocket(t *testing.T) {
	fx := start(t, echo)
	l := listenOn(t, "unix", t.TempDir()+"/s")
	served := make(chan error, 1)
	go func() { served <- fx.Serve(l) }()
	nc, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &client{Conn: nc, in: bufio.NewReader(nc)}
	c.send(t, get("/unix"))
	if _, body := c.answer(t, "GET"); !strings.HasPrefix(body, "GET /unix") {
		t.Errorf("got %q", body)
	}
	_ = nc.Close()
	_ = l.Close()
	if err := wait(t, served, "Serve's end"); err != nil {
		t.Error(err)
	}
}

// A head that is too large, or no HTTP, never reaches the handler.
func TestBadHeadsAreRefused(t *testing.T) {
	fx := start(t, echo)
	for name, tc := range map[string]struct {
		head   string
		status int
	}{
		"too large":  {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 32<<10) + "\r\n\r\n", 431},
		"no host":    {"GET / HTTP/1.1\r\n\r\n", 400},
		"two length": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
		"no http":    {"hello\r\n\r\n", 400},
		"half http2": {"PRI * HTTP/2.0\r\n\r\nGET / HTTP/1.1\r\n", 505},
	} {
		t.Run(name, func(t *testing.T) {
			c := fx.dial(t)
			go func() { _, _ = io.WriteString(c, tc.head) }() // it may be cut off
			if r, _ := c.answer(t, "GET"); r.StatusCode != tc.status {
				t.Errorf("got %d, want %d", r.StatusCode, tc.status)
			}
			if rec := wait(t, fx.records, "record"); rec.Refused == "" || rec.Status != tc.status || rec.Outcome != exchange.OutcomeClientError || rec.Err == nil || rec.ClientIP != "127.0.0.1" {
				t.Errorf("record %+v", rec)
			}
		})
	}
}
