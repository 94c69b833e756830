package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// newHTTP2 is a real server, and a transport to it: over "tcp", "unix" or "tls".
func newHTTP2(tb testing.TB, network string, handle http.HandlerFunc) (*httptest.Server, *Transport) {
	tb.Helper()
	checkGoroutines(tb)
	s := httptest.NewUnstartedServer(handle)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.DisableGeneralOptionsHandler = true
	s.Config.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: 1000}
	p := Peer{HTTP2: true}
	switch network {
	case "tls":
		s.EnableHTTP2 = true
		s.StartTLS()
		p.Secure = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: s.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs, ServerName: "example.com", NextProtos: []string{"h2"}}
		p.Address = s.Listener.Addr().String()
	default:
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		if network == "unix" {
			path := filepath.Join(tb.TempDir(), "s")
			l, err := net.Listen("unix", path)
			if err != nil {
				tb.Fatal(err)
			}
			s.Listener.Close()
			s.Listener, p.Address = l, "unix:"+path
		}
		s.Start()
		if network == "tcp" {
			p.Address = s.Listener.Addr().String()
		}
	}
	t := newPeerTransport(p, TransportOptions{ConnectTimeout: 10 * time.Second})
	tb.Cleanup(func() {
		t.Close()
		s.CloseClientConnections()
		s.Close()
	})
	return s, t
}

var http2Networks = []string{"tcp", "unix", "tls"}

func TestHTTP2Carries(t *testing.T) {
	large := randomBytes(3 << 20)
	for _, network := range http2Networks {
		t.Run(network, func(t *testing.T) {
			_, tr := newHTTP2(t, network, func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 2 || r.Header.Get("Te") != "trailers" || r.Host != "test" {
					t.Errorf("%s, TE %q, host %q", r.Proto, r.Header.Get("Te"), r.Host)
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Errorf("the request's body: %v", err)
				}
				w.Header().Set("X-Asked", fmt.Sprintf("%s %s %s %d %d", r.Method, r.RequestURI, r.Header.Get("X-Field"), r.ContentLength, len(body)))
				w.Header()["X-Many"] = []string{"1", "2"}
				switch r.URL.Path {
				case "/trailers":
					fmt.Fprint(w, "body")
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				case "/alone":
					w.Header().Set("Grpc-Status", "12")
				case "/nothing":
					w.WriteHeader(http.StatusNoContent)
				case "/large":
					w.Write(large)
				case "/echo":
					w.Write(body)
				}
			})
			for _, c := range []struct {
				name     string
				x        *exchange.Exchange
				asked    string
				status   int
				body     []byte
				trailers http1.Fields
			}{
				{name: "target", x: asking("GET", "/a%2Fb//c?d;e=%20&f"), asked: "GET /a%2Fb//c?d;e=%20&f x 0 0"},
				{name: "two slashes", x: asking("GET", "//a/b"), asked: "GET //a/b x 0 0"},
				{name: "asterisk", x: asking("OPTIONS", "*"), asked: "OPTIONS * x 0 0"},
				{name: "head", x: asking("HEAD", "/large"), asked: "HEAD /large x 0 0"},
				{name: "trailers", x: asking("GET", "/trailers"), asked: "GET /trailers x 0 0", body: []byte("body"), trailers: http1.Fields{{Name: "Grpc-Status", Value: "0"}}},
				{name: "trailers only", x: asking("GET", "/alone"), asked: "GET /alone x 0 0"},
				{name: "no content", x: asking("GET", "/nothing"), asked: "GET /nothing x 0 0", status: http.StatusNoContent},
				{name: "large answer", x: asking("GET", "/large"), asked: "GET /large x 0 0", body: large},
				{name: "small body", x: sending("/echo", []byte("small"), 5), asked: "POST /echo x 5 5", body: []byte("small")},
				{name: "large body", x: sending("/echo", large, int64(len(large))), asked: fmt.Sprintf("POST /echo x %d %[1]d", len(large)), body: large},
				{name: "body of unknown length", x: sending("/echo", large, -1), asked: fmt.Sprintf("POST /echo x -1 %d", len(large)), body: large},
				{name: "empty body of unknown length", x: sending("/echo", nil, -1), asked: "POST /echo x -1 0"},
			} {
				n := newNotes(t)
				if err := tr.Do(t.Context(), c.x, n); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
				if c.status == 0 {
					c.status = http.StatusOK
				}
				if asked := n.fields.Get("X-Asked"); n.status != c.status || asked != c.asked || !n.ended {
					t.Errorf("%s: %d, %q, ended %v; want %q", c.name, n.status, asked, n.ended, c.asked)
				}
				if !bytes.Equal(n.body.Bytes(), c.body) || fmt.Sprint(n.trailers) != fmt.Sprint(c.trailers) {
					t.Errorf("%s: %d bytes, trailers %v", c.name, n.body.Len(), n.trailers)
				}
			}
			if tr.Progress() < uint64(len(large)) {
				t.Errorf("progress %d", tr.Progress())
			}
		})
	}
}

