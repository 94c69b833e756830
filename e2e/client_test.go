//go:build e2e

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// outcome is what a client saw of one request. Only complete and refused are
// honest: the one is an answer, the other says "try elsewhere" at once. With
// any other a client cannot tell whether its request was served.
type outcome string

const (
	complete outcome = "complete"           // a whole answer
	refused  outcome = "connection refused" // while dialling
	reset    outcome = "reset"
	timedOut outcome = "time-out"
	closed   outcome = "closed without an answer"
	partial  outcome = "half an answer"
	odd      outcome = "another error"
)

// answer is one request's result.
type answer struct {
	outcome outcome
	status  int
	header  http.Header
	body    []byte
	err     error
}

func (a answer) String() string {
	if a.outcome == complete {
		return fmt.Sprintf("%d %.80q", a.status, a.body)
	}
	return fmt.Sprintf("%s: %v", a.outcome, a.err)
}

// caller is one client with one connection at a time and no retries: net/http's
// client silently repeats what failed on a connection kept alive, and would
// hide exactly what is looked for here.
type caller struct {
	address   string
	keepAlive bool
	conn      net.Conn
	reader    *bufio.Reader
}

// answerLimit is when a client gives up waiting for bytes.
const answerLimit = 20 * time.Second

// get makes one request. fields are whole lines without their ends.
func (c *caller) get(path string, fields ...string) answer {
	if c.conn == nil {
		conn, err := net.DialTimeout("tcp", c.address, answerLimit)
		if err != nil {
			return answer{outcome: classify(err, odd), err: err}
		}
		c.conn, c.reader = conn, bufio.NewReader(conn)
	}
	a := c.exchange(path, fields)
	if a.outcome != complete || !c.keepAlive || a.header.Get("Connection") == "close" {
		c.close()
	}
	return a
}

func (c *caller) exchange(path string, fields []string) answer {
	_ = c.conn.SetDeadline(time.Now().Add(answerLimit))
	if !c.keepAlive {
		fields = append(fields, "Connection: close")
	}
	lines := append([]string{"GET " + path + " HTTP/1.1", "Host: " + c.address}, fields...)
	if _, err := io.WriteString(c.conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		return answer{outcome: classify(err, closed), err: err}
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return answer{outcome: classify(err, closed), err: err}
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	a := answer{outcome: complete, status: response.StatusCode, header: response.Header, body: body, err: err}
	if response.Close {
		a.header.Set("Connection", "close")
	}
	if err != nil {
		a.outcome = classify(err, partial)
	}
	return a
}

func (c *caller) close() {
	if c.conn != nil {
		c.conn.Close()
		c.conn = nil
	}
}

// classify names what an error means to a client; end is what the end of the
// stream means just now.
func classify(err error, end outcome) outcome {
	var timeout net.Error
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return reset
	case errors.As(err, &timeout) && timeout.Timeout():
		return timedOut
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return end
	default:
		return odd
	}
}

// tally counts what a crowd of clients saw.
type tally struct {
	mu      sync.Mutex
	counts  map[string]int
	example map[string]string
}

func newTally() *tally { return &tally{counts: map[string]int{}, example: map[string]string{}} }

func (t *tally) add(what, example string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts[what]++
	t.example[what] = example
}

func (t *tally) count(what string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[what]
}

// except describes all that was counted but the given; empty if nothing.
func (t *tally) except(fine ...string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for _, what := range slices.Sorted(maps.Keys(t.counts)) {
		if !slices.Contains(fine, what) {
			lines = append(lines, fmt.Sprintf("%d × %s (such as %s)", t.counts[what], what, t.example[what]))
		}
	}
	return strings.Join(lines, "; ")
}

// crowd runs n clients, each calling one until it returns false.
func crowd(n int, one func(client, turn int) bool) *sync.WaitGroup {
	var wait sync.WaitGroup
	for client := range n {
		wait.Go(func() {
			for turn := 0; one(client, turn); turn++ {
			}
		})
	}
	return &wait
}
