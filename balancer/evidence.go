package balancer

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"stoker/balancer/quarantine"
	"stoker/exchange"
)

// evidence is what is kept of a request while it is under way, for the case
// that its engine dies: the bytes that its prints are made of. They are copied as
// they pass, since a transport lets go of them when the answer begins; nothing is
// made of them unless somebody is suspected.
type evidence struct {
	x    *exchange.Exchange
	ward *ward
	from io.Reader // the body that it stands before
	wrap capture

	// Guarded by the ward's lock.
	prev, next *evidence
	linked     bool
	worker     string
	began      time.Time
	trial      *trial // the present one
	parted     bool   // the present attempt's connection has broken
	unread     bool   // and the engine had not read the request

	mu sync.Mutex
	// text is method, NUL, target, NUL and the body.
	text         []byte
	method, body int // where the target and the body begin
	whole        bool
	lost         bool // too large, or no room: it will never be whole

	again replay
	known quarantine.Prints // once made
	made  bool
	died  bool // an engine has died with it on it
	// spared: one has that had not read it, which is not held against it.
	spared bool
}

// Buffers come in two sizes, so that a small request does not hold a large one
// for as long as its stream lasts.
const (
	smallEvidence = 8 << 10
	// largeEvidence is the largest buffer that is kept for another request.
	largeEvidence = 72 << 10
)

// evidencePools keep evidence for the next request.
type evidencePools struct {
	small, large sync.Pool
	// room is how many bytes may still be held, limit the largest body.
	room  atomic.Int64
	limit int64
}

func (p *evidencePools) take(length int64) *evidence {
	from := &p.small
	if length < 0 || length > smallEvidence-1024 {
		from = &p.large
	}
	e, _ := from.Get().(*evidence)
	if e == nil {
		e = new(evidence)
	}
	p.room.Add(-int64(cap(e.text)))
	return e
}

func (p *evidencePools) give(e *evidence) {
	p.room.Add(int64(cap(e.text)))
	text := e.text[:0]
	if cap(text) > largeEvidence {
		text = nil
	}
	*e = evidence{text: text}
	if cap(text) > smallEvidence {
		p.large.Put(e)
	} else {
		p.small.Put(e)
	}
}

// begin takes hold of x. The head is as the client sent it, the body is
// captured from here on.
func (e *evidence) begin(w *ward, x *exchange.Exchange) {
	e.x, e.ward, e.from = x, w, x.Body
	before := cap(e.text)
	e.text = append(append(e.text[:0], x.Request.Method...), 0)
	e.method = len(e.text)
	e.text = append(append(e.text, x.Request.Target...), 0)
	e.body = len(e.text)
	w.pools.room.Add(int64(before - cap(e.text)))
	e.whole = x.Body == nil || x.Length == 0
	e.lost = x.Length > w.pools.limit
	if !e.whole {
		e.wrap.e = e
		x.Body = &e.wrap
	}
}

// capture is a body that is captured as it is read.
type capture struct{ e *evidence }

// Read implements io.Reader.
func (c *capture) Read(p []byte) (int, error) {
	n, err := c.e.from.Read(p)
	c.e.add(p[:n], errors.Is(err, io.EOF))
	return n, err
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (c *capture) Interrupt() { interrupt(c.e.from) }

func interrupt(body io.Reader) {
	if i, ok := body.(interface{ Interrupt() }); ok {
		i.Interrupt()
	}
}

// add keeps a piece of the body.
func (e *evidence) add(p []byte, end bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lost || e.whole {
		return
	}
	pools, before := e.ward.pools, cap(e.text)
	size := int64(len(e.text) - e.body + len(p))
	if size > pools.limit || len(e.text)+len(p) > before && pools.room.Load() < int64(len(e.text)+len(p)) {
		e.lost = true
		return
	}
	e.text = append(e.text, p...)
	pools.room.Add(int64(before - cap(e.text)))
	e.whole = end || e.x.Length >= 0 && size >= e.x.Length
}

// read reads the body whole where that is possible, so that the request can be
// judged before anybody has it.
func (e *evidence) read() error {
	if e.whole || e.lost {
		return nil
	}
	buf := e.ward.scratch.Get().(*[]byte)
	defer e.ward.scratch.Put(buf)
	for !e.whole {
		n, err := e.from.Read(*buf)
		e.add((*buf)[:n], errors.Is(err, io.EOF))
		if e.lost {
			// What was read goes before the rest, uncaptured.
			e.again = replay{rest: e.from}
			e.again.read.Reset(append(bytes.Clone(e.text[e.body:]), (*buf)[:n]...))
			e.x.Body = &e.again
			return nil
		}
		if err != nil && !e.whole {
			return err
		}
	}
	e.rewind()
	return nil
}

// rewind lets the body be read from its beginning once more. It is whole.
func (e *evidence) rewind() {
	if e.x.Body == nil {
		return
	}
	e.again = replay{}
	e.again.read.Reset(e.text[e.body:])
	e.x.Body = &e.again
}

// replay is a body that was read already, and its rest where there is one.
type replay struct {
	read bytes.Reader
	rest io.Reader
}

// Read implements io.Reader.
func (r *replay) Read(p []byte) (int, error) {
	if r.read.Len() == 0 && r.rest != nil {
		return r.rest.Read(p)
	}
	return r.read.Read(p)
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (r *replay) Interrupt() { interrupt(r.rest) }

// prints are the request's, none where it is not whole. Its own goroutine calls it.
func (e *evidence) prints() quarantine.Prints {
	if !e.made && e.isWhole() {
		e.known, e.made = printsOf(e.ward.pool, e.text, e.method, e.body), true
	}
	return e.known
}

func (e *evidence) isWhole() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.whole && !e.lost
}

func printsOf(pool string, text []byte, method, body int) quarantine.Prints {
	return quarantine.Of(pool, string(text[:method-1]), string(text[method:body-1]), text[body:])
}

// copied is evidence that others may look at: a copy.
type copied struct {
	text         []byte
	method, body int
	whole        bool
	began, ended time.Time
	past         bool               // it had passed, see trial
	unread       bool               // the engine had not read it
	known        *quarantine.Prints // already made
}

// copy is called under the ward's lock.
func (e *evidence) copy(now time.Time) copied {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := copied{method: e.method, body: e.body, whole: e.whole && !e.lost, began: e.began, ended: now, past: e.trial.isPast(), unread: e.unread}
	if !c.whole {
		c.text = bytes.Clone(e.text[:e.body])
	} else {
		c.text = bytes.Clone(e.text)
	}
	return c
}

// suspect is what the court is told of it.
func (c *copied) suspect(pool string) quarantine.Suspect {
	path, _, _ := strings.Cut(string(c.text[c.method:c.body-1]), "?")
	s := quarantine.Suspect{Method: string(c.text[:c.method-1]), Path: path[:min(len(path), maxLogged)], Began: c.began, Ended: c.ended, Past: c.past, Unread: c.unread}
	switch {
	case c.known != nil:
		s.Prints = *c.known
	case c.whole:
		s.Prints = printsOf(pool, c.text, c.method, c.body)
	}
	return s
}
