package front

import (
	"errors"
	"os"
	"strings"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
)

// session serves one HTTP/1.1 connection: request after request, each answered
// before the next is looked at, in one goroutine. The request in flight and all
// that belongs to it are used again for the next one.
type session struct {
	flight

	in     input
	head   http1.RequestHead
	body   body
	answer answer
	// trailersOf is body.trailers, bound once.
	trailersOf func() http1.Fields
	// roomOf and freeIn are in's, bound once: while nothing comes there is no buffer.
	roomOf func() []byte
	freeIn func() error
	// serve and pause are those of serveOn, bound once.
	serve func(n int) bool
	pause func() error
	// parsed: the head of what comes next has been parsed. over: nothing does.
	parsed, over bool

	begun  bool      // a head was complete: this is no HTTP/2
	headBy time.Time // when a head that has begun must have ended
	// unwanted: the client may still be sending what nobody will read.
	unwanted bool
	// handed: the connection is somebody else's now.
	handed bool
	// next is the connection that is served after this one, see crew.
	next chan *conn
}

// usualFields is room for what clients send and what the balancer adds to it.
const usualFields = 24

func newSession(c *conn) *session {
	s := &session{flight: flight{conn: c}}
	s.body.session, s.answer.session, s.reply = s, s, &s.answer
	s.trailersOf = s.body.trailers
	s.roomOf = s.in.room
	s.freeIn = func() error { s.in.free(); return nil }
	s.serve, s.pause = s.serveRead, s.beforeWait
	s.head.Fields = make(http1.Fields, 0, usualFields)
	s.next = make(chan *conn, 1)
	return s
}

// reset makes s as new, for c. Nobody knows of what it was before: its connection
// is gone, and no request of it is left.
func (s *session) reset(c *conn) {
	fields := s.head.Fields
	if fields == nil {
		fields = make(http1.Fields, 0, usualFields)
	}
	clear(fields[:cap(fields)])
	trailersOf, roomOf, freeIn, serve, pause, next := s.trailersOf, s.roomOf, s.freeIn, s.serve, s.pause, s.next
	*s = session{} // in place: of a literal with what stays there would be another session on the stack
	s.conn, s.trailersOf, s.roomOf, s.freeIn, s.serve, s.pause, s.next = c, trailersOf, roomOf, freeIn, serve, pause, next
	s.body.session, s.answer.session, s.reply = s, s, &s.answer
	s.head.Fields = fields[:0]
}

// run serves until the connection ends or turns out to be HTTP/2.
func (s *session) run() {
	switch {
	case s.conn.announced && !s.meet():
	case s.conn.tls != nil && !s.shakeHands():
	case s.conn.refused != nil:
		s.turnAway()
	default:
		for s.await() && s.exchange() && s.serveOn() {
		}
	}
	s.answer.free()
	s.in.free()
	if s.handed {
		return
	}
	if s.unwanted && !s.answer.reset && !s.conn.front.closed.Load() && !s.conn.is(gone) {
		s.conn.linger()
	}
	s.conn.closeBy(s.conn.front.closer)
	s.conn.front.bye(s.conn)
}

// await reads up to the end of the next head. It is false when there will be none.
func (s *session) await() bool {
	if s.parsed {
		s.parsed = false
		return true
	}
	s.headBy = time.Time{}
	blank := false
	for seen := 0; ; {
		if got := s.in.unread(); len(got) > 0 && got[0] == '\r' && blank {
			s.refuse(http1.ErrEmptyLines)
			return false
		}
		if string(s.in.unread()) == "\r\n" && seen == 0 {
			blank = true
			s.in.start = s.in.end // some clients end their bodies so; it begins nothing
			s.in.next()
			s.conn.front.move(s.conn, idle) // as it is, but CloseIdle was kept from closing it
		}
		if s.preface() {
			return false
		}
		got := s.in.unread()
		if !s.maybePreface() {
			if s.conn.by == onlyHTTP2 {
				return false // no answer would be understood
			}
			n, err := http1.ParseRequest(got, seen, &s.head)
			if err != nil {
				s.refuse(err)
				return false
			}
			if n > 0 {
				s.begun = true
				s.in.start += n
				return true
			}
			seen = len(got)
		}
		if !s.receive(len(got) > 0) {
			return false
		}
	}
}

