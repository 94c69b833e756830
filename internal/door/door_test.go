package door

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"stoker/internal/steady"
)

const (
	question = "are you there?\n"
	answer   = "yes, and this is the whole of it\n"
)

// serve is a front: it answers one question on each connection that it accepts,
// until Accept fails. The function that it returns waits for its last answer.
func serve(ln net.Listener) (wait func()) {
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				if _, err := io.ReadFull(conn, make([]byte, len(question))); err == nil {
					io.WriteString(conn, answer)
				}
			})
		}
	})
	return conns.Wait
}

// outcome of one attempt, as a client can tell them apart.
type outcome string

const (
	complete outcome = "complete"
	refused  outcome = "refused"
	reset    outcome = "reset"
	timeout  outcome = "timeout"
	partial  outcome = "partial"
)

// attempt connects, asks and reads the answer.
func attempt(addr net.Addr) outcome {
	conn, err := net.DialTimeout(addr.Network(), addr.String(), 5*time.Second)
	if err != nil {
		return failure(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	return ask(conn)
}

func ask(conn net.Conn) outcome {
	if _, err := io.WriteString(conn, question); err != nil {
		return failure(err)
	}
	got, err := io.ReadAll(conn)
	switch {
	case err != nil:
		return failure(err)
	case string(got) != answer:
		return partial
	}
	return complete
}

func failure(err error) outcome {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reset
	case errors.Is(err, os.ErrDeadlineExceeded):
		return timeout
	}
	return outcome("unexpected: " + err.Error())
}

// crowd is clients that attempt again and again until they are refused.
type crowd struct {
	clients sync.WaitGroup
	mu      sync.Mutex
	counts  map[outcome]int
	warm    chan struct{} // closed after as many complete answers as there are clients
}

func startCrowd(addr net.Addr, clients int) *crowd {
	c := &crowd{counts: make(map[outcome]int), warm: make(chan struct{})}
	for range clients {
		c.clients.Go(func() {
			for c.count(attempt(addr), clients) == complete {
			}
		})
	}
	return c
}

func (c *crowd) count(o outcome, warm int) outcome {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts[o]++
	if o == complete && c.counts[o] == warm {
		close(c.warm)
	}
	return o
}

func listen(t *testing.T, address string) net.Listener {
	t.Helper()
	ln, err := Listen(t.Context(), address, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// closings runs rounds of a crowd of 100 against a listener that end closes under load, and
// sums up what the clients saw.
func closings(t *testing.T, rounds int, address func(round int) string, end func(net.Listener) (front net.Listener, shut func())) map[outcome]int {
	t.Helper()
	const clients = 100
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		total = make(map[outcome]int)
	)
	turn := make(chan struct{}, 1) // load and close are one round's alone: only the waits for a second SYN overlap
	for round := range rounds {
		ln := listen(t, address(round))
		all.Go(func() {
			turn <- struct{}{}
			front, shut := end(ln)
			wait := serve(front)
			c := startCrowd(ln.Addr(), clients)
			<-c.warm
			shut()
			<-turn
			wait()
			c.clients.Wait()
			mu.Lock()
			defer mu.Unlock()
			for o, n := range c.counts {
				total[o] += n
			}
		})
	}
	all.Wait()
	return total
}

// TestCloseUnderLoadResetsNobody is the promise of the package: whoever
// connects gets a whole answer or is refused.
func TestCloseUnderLoadResetsNobody(t *testing.T) {
	dir := t.TempDir()
	for name, address := range map[string]func(int) string{
		// Reserved, or clients that are to be refused may be answered by another test's
		// listener, which has been given the port meanwhile.
		"tcp4": func(int) string { return steady.Reserve(t, "127.0.0.1") },
		"tcp6": func(int) string { return steady.Reserve(t, "::1") },
		"dual": func(int) string { return steady.Reserve(t, "::") },
		"unix": func(round int) string { return fmt.Sprintf("unix:%s/%d", dir, round) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "tcp6" || name == "dual" {
				skipWithoutIPv6(t)
			}
			got := closings(t, 10, address, func(ln net.Listener) (net.Listener, func()) {
				d := New(hclog.NewNullLogger())
				return d.Add(ln), func() {
					if err := d.Close(context.Background()); err != nil {
						t.Error(err)
					}
				}
			})
			if got[refused] != 10*100 || got[complete] < 10*100 || len(got) != 2 {
				t.Errorf("clients saw %v, want complete answers and 1000 refusals and nothing else", got)
			}
			t.Logf("clients saw %v", got)
		})
	}
}

// TestPlainCloseResets shows that the crowd above can see resets. How many is
// the scheduler's affair; TestQueuedConnectionsAreServed has the certain case.
func TestPlainCloseResets(t *testing.T) {
	got := closings(t, 3, func(int) string { return "127.0.0.1:0" }, func(ln net.Listener) (net.Listener, func()) {
		return ln, func() { ln.Close() }
	})
	t.Logf("with a plain close the clients saw %v", got)
}

// TestQueuedConnectionsAreServed queues connections while nobody accepts: a plain
// close resets them all, the door's end has them all answered.
func TestQueuedConnectionsAreServed(t *testing.T) {
	const clients = 20
	for _, network := range []string{"tcp", "unix"} {
		for _, plain := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/plain=%t", network, plain), func(t *testing.T) {
				t.Parallel()
				address := "127.0.0.1:0"
				if network == "unix" {
					address = "unix:" + filepath.Join(t.TempDir(), "s")
				}
				ln := listen(t, address)
				d := New(hclog.NewNullLogger())
				front := d.Add(ln)
				conns := make([]net.Conn, clients)
				for i := range conns {
					conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
					if err != nil {
						t.Fatal(err)
					}
					defer conn.Close()
					conns[i] = conn
				}
				want := complete
				if plain {
					want = reset
					front.Close()
				} else {
					front.served.Store(true) // a front that is between two Accepts
					closed := make(chan error, 1)
					go func() { closed <- d.Close(context.Background()) }()
					awaitRefusal(t, ln.Addr())
					wait := serve(front)
					defer wait()
					if err := <-closed; err != nil {
						t.Fatal(err)
					}
				}
				for i, conn := range conns {
					if got := ask(conn); got != want {
						t.Errorf("client %d: %s, want %s", i, got, want)
					}
				}
			})
		}
	}
}

