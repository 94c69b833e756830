package loop

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measurement is one order being carried out.
type measurement struct {
	Order
	loop     *Loop
	request  []byte
	clients  []*client
	idle     []*client
	overdue  []int64 // moments of requests that found no connection idle
	next     int64   // when the next request is due
	ways     []int64 // latencies
	counting bool
	done     int
	opened   int // streams that have had an event
}

// measure carries out an order. begun is called when what counts begins.
func (l *Loop) measure(o Order, begun func()) (Result, error) {
	m := &measurement{Order: o, loop: l, request: o.request()}
	defer m.close()
	if err := m.open(); err != nil {
		return Result{}, err
	}
	if err := m.run(l.now() + int64(o.Warm)); err != nil {
		return Result{}, err
	}
	for m.Work == Stream && m.opened < m.Conns {
		if err := m.run(l.now() + int64(20*time.Millisecond)); err != nil {
			return Result{}, err
		}
	}
	begun()
	m.counting, m.done, m.ways = true, 0, make([]int64, 0, 1<<16)
	accepted, start := l.engine.accepted, l.now()
	if err := m.run(start + int64(o.Duration)); err != nil {
		return Result{}, err
	}
	r := Result{Units: m.done, Elapsed: time.Duration(l.now() - start), Accepted: l.engine.accepted - accepted}
	slices.Sort(m.ways)
	if n := len(m.ways); n > 0 {
		r.P50, r.P99, r.Max = time.Duration(m.ways[n/2]), time.Duration(m.ways[n*99/100]), time.Duration(m.ways[n-1])
	}
	return r, nil
}

// request is what each client sends.
func (o *Order) request() []byte {
	const post = "POST %s HTTP/1.1\r\nHost: bench.example\r\nUser-Agent: bench\r\nContent-Type: application/json\r\n%sContent-Length: %d\r\n\r\n"
	switch o.Work {
	case Up:
		return appendPattern(fmt.Appendf(nil, post, "/up", "", o.Size), 0, o.Size)
	case Down:
		return fmt.Appendf(nil, "GET /down/%d HTTP/1.1\r\nHost: bench.example\r\n\r\n", o.Size)
	case Stream:
		among := o.Conns
		if o.Aligned {
			among = 0
		}
		period := int64(float64(time.Second) / o.Events)
		path := "/stream/"
		if o.Tokens {
			path = chatPath + path
		}
		return append(fmt.Appendf(nil, post, path+strconv.FormatInt(period, 10)+"/"+strconv.Itoa(among), "", len(smallBody)), smallBody...)
	case Close:
		return append(fmt.Appendf(nil, post, "/small", "Connection: close\r\n", len(smallBody)), smallBody...)
	case Small:
	}
	return append(fmt.Appendf(nil, post, "/small", "", len(smallBody)), smallBody...)
}

func (m *measurement) open() error {
	for range m.Conns {
		c := &client{m: m, fd: -1, due: m.loop.now()}
		m.clients = append(m.clients, c)
		if m.Rate > 0 {
			if err := c.connect(); err != nil {
				return err
			}
			m.idle = append(m.idle, c)
			continue
		}
		if err := c.send(m.loop.now()); err != nil {
			return err
		}
		// A thousand connections at once would overflow the proxy's queue.
		if len(m.clients)%64 == 0 {
			if err := m.run(m.loop.now() + int64(time.Millisecond)); err != nil {
				return err
			}
		}
	}
	m.next = m.loop.now()
	return nil
}

func (m *measurement) close() {
	for _, c := range m.clients {
		if c.fd >= 0 {
			m.loop.close(c.fd)
		}
	}
}

// run keeps the load going until a moment.
func (m *measurement) run(until int64) error {
	for {
		now := m.loop.now()
		if now >= until {
			return nil
		}
		wake := until
		if m.Rate > 0 && len(m.clients) == m.Conns && m.next > 0 {
			if err := m.pace(now); err != nil {
				return err
			}
			wake = min(wake, m.next)
		}
		if err := m.loop.turn(wake); err != nil {
			return err
		}
	}
}

// pace sends every request that is due.
func (m *measurement) pace(now int64) error {
	for m.next <= now {
		due := m.next
		m.next += int64(float64(time.Second) / m.Rate)
		if len(m.idle) == 0 {
			m.overdue = append(m.overdue, due)
			if len(m.overdue) > 100*m.Conns {
				return errors.New("the rate was not sustained")
			}
			continue
		}
		c := m.idle[len(m.idle)-1]
		m.idle = m.idle[:len(m.idle)-1]
		if err := c.send(due); err != nil {
			return err
		}
	}
	return nil
}

// answered takes note of a whole answer, and sends the next request.
func (m *measurement) answered(c *client) error {
	now := m.loop.now()
	m.note(now - c.due)
	switch {
	case m.Rate == 0:
		return c.send(now)
	case len(m.overdue) > 0:
		due := m.overdue[0]
		m.overdue = m.overdue[:copy(m.overdue, m.overdue[1:])]
		return c.send(due)
	default:
		m.idle = append(m.idle, c)
		return nil
	}
}

