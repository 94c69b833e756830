package loop

import (
	"bytes"
	"container/heap"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// engine is all upstreams together.
type engine struct {
	loop     *Loop
	accepted int
	// streams that are being sent, the next due first; and how many have come,
	// which spreads them over a period.
	streams schedule
	came    int
	text    []byte
}

// errPeer is an error that concerns one connection of the engine only: a
// proxy may close one at any time.
var errPeer = errors.New("engine's connection")

func (e *engine) listen(dir string, n int) (addresses []string, err error) {
	for i := range 2 * n {
		name := "127.0.0.1:0"
		if i >= n {
			name = filepath.Join(dir, fmt.Sprintf("engine-%d.sock", i-n))
		}
		domain, sa, err := address(name)
		if err != nil {
			return nil, err
		}
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		if err := unix.Bind(fd, sa); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
		if err := unix.Listen(fd, 1024); err != nil {
			return nil, os.NewSyscallError("listen", err)
		}
		if i < n {
			bound, err := unix.Getsockname(fd)
			if err != nil {
				return nil, os.NewSyscallError("getsockname", err)
			}
			name = "127.0.0.1:" + strconv.Itoa(bound.(*unix.SockaddrInet4).Port)
		}
		if err := e.loop.add(fd, &listener{e, fd, i < n}, unix.EPOLLIN); err != nil {
			return nil, err
		}
		addresses = append(addresses, name)
	}
	return addresses, nil
}

type listener struct {
	engine *engine
	fd     int
	tcp    bool
}

func (l *listener) ready(uint32) error {
	for {
		fd, _, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EINTR) {
			return nil
		}
		if err != nil {
			return os.NewSyscallError("accept4", err)
		}
		if l.tcp {
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
				return os.NewSyscallError("setsockopt", err)
			}
		}
		l.engine.accepted++
		if err := l.engine.loop.add(fd, &served{engine: l.engine, fd: fd, place: -1}, unix.EPOLLIN); err != nil {
			return err
		}
	}
}

// served is one connection to an engine. Requests are not pipelined by the
// proxies measured here; one that came early is read after the answer.
type served struct {
	engine *engine
	fd     int
	in     []byte // a head that is not whole yet, and what came after it
	out    []byte // what the socket would not take
	down   int    // bytes of a large answer that are not in out yet
	total  int    // bytes of that large answer

	request bool // its head is read, its body not
	path    []byte
	left    int // of its body
	seen    int
	chunks  dechunker
	chunked bool

	// as a stream
	place  int // in the schedule, -1: none
	due    int64
	period int64
}

