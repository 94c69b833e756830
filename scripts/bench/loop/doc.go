// Package loop is both ends of a benchmark, the clients and the engines, in
// one thread and one epoll set. It knows nothing of the proxy between them.
//
// Why both in one: a machine with two cores has one for the proxy and one for
// everything else. wrk and an engine in Go on that other core were slower than
// the proxies, which then were never measured at saturation, and each answer
// woke a sleeping process, which costs the proxy more than the answer itself.
// One thread that takes a batch of events from both ends costs about a third
// of that.
//
// Every answer is checked: its status, its length and each byte of its body;
// the engine checks each byte of every request body. An event carries the
// moment at which it was written, so that the client knows how long it was on
// its way.
package loop

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// Order is one measurement.
type Order struct {
	// Target is where the clients connect: HOST:PORT, or a path for a unix socket.
	Target string
	Work   Work
	// Conns is the number of connections, and so of requests at a time.
	Conns int
	// Rate of requests per second; 0: as fast as they are answered. A request
	// that finds every connection busy waits, and its wait counts as latency.
	Rate float64
	// Size of the body in bytes, for Up and Down.
	Size int
	// Events per second of each stream, and whether all streams send theirs at
	// the same moment.
	Events  float64
	Aligned bool
	// Tokens: the streams are asked for as a chat's answer, which they look like in any case.
	Tokens bool
	// Warm is how long the load runs before it is measured.
	Warm, Duration time.Duration
}

// Work is a kind of load.
type Work string

// The kinds of load.
const (
	Small  Work = "small"  // POST of 1 KiB, answered with 1 KiB; kept alive
	Close  Work = "close"  // the same, a connection for each
	Up     Work = "up"     // POST of Size bytes
	Down   Work = "down"   // GET of Size bytes
	Stream Work = "stream" // server-sent events, one request for all of Duration
)

// Report is what a loop says on its output, a line of JSON each.
type Report struct {
	// Engines are the addresses of the engines' listeners, said once at the
	// start: first the TCP ones, then as many unix sockets.
	Engines []string `json:",omitempty"`
	// Begun: the load runs, and what is counted begins now.
	Begun bool `json:",omitempty"`
	// Result is said once for each order, after Begun.
	Result *Result `json:",omitempty"`
	// Error says what was wrong instead: a refusal, a wrong byte.
	Error string `json:",omitempty"`
}

// Result is what one measurement found.
type Result struct {
	// Units of work done: requests, events.
	Units   int
	Elapsed time.Duration
	// P50, P99 and Max: how long a request took from when it was due, or how
	// long an event was on its way.
	P50, P99, Max time.Duration
	// Accepted is how many connections the engines were given while it ran:
	// above Conns, somebody does not reuse them.
	Accepted int
}

const smallLen = 1024

// smallBegin makes it a request for a stream, to whom that means something.
const smallBegin = `{"stream":true,"temperature":0,"text":`

// SmallBody is the body of a small request, and of its answer: others are wrong.
func SmallBody() []byte { return smallBody }

var (
	smallBody   = []byte(fmt.Sprintf("%s%q}", smallBegin, strings.Repeat("x", smallLen-len(smallBegin+`""}`))))
	smallAnswer = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(smallBody), smallBody)
	streamHead  = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n")

	// The moment is the token: all else of an event is the same each time, as with real engines.
	eventBefore = []byte(`data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1700000000,"model":"m","choices":[{"index":0,"delta":{"content":" `)
	eventAfter  = []byte("\"},\"finish_reason\":null}]}\n\n")

	// pattern is what large bodies are made of, again and again. Its length is
	// a prime, so that a piece that is lost or doubled cannot fit by chance.
	pattern = makePattern(65521)
)

// digits of an event's moment, nanoseconds: always as many, so that all events
// have one length.
const digits = 19

var eventLen = len(eventBefore) + digits + len(eventAfter)

func makePattern(n int) []byte {
	p := make([]byte, n)
	x := uint32(1)
	for i := range p {
		x = x*1664525 + 1013904223
		p[i] = 'a' + byte(x>>24)%26
	}
	return p
}

// matches says whether p is what stands at offset at of a large body.
func matches(p []byte, at int) bool {
	for len(p) > 0 {
		from := at % len(pattern)
		n := min(len(p), len(pattern)-from)
		if !bytes.Equal(p[:n], pattern[from:from+n]) {
			return false
		}
		p, at = p[n:], at+n
	}
	return true
}

// appendPattern appends n bytes of a large body from offset at.
func appendPattern(p []byte, at, n int) []byte {
	for n > 0 {
		from := at % len(pattern)
		k := min(n, len(pattern)-from)
		p = append(p, pattern[from:from+k]...)
		at, n = at+k, n-k
	}
	return p
}