// receive reads more of a head, once; begun says whether there is some already.
func (s *session) receive(begun bool) bool {
	c := s.conn
	switch {
	case !begun:
		c.awaitNext()
	case s.headBy.IsZero():
		if !c.front.move(c, reading) {
			return false // CloseIdle has decided a moment ago that the connection ends
		}
		s.headBy = time.Now().Add(c.front.limits.Load().Head)
		c.readUntil(s.headBy, 0)
	}
	var n int
	var err error
	if begun {
		n, err = c.wire.Read(s.in.room())
	} else {
		n, err = c.ReadLazily(s.roomOf, s.freeIn)
	}
	s.in.end += n
	if n > 0 {
		s.conn.heard.Store(true)
	}
	if err != nil && begun && errors.Is(err, os.ErrDeadlineExceeded) {
		s.refuse(errHeadSlow)
	}
	return err == nil
}

// exchange serves the request whose head was parsed, and says whether the
// connection goes on.
func (s *session) exchange() bool {
	f := s.conn.front
	s.begin()
	if !f.enter(&s.flight) {
		return false
	}
	f.carry(&s.flight)
	f.observe(&s.flight)
	whole := s.answer.whole()
	settled := s.settleBody(whole)
	s.life.over()
	f.leave(&s.flight)
	last := s.answer.close || !settled || s.conn.hurried.Load()
	if whole {
		whole = s.answer.finish(last) == nil
	}
	if !whole {
		s.conn.torn.Store(true)
	}
	if !whole || last || s.conn.hurried.Load() {
		s.unwanted = !settled || len(s.in.unread()) > 0 || s.conn.waiting()
		return false
	}
	s.in.next()
	if s.head.Fields == nil {
		s.head.Fields = make(http1.Fields, 0, usualFields)
	}
	if len(s.in.unread()) > 0 {
		return f.move(s.conn, reading)
	}
	return f.rest(s.conn, s.Record.End)
}

// begin makes an exchange of the head.
func (s *session) begin() {
	c := s.conn
	s.Request = s.head.Request
	s.Request.Scheme = c.scheme()
	s.Length = s.head.Length
	s.WebSocket, s.Wrong = s.head.WebSocket, nil
	s.Body, s.Trailers = nil, nil
	s.body.reset()
	s.AtLeast, s.MaxBody = s.body.promised, 0
	if s.Length != 0 {
		s.Body, s.Trailers = &s.body, s.trailersOf
	}
	s.Here = s.body.isHere()
	s.answer.start()
	s.Sink = &s.answer
	s.Client, s.ClientText = c.client, c.address() // nobody is introduced any more
	s.Record = exchange.Record{Start: time.Now()}
	s.life = newLife()
}

// shed lets go of the buffer that the request was read into, once its answer
// has begun and may take long: of ten thousand open streams each held four KiB
// of what nobody would read again. What the record is made from is copied; the
// fields, which are of no more use, go too.
func (s *session) shed() {
	if len(s.in.unread()) > 0 || len(s.in.extra) > 0 || s.Length != 0 && !s.body.ended.Load() {
		return
	}
	kept := []*string{&s.Request.Method, &s.Request.Target, &s.Request.Authority, &s.Record.ID, &s.Record.ClientIP, &s.Record.Referer, &s.Record.UserAgent}
	length := 0
	for _, k := range kept {
		length += len(*k)
	}
	var text strings.Builder
	text.Grow(length)
	for _, k := range kept {
		text.WriteString(*k)
	}
	rest := text.String()
	for _, k := range kept {
		*k, rest = rest[:len(*k)], rest[len(*k):]
	}
	s.Request.Fields = nil
	s.head.Request = http1.Request{} // a view of the buffer, too, and as good as holding it
	s.in.free()
}

// settleBody makes sure that what the handler left of a body is not taken for
// the next request, and says whether that could be. A small rest is read; else
// the connection ends after the answer.
func (s *session) settleBody(whole bool) bool {
	switch {
	case s.Body == nil, s.body.over():
		return true
	case !whole, s.body.failed.Load(), s.answer.close:
		return false
	}
	// The client has all of the answer before, but perhaps its end.
	return s.answer.Flush() == nil && s.body.readRest()
}