func asking(method, target string) *exchange.Exchange {
	return &exchange.Exchange{Request: http1.Request{Method: method, Target: target, Authority: "test", Fields: http1.Fields{{Name: "x-field", Value: "x"}}}}
}

// sending is a request with a body, of a length that is known or not (-1).
func sending(target string, body []byte, length int64) *exchange.Exchange {
	x := asking("POST", target)
	x.Length, x.Body = length, bytes.NewReader(body)
	return x
}

// pipe is a request's body that a test writes, and that can be interrupted.
type pipe struct {
	*io.PipeReader
	interrupted atomic.Bool
}

func (p *pipe) Interrupt() {
	p.interrupted.Store(true)
	p.CloseWithError(io.ErrClosedPipe)
}

// stream is a request whose body is written while it is answered.
func stream(target string) (*exchange.Exchange, *io.PipeWriter, *pipe) {
	r, w := io.Pipe()
	x, p := asking("POST", target), &pipe{PipeReader: r}
	x.Length, x.Body = -1, p
	return x, w, p
}

// TestHTTP2IsFullDuplex: a head without a body is passed on at once, and each
// message is answered before the next is sent.
func TestHTTP2IsFullDuplex(t *testing.T) {
	_, tr := newHTTP2(t, "unix", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		buf := make([]byte, 100)
		for {
			n, err := r.Body.Read(buf)
			w.Write(buf[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
				return
			}
		}
	})
	x, to, _ := stream("/")
	n := newNotes(t)
	done := make(chan error, 1)
	go func() { done <- tr.Do(t.Context(), x, n) }()
	<-n.changed // the head
	for i := range 20 {
		fmt.Fprintf(to, "message %02d", i)
		for have := 0; have < (i+1)*10; {
			<-n.changed
			n.mu.Lock()
			have = n.body.Len()
			n.mu.Unlock()
		}
	}
	to.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := n.trailers.Get("Grpc-Status"); got != "0" {
		t.Errorf("trailers %v", n.trailers)
	}
}

// TestHTTP2AnswerEndsFirst: what the client still sends is of no use then.
func TestHTTP2AnswerEndsFirst(t *testing.T) {
	for _, status := range []int{200, 413} {
		_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		x, to, body := stream("/")
		go fmt.Fprint(to, "some")
		n := newNotes(t)
		if err := tr.Do(t.Context(), x, n); err != nil || n.status != status || !n.ended {
			t.Errorf("%d: %v, %d", status, err, n.status)
		}
		if !body.interrupted.Load() {
			t.Error("the client's body is still read")
		}
	}
}

func TestHTTP2CancelIsSeenByTheUpstream(t *testing.T) {
	errTest := errors.New("because")
	gone := make(chan struct{}, 10)
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/begun" {
			w.(http.Flusher).Flush()
		}
		if r.URL.Path != "/" {
			<-r.Context().Done()
			gone <- struct{}{}
		}
	})
	for _, path := range []string{"/silent", "/begun"} {
		ctx, cancel := context.WithCancelCause(t.Context())
		x, to, _ := stream(path)
		n := newNotes(t)
		done := make(chan error, 1)
		go func() { done <- tr.Do(ctx, x, n) }()
		fmt.Fprint(to, "x") // is read: the request is under way
		if path == "/begun" {
			<-n.changed
		}
		cancel(errTest)
		f := asFailure(t, <-done, OpCanceled)
		if !errors.Is(f.Err, errTest) || !f.Sent || f.Begun != (path == "/begun") {
			t.Errorf("%s: %+v", path, f)
		}
		<-gone
		if err := tr.Do(t.Context(), asking("GET", "/"), newNotes(t)); err != nil {
			t.Errorf("%s: the next: %v", path, err)
		}
	}
	if len(tr.trunks.list) != 1 {
		t.Errorf("%d trunks", len(tr.trunks.list))
	}
}

