package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"stoker/balancer/recorder"
	"stoker/internal/certs"
	"stoker/supervisor"
	"stoker/upstream"
)

// A link joins two generations for as long as both live: a pair of connected
// sockets of which the newer one inherits its end. Each side writes lines of
// JSON, one message each; what one side does not know it skips, since the two
// are of different versions by nature.
//
//	older                                   newer
//	hello: who I am          (at once)      prepared: what I have observed
//	                                        failed: why I give up, and exit
//	            — Ready: the newer one has committed —
//	in_flight, per upstream, on change      serving: I accept clients
//	metrics: my counters, last of all
//	before the admin listener is left to
//	the newer one, then on change
//	prompts: who was given which, bit by
//	bit, where affinity goes by that
//	recorded: what the flight recorder
//	holds, bit by bit, then on change
//	end: the service shall end, you too
//	bye: I am done                          The end of the stream means the same,
//	                                        from either side, however it came.

// message is one line. One of the pointers is set, or none that we know.
type message struct {
	Hello    *helloMessage    `json:"hello,omitempty"`
	Prepared *preparedMessage `json:"prepared,omitempty"`
	Failed   string           `json:"failed,omitempty"`
	Serving  *servingMessage  `json:"serving,omitempty"`
	InFlight *inFlightMessage `json:"in_flight,omitempty"`
	// Metrics are encoded families; see carried.
	Metrics [][]byte `json:"metrics,omitempty"`
	// Prompts are some of a pool's, told after serving and before Recorded.
	Prompts *promptsMessage `json:"prompts,omitempty"`
	// Recorded is some of what the flight recorder holds.
	Recorded *recordedMessage `json:"recorded,omitempty"`
	Bye      bool             `json:"bye,omitempty"`
	// End passes on what reached the older one when it had handed over already.
	End bool `json:"end,omitempty"`
}

// helloMessage is the older generation's first.
type helloMessage struct {
	Generation int    `json:"generation"`
	PID        int    `json:"pid"`
	Version    string `json:"version"`
	// Serving are the workers that serve, and their engines' processes.
	Serving map[string]int `json:"serving"`
	// Records: there will be recorded messages.
	Records bool `json:"records,omitempty"`
	// Tickets are the keys of session tickets. They are secret: the link is two
	// processes' memory, and they go nowhere else.
	Tickets *certs.Tickets `json:"tickets,omitempty"`
	// PromptSeed is that of the hashes of prompts, as secret.
	PromptSeed uint64 `json:"prompt_seed,omitempty"`
}

// preparedMessage is what the newer one found.
type preparedMessage struct {
	PID      int                   `json:"pid"`
	Version  string                `json:"version"`
	Observed []supervisor.Observed `json:"observed"`
}

// servingMessage says that the newer one has taken over.
type servingMessage struct {
	PID        int    `json:"pid"`
	Generation int    `json:"generation"`
	Version    string `json:"version"`
	Epoch      uint64 `json:"epoch"`
}

// inFlightMessage is what the older one still has to do.
type inFlightMessage struct {
	// Requests of all kinds, those that hold no place on an upstream included.
	Requests int `json:"requests"`
	// Upstreams are counts by pool and member.
	Upstreams map[string]map[string]int `json:"upstreams"`
}

// recordedMessage is some of what the older one has recorded.
type recordedMessage struct {
	Exchanges []recorder.Told `json:"exchanges,omitempty"`
	// All: all that it held has been told; more will be told when it is news.
	All bool `json:"all,omitempty"`
}

// promptsMessage is some of what a pool knows of who was given which prompts.
type promptsMessage struct {
	Pool string `json:"pool"`
	upstream.Prompts
}

// maxMessage bounds a line: the metrics of hundreds of workers are some 100 KiB.
const maxMessage = 16 << 20

// linkPatience bounds one write: a generation that hangs must not hold up the other.
const linkPatience = 5 * time.Second

// link is one end.
type link struct {
	conn net.Conn

	writing sync.Mutex
	broken  error

	incoming chan message
	ended    chan struct{} // closed when no further message can come
	read     sync.WaitGroup
	closed   chan struct{}
	close1   sync.Once
}

// newLinkPair makes both ends; the second is for the process to be started.
func newLinkPair() (*link, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	ours, its := os.NewFile(uintptr(fds[0]), "link"), os.NewFile(uintptr(fds[1]), "link")
	l, err := newLink(ours)
	if err != nil {
		_ = its.Close()
		return nil, nil, err
	}
	return l, its, nil
}

// newLink takes over an end, and reads from it until close.
func newLink(file *os.File) (*link, error) {
	conn, err := net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	l := &link{conn: conn, incoming: make(chan message), ended: make(chan struct{}), closed: make(chan struct{})}
	l.read.Go(l.receive)
	return l, nil
}

// receive passes on what comes.
func (l *link) receive() {
	defer close(l.ended)
	lines := bufio.NewScanner(l.conn)
	lines.Buffer(nil, maxMessage)
	for lines.Scan() {
		var m message
		if json.Unmarshal(lines.Bytes(), &m) != nil {
			return // not one of ours
		}
		select {
		case l.incoming <- m:
		case <-l.closed:
			return
		}
	}
}

// send writes a message. An error is final, and is returned again ever after.
func (l *link) send(m message) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.broken != nil {
		return l.broken
	}
	if err = l.conn.SetWriteDeadline(time.Now().Add(linkPatience)); err == nil {
		_, err = l.conn.Write(append(line, '\n'))
	}
	l.broken = err
	return err
}

// next waits for a message, io.EOF when none can come any more, or until over delivers.
func (l *link) next(over <-chan time.Time) (message, error) {
	select {
	case m := <-l.incoming:
		return m, nil
	case <-l.ended:
		return message{}, io.EOF
	case <-over:
		return message{}, os.ErrDeadlineExceeded
	}
}

// close ends both directions.
func (l *link) close() {
	l.close1.Do(func() {
		close(l.closed)
		_ = l.conn.Close() // nobody reads a reason
		l.read.Wait()
	})
}