func (s *served) ready(events uint32) error {
	if events&unix.EPOLLOUT != 0 {
		if err := s.push(); err != nil {
			s.end()
			return nil //nolint:nilerr // the proxy's affair
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return nil
	}
	p, err := s.engine.loop.read(s.fd)
	if err != nil {
		s.end()
		return nil //nolint:nilerr // the proxy's affair, clean or not
	}
	if err := s.take(p); err != nil {
		s.end()
		return fmt.Errorf("engine was sent: %w", err)
	}
	return nil
}

func (s *served) end() {
	if s.place >= 0 {
		heap.Remove(&s.engine.streams, s.place)
	}
	s.engine.loop.close(s.fd)
}

// take handles bytes that have arrived.
func (s *served) take(p []byte) error {
	if len(s.in) > 0 {
		s.in = append(s.in, p...)
		p = s.in
	}
	for len(p) > 0 {
		if !s.request {
			h, ok, err := parseHead(p)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			s.begin(h)
			p = p[h.size:]
		}
		var err error
		if p, err = s.body(p); err != nil {
			return err
		}
		if s.request {
			continue
		}
		if err := s.answer(); err != nil {
			return err
		}
	}
	s.in = append(s.in[:0], p...)
	return nil
}

func (s *served) begin(h head) {
	s.request, s.seen, s.chunked, s.chunks = true, 0, h.chunked, dechunker{}
	s.left = max(0, h.length)
	_, path, _ := bytes.Cut(h.line, []byte(" "))
	path, _, _ = bytes.Cut(path, []byte(" "))
	s.path = append(s.path[:0], path...)
	if !s.chunked && s.left == 0 {
		s.request = false
	}
}

// body checks and counts the request's body.
func (s *served) body(p []byte) (rest []byte, err error) {
	for s.request && len(p) > 0 {
		var piece []byte
		if s.chunked {
			if piece, p, err = s.chunks.next(p); err != nil {
				return nil, err
			}
			s.request = s.chunks.state != chunksDone
		} else {
			n := min(s.left, len(p))
			piece, p = p[:n], p[n:]
			s.left -= n
			s.request = s.left > 0
		}
		if !s.expected(piece) {
			return nil, fmt.Errorf("a wrong byte after %d of the body of %s", s.seen, s.path)
		}
		s.seen += len(piece)
	}
	return p, nil
}

func (s *served) expected(p []byte) bool {
	if bytes.HasPrefix(s.path, []byte("/up")) {
		return matches(p, s.seen)
	}
	return s.seen+len(p) <= len(smallBody) && bytes.Equal(p, smallBody[s.seen:s.seen+len(p)])
}

func (s *served) answer() error {
	switch {
	case bytes.HasPrefix(s.path, []byte("/down/")):
		n, err := strconv.Atoi(string(s.path[len("/down/"):]))
		if err != nil {
			return fmt.Errorf("path %s: %w", s.path, err)
		}
		s.total, s.down = n, n
		s.out = fmt.Appendf(s.out, "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", n)
		return s.push()
	case bytes.HasPrefix(s.path, []byte("/stream/")), bytes.HasPrefix(s.path, []byte(chatPath)):
		return s.stream()
	default:
		return s.put(smallAnswer)
	}
}

// put writes p after what is waiting to be written.
func (s *served) put(p []byte) error {
	if len(s.out) > 0 {
		s.out = append(s.out, p...)
		return nil
	}
	rest, err := write(s.fd, p)
	if err != nil {
		return fmt.Errorf("%w: %w", errPeer, err)
	}
	if len(rest) > 0 {
		s.out = append(s.out[:0], rest...)
		return s.engine.loop.change(s.fd, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return nil
}

// push writes what waits, and goes on with a large answer.
func (s *served) push() error {
	for {
		if len(s.out) == 0 && s.down > 0 {
			n := min(s.down, 256<<10)
			s.out = appendPattern(s.out[:0], s.total-s.down, n)
			s.down -= n
		}
		if len(s.out) == 0 {
			return s.engine.loop.change(s.fd, unix.EPOLLIN)
		}
		rest, err := write(s.fd, s.out)
		if err != nil {
			return fmt.Errorf("%w: %w", errPeer, err)
		}
		s.out = s.out[:copy(s.out, rest)]
		if len(s.out) > 0 {
			return s.engine.loop.change(s.fd, unix.EPOLLIN|unix.EPOLLOUT)
		}
	}
}

// chatPath comes before that of a stream that is a chat's answer.
const chatPath = "/v1/chat/completions?"

// stream enters the schedule: /stream/PERIOD_NS/STREAMS, STREAMS = 0 for
// streams that send all at once.
func (s *served) stream() error {
	var among int64
	if _, err := fmt.Sscanf(strings.TrimPrefix(string(s.path), chatPath), "/stream/%d/%d", &s.period, &among); err != nil {
		return fmt.Errorf("path %s: %w", s.path, err)
	}
	now := s.engine.loop.now()
	s.due = now - now%s.period + s.period
	if among > 0 {
		s.due += s.period * (int64(s.engine.came) % among) / among
	}
	s.engine.came++
	heap.Push(&s.engine.streams, s)
	// The first event goes with the head: a proxy that holds back a head
	// without a body shows its streams as open all the same.
	return s.put(append(bytes.Clone(streamHead), s.engine.event(now)...))
}

// event is one event as a chunk. It is good until the next.
func (e *engine) event(now int64) []byte {
	p := fmt.Appendf(e.text[:0], "%x\r\n", eventLen)
	p = append(p, eventBefore...)
	p = fmt.Appendf(p, "%0*d", digits, now)
	p = append(p, eventAfter...)
	e.text = append(p, "\r\n"...)
	return e.text
}

// due is when the next event is to be sent.
func (e *engine) due() (int64, bool) {
	if len(e.streams) == 0 {
		return 0, false
	}
	return e.streams[0].due, true
}

// emit sends every event that is due.
func (e *engine) emit(now int64) error {
	for len(e.streams) > 0 && e.streams[0].due <= now {
		s := e.streams[0]
		if err := s.put(e.event(e.loop.now())); err != nil {
			s.end()
			continue
		}
		s.due += s.period
		heap.Fix(&e.streams, 0)
	}
	return nil
}

// schedule orders streams by when they are due.
type schedule []*served

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].due < s[j].due }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].place, s[j].place = i, j
}

func (s *schedule) Push(x any) {
	x.(*served).place = len(*s)
	*s = append(*s, x.(*served))
}

func (s *schedule) Pop() any {
	old := *s
	last := old[len(old)-1]
	last.place = -1
	old[len(old)-1] = nil
	*s = old[:len(old)-1]
	return last
}