// awaitRefusal returns once new clients don't get in any more: refused by a unix
// socket, unanswered by a filtered TCP one.
func awaitRefusal(t *testing.T, addr net.Addr) {
	t.Helper()
	refused := eventually(func() bool {
		conn, err := net.DialTimeout(addr.Network(), addr.String(), 20*time.Millisecond)
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if !refused {
		t.Fatal("new clients still get in")
	}
}

// TestHandshakeHalfWayIsAwaited: the client's side drops the first SYN-ACK, as a
// bad network would, so that its handshake ends a second after the door began to
// close. Its door has a longer limit than others, because the kernel sends a
// second SYN-ACK no sooner.
func TestHandshakeHalfWayIsAwaited(t *testing.T) {
	t.Parallel()
	ln := listen(t, "127.0.0.1:0")
	d := New(hclog.NewNullLogger())
	front := d.Add(ln)
	front.limit = 5 * time.Second
	wait := serve(front)

	eventually(front.served.Load)

	hear, answered := deafClient(t, ln.Addr())
	if !eventually(func() bool { return halfOpen(ln.Addr().(*net.TCPAddr).Port) == 1 }) {
		t.Skip("this kernel does not tell of half-open handshakes (sock_diag)")
	}
	closed := make(chan error, 1)
	go func() { closed <- d.Close(context.Background()) }()
	select {
	case <-closed:
		t.Fatal("closed with a handshake half-way")
	case <-time.After(4 * quiet):
	}
	hear()
	if got := <-answered; got != complete {
		t.Errorf("the late client saw %s, want %s", got, complete)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	wait()
}

// TestHandshakeThatEndsBetweenTwoLooks: it was half-way no more when somebody looked
// for it, and had not been in the queue just before; the door closed on it.
func TestHandshakeThatEndsBetweenTwoLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Listener{limit: emptying, over: make(chan struct{})}
		s := &lateSocket{l: l}
		l.socket = s
		l.empty(t.Context(), quiet)
		if !s.ended || s.waiting > 0 {
			t.Errorf("handshake ended: %v; %d wait to be accepted", s.ended, s.waiting)
		}
	})
}

// lateSocket has a handshake that ends as somebody asks for it, and is accepted soon after.
type lateSocket struct {
	opaque
	l       *Listener
	ended   bool
	waiting int
}

func (s *lateSocket) halfOpen() int {
	if !s.ended {
		s.ended, s.waiting = true, 1
	}
	return 0
}

func (s *lateSocket) queued() int {
	n := s.waiting
	s.waiting = 0
	s.l.accepted.Add(uint64(n))
	return n
}