func TestHTTP2Cut(t *testing.T) {
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	n := newNotes(t)
	done := make(chan error, 1)
	go func() { done <- tr.Do(t.Context(), asking("GET", "/"), n) }()
	<-n.changed
	if cut := tr.Cut(exchange.ErrDrained); cut != 1 {
		t.Errorf("cut %d", cut)
	}
	if f := asFailure(t, <-done, OpCanceled); !errors.Is(f.Err, exchange.ErrDrained) {
		t.Errorf("%v", f.Err)
	}
}

// TestHTTP2ManyShareFew: a crowd is carried over as few connections as it takes,
// and what is closed serves on until it is idle.
func TestHTTP2ManyShareFew(t *testing.T) {
	const crowd = 3*maxStreams - 1
	var conns sync.Map
	all := make(chan struct{})
	var came atomic.Int64
	_, tr := newHTTP2(t, "tcp", func(_ http.ResponseWriter, r *http.Request) {
		conns.Store(r.RemoteAddr, true)
		if came.Add(1) == crowd {
			close(all)
		}
		<-all
	})
	var wait sync.WaitGroup
	for range crowd {
		wait.Go(func() {
			if err := tr.Do(t.Context(), asking("GET", "/"), newNotes(t)); err != nil {
				t.Error(err)
			}
		})
	}
	<-all
	tr.Close()
	wait.Wait()
	used := 0
	conns.Range(func(any, any) bool { used++; return true })
	if used < 3 || used > 4 { // the server lets 100 in before it has said how many may come
		t.Errorf("%d connections for %d exchanges", used, crowd)
	}
	if err := tr.Do(t.Context(), asking("GET", "/"), newNotes(t)); err != nil {
		t.Errorf("after Close: %v", err)
	}
	if left := len(tr.trunks.list); left != 0 {
		t.Errorf("%d trunks are left", left)
	}
}

func TestHTTP2ResponseTimeout(t *testing.T) {
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/stream" {
			w.(http.Flusher).Flush()
			time.Sleep(50 * time.Millisecond) // longer than the limit, which has been kept by then
			return
		}
		<-r.Context().Done()
	})
	tr.setLimits(TransportOptions{ResponseTimeout: 20 * time.Millisecond})
	f := asFailure(t, tr.Do(t.Context(), sending("/", []byte("x"), 1), newNotes(t)), OpTimeout)
	if !f.Sent || f.Begun {
		t.Errorf("%+v", f)
	}
	tr.setLimits(TransportOptions{ResponseTimeout: 20 * time.Second})
	x, to, _ := stream("/stream")
	go to.Close()
	if err := tr.Do(t.Context(), x, newNotes(t)); err != nil {
		t.Error(err)
	}
}

// TestHTTP2BackPressure: who does not take an answer holds up its stream, and no other.
func TestHTTP2BackPressure(t *testing.T) {
	var wrote atomic.Int64
	ended := make(chan struct{})
	_, tr := newHTTP2(t, "tcp", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			return
		}
		defer close(ended)
		piece := make([]byte, 16<<10)
		for range 1000 {
			n, err := w.Write(piece)
			if wrote.Add(int64(n)); err != nil {
				return
			}
		}
	})
	n := newNotes(t)
	stuck, free := make(chan struct{}), make(chan struct{})
	var once sync.Once
	n.onWrite = func() { once.Do(func() { close(stuck); <-free }) }
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- tr.Do(ctx, asking("GET", "/endless"), n) }()
	<-stuck
	for before := int64(-1); before != wrote.Load(); time.Sleep(50 * time.Millisecond) {
		before = wrote.Load()
	}
	if got := wrote.Load(); got > streamWindow+largeBuffer+64<<10 {
		t.Errorf("%d bytes were written to a client that takes none", got)
	}
	if err := tr.Do(t.Context(), asking("GET", "/"), newNotes(t)); err != nil {
		t.Errorf("beside it: %v", err)
	}
	cancel()
	close(free)
	asFailure(t, <-done, OpCanceled)
	<-ended
}
