package balancer

import (
	"bytes"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"stoker/balancer/continuation"
	"stoker/upstream"
)

// Migration says what becomes of a stream of tokens whose worker fails it.
type Migration struct {
	// Mode is continuation.Replay, continuation.Continue, or empty: it breaks.
	Mode string
	// Limit is how often one stream may change workers.
	Limit int
	// Stall is how long a stream that has begun may be without a token; 0: any time.
	Stall time.Duration
	// Seed gives a request a seed that could not be repeated else.
	Seed bool
	// Engine says what the engines can be asked for, where the rest may be.
	Engine continuation.Profile
	// Stream and Memory bound what is held of one stream, and of all in the pool, in bytes.
	Stream, Memory int64
}

// beginStream makes the request's stream, if it is one that could change its
// worker: it reads the body, which whoever comes later must be sent, too.
func (j *journey) beginStream() error {
	x, m := j.x, &j.l.rules.Migration
	if m.Mode == "" || x.Body == nil || x.WebSocket || x.Request.Method != http.MethodPost || !continuation.Concerns(x.Request.Target) {
		return nil
	}
	if coding := x.Request.Fields.Get("Content-Encoding"); coding != "" && !strings.EqualFold(coding, "identity") {
		return nil
	}
	h := &heldBody{from: x.Body, length: x.Length, budget: j.l.budget}
	j.held = h
	whole, err := h.fill(x, min(j.a.table.maxAhead, m.Memory))
	x.Body = h
	if err != nil {
		return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
	}
	if !whole {
		return nil
	}
	if x.Length < 0 && (x.Trailers == nil || len(x.Trailers()) == 0) {
		x.Length, x.Trailers = int64(len(h.data)), nil
	}
	r := continuation.Parse(x.Request.Target, h.data)
	if r == nil || x.Length < 0 {
		return nil
	}
	if m.Seed {
		r = r.Seeded(rand.Uint32() >> 1)
	}
	engine := m.Engine
	if m.Mode != continuation.Continue {
		engine = continuation.Profile{} // nobody is asked for the rest
	}
	events := continuation.NewStream(r, engine, m.Stream, j.l.budget)
	if !bytes.Equal(events.First(), h.data) {
		x.Request.Fields = withoutDigests(x.Request.Fields)
		h.data = nil // the other one is sent
	}
	j.s = &stream{j: j, a: j.a, events: events, body: events.First()}
	return nil
}

// endStream gives back what it held, and leaves the exchange as it was.
func (j *journey) endStream() {
	if j.s != nil {
		j.x.Record.ReplayedEvents = j.s.events.Replayed()
		j.s.events.Close()
	}
	if j.held != nil {
		j.x.Body, j.x.Length = j.held.from, j.held.length
		j.held.release()
	}
}
