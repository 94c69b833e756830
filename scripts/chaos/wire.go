package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// outcome is how a request ended for its client.
type outcome string

const (
	right    outcome = "right"
	refusal  outcome = "refused by us"
	broken   outcome = "broken off"
	left     outcome = "hung up"
	lost     outcome = "no answer"
	stale    outcome = "no answer on an idle connection"
	crossed  outcome = "no answer on a connection that was idle for long"
	noDial   outcome = "connection refused"
	timedOut outcome = "time-out"
	wrong    outcome = "WRONG"
)

// result is one request's end.
type result struct {
	outcome outcome
	detail  string
}

// limit is when a client gives up. Nothing here may last as long.
const limit = 30 * time.Second

// idleSlack is how much earlier than after its grace a master that leaves may seem to
// have closed an idle connection: what came to it last it has noticed before its client.
const idleSlack = 100 * time.Millisecond

// errLeft: the client has done what it came for and hangs up.
var errLeft = errors.New("the client hangs up")

// wire is a client's connections, one for each version, kept for the next request.
type wire struct {
	conn   net.Conn // HTTP/1.1
	reader *bufio.Reader
	to     string // where conn leads
	used   time.Time
	h2     *http.Transport
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.Close()
		w.conn = nil
	}
	if w.h2 != nil {
		w.h2.CloseIdleConnections()
		w.h2 = nil
	}
}

// do makes one request at an address.
func (w *wire) do(s *spec, address string) result {
	if s.http2 {
		return w.doHTTP2(s, address)
	}
	if w.conn != nil && (s.fresh || w.to != address || gone(w.conn)) {
		_ = w.conn.Close()
		w.conn = nil
	}
	reused, idle := w.conn != nil, time.Since(w.used)
	if !reused {
		conn, err := net.DialTimeout("tcp", address, limit) //nolint:noctx // it has its own limit
		if err != nil {
			return judge(err, noDial)
		}
		w.conn, w.reader, w.to = conn, bufio.NewReader(conn), address
	}
	_ = w.conn.SetDeadline(time.Now().Add(limit))
	r, keep := w.exchange(s)
	if r.outcome == lost && reused {
		r.outcome = stale
		if idle > idleGrace-idleSlack {
			r.outcome = crossed
		}
	}
	w.used = time.Now()
	if !keep {
		_ = w.conn.Close()
		w.conn = nil
	}
	return r
}

// gone says whether an idle connection has been closed by the other side, as any
// client looks before it uses one, or something has come that nobody asked for. It
// asks the kernel: a read with a deadline does not look at all where the machine
// is busy enough for the deadline to have passed before.
func gone(conn net.Conn) bool {
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return true
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = errors.Is(err, syscall.EAGAIN)
	})
	return err != nil || !quiet
}

// exchange is one request over conn.
func (w *wire) exchange(s *spec) (r result, keep bool) {
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_ = w.send(s) // what it could not send shows in the answer
	}()
	// send ends at the latest when the connection does.
	defer func() {
		if !keep {
			_ = w.conn.Close()
		}
		<-sent
	}()
	if s.manner == hangUpEarly || s.manner == hangUpMid {
		time.Sleep(s.pause)
		w.hangUp(s)
		return result{outcome: left}, false
	}
	r, keep = w.receive(s)
	// Whatever the first answer was, the second follows: left unread, it would be
	// taken for that to the next request on this connection.
	if s.manner == pipelined && keep && r.outcome != wrong {
		second := s.sibling()
		r, keep = w.receive(&second)
	}
	if keep && w.reader.Buffered() > 0 {
		more, _ := w.reader.Peek(min(w.reader.Buffered(), 80))
		return result{wrong, fmt.Sprintf("%d bytes after its answer: %.80q", w.reader.Buffered(), more)}, false
	}
	return r, keep
}

// sibling is the request that follows a pipelined one.
func (s *spec) sibling() spec {
	next := *s
	next.id += "b"
	return next
}

// receive reads one answer.
func (w *wire) receive(s *spec) (r result, keep bool) {
	response, err := http.ReadResponse(w.reader, &http.Request{Method: s.method()})
	if err != nil {
		return judge(err, lost), false
	}
	defer response.Body.Close() //nolint:errcheck // read to its end, or the connection is closed
	body, err := s.read(response.Body)
	if errors.Is(err, errLeft) {
		w.hangUp(s)
		return result{outcome: left}, false
	}
	if err != nil {
		return s.half(response, body, err), false
	}
	return s.verdict(response, body), !response.Close
}

// half judges an answer that broke off.
func (s *spec) half(response *http.Response, body []byte, err error) result {
	if response.StatusCode == http.StatusOK {
		if wrongly := s.checkBegin(body); wrongly != nil {
			return result{wrong, wrongly.Error()}
		}
	}
	return judge(err, broken)
}

func (w *wire) hangUp(s *spec) {
	if tcp, ok := w.conn.(*net.TCPConn); ok && s.reset {
		_ = tcp.SetLinger(0)
	}
	_ = w.conn.Close()
}