// deafClient makes an attempt that hears nothing of the server until hear is called.
func deafClient(t *testing.T, addr net.Addr) (hear func(), answered <-chan outcome) {
	t.Helper()
	fds := make(chan int, 1)
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return control(raw, func(fd int) error {
			fds <- fd
			drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
			return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
		})
	}}
	dialer.SetMultipathTCP(false)
	result := make(chan outcome, 1)
	go func() {
		conn, err := dialer.DialContext(t.Context(), addr.Network(), addr.String())
		if err != nil {
			result <- failure(err)
			return
		}
		defer conn.Close()
		result <- ask(conn)
	}()
	fd := <-fds
	return func() {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0); err != nil {
			t.Error(err)
		}
	}, result
}

func eventually(what func() bool) bool {
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if what() {
			return true
		}
	}
	return false
}

// TestCloseEndsForgottenDuplicates: a holder that did not let go must not keep
// clients knocking at a socket from which nobody accepts.
func TestCloseEndsForgottenDuplicates(t *testing.T) {
	for _, address := range []string{steady.Reserve(t, "127.0.0.1"), "unix:" + filepath.Join(t.TempDir(), "s")} {
		ln := listen(t, address)
		dup, err := ln.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		defer dup.Close()
		d := New(hclog.NewNullLogger())
		d.Add(ln)
		d.BeforeClose("the library", func() error { return errors.New("it would not") })
		called := false
		d.BeforeClose("the other", func() error { called = true; return nil })
		err = d.Close(context.Background())
		if err == nil || !strings.Contains(err.Error(), "the library") || !called {
			t.Errorf("%s: error %v, second holder released: %t", address, err, called)
		}
		if got := attempt(ln.Addr()); got != refused {
			t.Errorf("%s: a new client is %s, want refused", address, got)
		}
	}
}

// TestLeaveAndShared: what another process holds goes on listening, queue and path
// included.
func TestLeaveAndShared(t *testing.T) {
	for name, end := range map[string]func(*Door, net.Listener) error{
		"leave":  func(d *Door, ln net.Listener) error { d.Add(ln); return d.Leave() },
		"shared": func(d *Door, ln net.Listener) error { d.AddShared(ln); return d.Close(context.Background()) },
	} {
		for _, address := range []string{"127.0.0.1:0", "unix:" + filepath.Join(t.TempDir(), "s")} {
			ln := listen(t, address)
			file, err := ln.(interface{ File() (*os.File, error) }).File()
			if err != nil {
				t.Fatal(err)
			}
			successor, err := net.FileListener(file)
			file.Close()
			if err != nil {
				t.Fatal(err)
			}
			queued, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer queued.Close()
			if err := end(New(hclog.NewNullLogger()), ln); err != nil {
				t.Errorf("%s %s: %v", name, address, err)
			}
			next := New(hclog.NewNullLogger())
			wait := serve(next.Add(successor))
			if got := ask(queued); got != complete {
				t.Errorf("%s %s: the queued client saw %s", name, address, got)
			}
			if got := attempt(ln.Addr()); got != complete {
				t.Errorf("%s %s: a new client saw %s", name, address, got)
			}
			next.Close(context.Background())
			wait()
		}
	}
}

// TestCloseHurriesWithItsContext: a front that stopped accepting does not hold up
// the end, and what is lost is said.
func TestCloseHurriesWithItsContext(t *testing.T) {
	var logged bytes.Buffer
	ln := listen(t, "127.0.0.1:0")
	d := New(hclog.New(&hclog.LoggerOptions{Output: &logged}))
	front := d.Add(ln)
	front.served.Store(true)
	front.limit = time.Minute
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	began := time.Now()
	d.Close(ctx)
	if took := time.Since(began); took > front.limit/2 {
		t.Errorf("took %v", took)
	}
	if !strings.Contains(logged.String(), "reset=1") {
		t.Errorf("log: %s", logged.String())
	}
}

// TestUnlinkSparesASuccessor: by the time a door closes, its path may be another's.
func TestUnlinkSparesASuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	d := New(hclog.NewNullLogger())
	d.Add(listen(t, "unix:"+path))
	os.Remove(path)
	successor := listen(t, "unix:"+path)
	wait := serve(successor)
	d.Close(context.Background())
	if got := attempt(successor.Addr()); got != complete {
		t.Errorf("the successor's client saw %s", got)
	}
	successor.Close()
	wait()
}