func (m *measurement) note(way int64) {
	if m.counting {
		m.done++
		m.ways = append(m.ways, way)
	}
}

// client is one connection to the proxy.
type client struct {
	m   *measurement
	fd  int
	due int64
	in  []byte // a head that is not whole yet
	out []byte // what of the request the socket would not take

	headed   bool
	answer   head
	got      int // bytes of the body
	chunks   dechunker
	event    []byte // one that is not whole yet
	complete bool
}

func (c *client) connect() error {
	domain, sa, err := address(c.m.Target)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, sa); err != nil {
		_ = unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	if domain == unix.AF_INET {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	c.fd = fd
	return c.m.loop.add(fd, c, unix.EPOLLIN)
}

func (c *client) send(due int64) error {
	if c.fd < 0 {
		if err := c.connect(); err != nil {
			return err
		}
	}
	c.due, c.headed, c.got, c.chunks, c.complete = due, false, 0, dechunker{}, false
	rest, err := write(c.fd, c.m.request)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if c.out = rest; len(rest) > 0 {
		return c.m.loop.change(c.fd, unix.EPOLLIN|unix.EPOLLOUT)
	}
	return nil
}

func (c *client) ready(events uint32) error {
	if events&unix.EPOLLOUT != 0 && len(c.out) > 0 {
		rest, err := write(c.fd, c.out)
		if err != nil {
			return fmt.Errorf("client: %w", err)
		}
		if c.out = rest; len(rest) == 0 {
			if err := c.m.loop.change(c.fd, unix.EPOLLIN); err != nil {
				return err
			}
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return nil
	}
	p, err := c.m.loop.read(c.fd)
	if errors.Is(err, io.EOF) {
		return c.ended()
	}
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	return c.take(p)
}

// ended handles the end of the connection, which has its place only after an
// answer that has announced it.
func (c *client) ended() error {
	if c.m.Work != Close || !c.complete {
		return fmt.Errorf("the proxy closed a connection after %d bytes of an answer", c.got)
	}
	c.m.loop.close(c.fd)
	c.fd = -1
	return c.m.answered(c)
}

func (c *client) take(p []byte) error {
	if !c.headed {
		if len(c.in) > 0 {
			c.in = append(c.in, p...)
			p = c.in
		}
		h, ok, err := parseHead(p)
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		if !ok {
			c.in = append(c.in[:0], p...)
			return nil
		}
		if !strings.HasPrefix(string(h.line), "HTTP/1.1 200 ") {
			return fmt.Errorf("answer: %q", h.line)
		}
		c.headed, c.answer = true, h
		p = p[h.size:] // may lie in c.in, which is not written to before the next answer
		c.in = c.in[:0]
	}
	return c.body(p)
}

func (c *client) body(p []byte) error {
	for len(p) > 0 {
		piece := p
		if c.answer.chunked {
			var err error
			if piece, p, err = c.chunks.next(p); err != nil {
				return fmt.Errorf("answer: %w", err)
			}
		} else {
			p = nil
		}
		if err := c.check(piece); err != nil {
			return err
		}
		c.got += len(piece)
	}
	if c.answer.chunked && c.chunks.state != chunksDone || !c.answer.chunked && c.got < c.answer.length {
		return nil
	}
	if c.got != c.m.expected() {
		return fmt.Errorf("answer: %d bytes of body, not %d", c.got, c.m.expected())
	}
	if c.complete = true; c.m.Work == Close {
		return nil // the end of the connection is part of it
	}
	return c.m.answered(c)
}

// expected is the length of an answer's body; a stream has none.
func (m *measurement) expected() int {
	switch m.Work {
	case Down:
		return m.Size
	case Stream:
		return -1
	case Small, Close, Up:
	}
	return len(smallBody)
}

func (c *client) check(p []byte) error {
	var good bool
	switch c.m.Work {
	case Down:
		good = matches(p, c.got)
	case Stream:
		return c.events(p)
	case Small, Close, Up:
		good = c.got+len(p) <= len(smallBody) && bytes.Equal(p, smallBody[c.got:c.got+len(p)])
	}
	if !good {
		return fmt.Errorf("answer: a wrong byte after %d", c.got)
	}
	return nil
}

// events checks each whole event in p and notes how long it was on its way.
func (c *client) events(p []byte) error {
	for len(p) > 0 {
		var one []byte
		if len(c.event) > 0 || len(p) < eventLen {
			n := min(len(p), eventLen-len(c.event))
			c.event = append(c.event, p[:n]...)
			p = p[n:]
			if len(c.event) < eventLen {
				return nil
			}
			one = c.event
			c.event = c.event[:0]
		} else {
			one, p = p[:eventLen], p[eventLen:]
		}
		at, err := strconv.ParseInt(string(one[len(eventBefore):len(eventBefore)+digits]), 10, 64)
		if err != nil || !bytes.HasPrefix(one, eventBefore) || !bytes.HasSuffix(one, eventAfter) {
			return fmt.Errorf("answer: no event of ours: %q", one)
		}
		if c.due >= 0 { // the first of this stream
			c.due = -1
			c.m.opened++
			continue
		}
		c.m.note(c.m.loop.now() - at)
	}
	return nil
}