// send writes the request as the manner says.
func (w *wire) send(s *spec) error {
	if s.manner == pipelined {
		second := s.sibling()
		_, err := io.WriteString(w.conn, s.head()+second.head())
		return err
	}
	head, body := s.head(), s.body()
	if s.what == chunked {
		body = inChunks(body)
	}
	if s.manner == slowHead {
		for _, part := range []string{head[:10], head[10 : len(head)-20], head[len(head)-20:]} {
			if _, err := io.WriteString(w.conn, part); err != nil {
				return err
			}
			time.Sleep(s.pause)
		}
	} else if _, err := io.WriteString(w.conn, head); err != nil {
		return err
	}
	if s.manner == hangUpMid {
		body = body[:len(body)/2]
	}
	_, err := w.conn.Write(body)
	return err
}

// head is the request's head as HTTP/1.1 has it.
func (s *spec) head() string {
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: chaos\r\nX-Request-Id: %s\r\n", s.method(), s.target(), s.id)
	if s.deadline > 0 {
		fmt.Fprintf(&head, "X-Request-Timeout: %d\r\n", s.deadline)
	}
	switch body := s.body(); {
	case s.what == chunked:
		head.WriteString("Transfer-Encoding: chunked\r\n")
	case body != nil:
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(body))
	}
	return head.String() + "\r\n"
}

// inChunks frames a body in chunks of growing size.
func inChunks(body []byte) []byte {
	var out []byte
	for size := 1; len(body) > 0; size *= 3 {
		n := min(size, len(body))
		out = fmt.Appendf(out, "%x\r\n", n)
		out = append(append(out, body[:n]...), "\r\n"...)
		body = body[n:]
	}
	return append(out, "0\r\n\r\n"...)
}

// read takes the answer's body as the manner says.
func (s *spec) read(from io.Reader) ([]byte, error) {
	switch s.manner {
	case hangUpLate:
		_, err := io.CopyN(io.Discard, from, 50)
		if err == nil || errors.Is(err, io.EOF) {
			err = errLeft
		}
		return nil, err
	case slowRead:
		var body bytes.Buffer
		for range 40 {
			if _, err := io.CopyN(&body, from, 700); errors.Is(err, io.EOF) {
				return body.Bytes(), nil
			} else if err != nil {
				return nil, err
			}
			time.Sleep(20 * time.Millisecond)
		}
		_, err := io.Copy(&body, from)
		return body.Bytes(), err
	case plain, hangUpEarly, hangUpMid, slowHead, pipelined:
	}
	return io.ReadAll(from)
}

func (w *wire) doHTTP2(s *spec, address string) result {
	if w.h2 == nil || s.fresh {
		if w.h2 != nil {
			w.h2.CloseIdleConnections()
		}
		w.h2 = &http.Transport{Protocols: new(http.Protocols)}
		w.h2.Protocols.SetUnencryptedHTTP2(true)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, s.method(), "http://"+address+s.target(), http.NoBody)
	if err != nil {
		return result{wrong, err.Error()}
	}
	if b := s.body(); b != nil {
		s.give(request, b)
	}
	request.Header.Set("X-Request-Id", s.id)
	if s.deadline > 0 {
		request.Header.Set("X-Request-Timeout", fmt.Sprint(s.deadline))
	}
	if s.manner == hangUpEarly || s.manner == hangUpMid {
		timer := time.AfterFunc(s.pause, cancel)
		defer timer.Stop()
	}
	response, err := w.h2.RoundTrip(request)
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return result{outcome: left}
		}
		return judge(err, lost)
	}
	defer response.Body.Close() //nolint:errcheck // its end cancels the stream
	text, err := s.read(response.Body)
	switch {
	case errors.Is(err, errLeft), errors.Is(err, context.Canceled):
		return result{outcome: left}
	case err != nil:
		return s.half(response, text, err)
	}
	return s.verdict(response, text)
}

// give makes b the body of a request. It can be had once more: a GOAWAY says of requests
// that came after the last one that nobody has seen them, and net/http's client sends
// those again by itself if it can, and fails them if it cannot.
func (s *spec) give(request *http.Request, b []byte) {
	request.GetBody = func() (io.ReadCloser, error) {
		if s.manner == hangUpMid {
			return io.NopCloser(&endless{first: bytes.NewReader(b[:len(b)/2]), until: request.Context().Done()}), nil
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}
	request.Body, _ = request.GetBody()
	request.ContentLength = int64(len(b))
	if s.what == chunked || s.manner == hangUpMid {
		request.ContentLength = -1 // unknown
	}
}

// endless is a body that does not go on after its beginning.
type endless struct {
	first io.Reader
	until <-chan struct{}
}

func (e *endless) Read(p []byte) (int, error) {
	n, err := e.first.Read(p)
	if !errors.Is(err, io.EOF) {
		return n, err
	}
	<-e.until
	return 0, context.Canceled
}

// judge says what an error means to a client; end is what the end of the
// connection means just now.
func judge(err error, end outcome) result {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return result{noDial, err.Error()}
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return result{timedOut, err.Error()}
	}
	return result{end, err.Error()}
}
