package balancer

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"

	"stoker/balancer/continuation"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/sse"
)

// refusedError is another worker's that did not take the stream over.
type refusedError struct{ status int }

func (e *refusedError) Error() string {
	return fmt.Sprintf("another worker answered with status %d instead of a stream", e.status)
}

var _ exchange.Sink = (*stream)(nil)

// Interim implements exchange.Sink.
func (s *stream) Interim(status int, fields http1.Fields) error {
	if s.a.begun {
		return nil
	}
	return s.a.Interim(status, fields)
}

// Head implements exchange.Sink. The client gets that of its first worker.
func (s *stream) Head(r *http1.Response, length int64) error {
	events := r.Status == http.StatusOK && length < 0 && isEvents(r.Fields)
	packed, err := plainly(r.Fields)
	switch {
	case events && err == nil && packed:
		s.packing, r = newUnpacker(plainSink(s.pass)), withoutCoding(r)
	case events && err != nil && s.a.begun:
		s.fault = err
		return err
	}
	if !s.a.begun {
		s.plain = !events || err != nil // which is the attempt's to refuse
		return s.a.Head(r, length)
	}
	if !events {
		s.fault = &refusedError{r.Status}
		return s.fault
	}
	return nil
}

// Write implements exchange.Sink.
func (s *stream) Write(p []byte) (int, error) {
	if s.packing == nil {
		return s.pass(p)
	}
	n, err := s.packing.Write(p)
	if wrong := s.packing.fault(); wrong != nil {
		s.fault = wrong
	}
	return n, err
}

// pass takes what is not compressed.
func (s *stream) pass(p []byte) (int, error) {
	if s.plain {
		return s.a.Write(p)
	}
	s.watch.enter()
	defer s.watch.leave()
	rest, run := p, p[:0] // run is whole events that go out as they are
	for len(rest) > 0 {
		n := s.split.Next(rest)
		if n < 0 {
			break
		}
		raw := rest[:n]
		rest = rest[n:]
		if len(s.held) > 0 {
			s.held = append(s.held, raw...)
			raw = s.held
		}
		pass, err := s.take(raw)
		if err == nil && pass == continuation.Whole && len(s.held) == 0 {
			run = run[:len(run)+n]
			continue
		}
		if werr := s.write(run); werr != nil {
			return 0, werr
		}
		run = rest[:0]
		if err != nil {
			return 0, err
		}
		switch pass {
		case continuation.Whole:
			err = s.write(raw)
		case continuation.Changed:
			err = s.write(s.events.Changed())
		case continuation.Nothing:
		}
		s.held = s.held[:0]
		if err != nil {
			return 0, err
		}
	}
	if err := s.write(run); err != nil {
		return 0, err
	}
	s.held = append(s.held, rest...)
	if int64(len(s.held)) > s.j.l.rules.Migration.Stream {
		return len(p), s.giveUp()
	}
	return len(p), nil
}

// giveUp lets the stream go on as any other: an event is too large to be held. Not
// where the client would have what only we have asked for.
func (s *stream) giveUp() error {
	if s.moves > 0 || s.events.Asked() {
		s.fault = errTooLargeEvent
		return s.fault
	}
	s.plain = true
	return s.write(s.held)
}

var errTooLargeEvent = errors.New("an event is too large to be held")

// take takes in one event.
func (s *stream) take(raw []byte) (continuation.Pass, error) {
	if s.first {
		s.first = false
		raw = bytes.TrimPrefix(raw, sse.BOM)
	}
	before := s.events.Shape()
	pass, err := s.events.Take(raw)
	if err != nil {
		s.fault = err
		return pass, err
	}
	if s.events.Progress() {
		s.watch.tick()
	}
	if s.events.Shape() != before {
		s.note()
	}
	if s.moves > 0 && s.events.Caught() {
		s.j.caught()
	}
	return pass, nil
}

// write gives the client something.
func (s *stream) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	_, err := s.a.Write(p)
	return err
}

// Flush implements exchange.Sink.
func (s *stream) Flush() error {
	s.watch.enter()
	defer s.watch.leave()
	return s.a.Flush()
}

// Splice implements exchange.Sink: what goes through the kernel nobody can read.
func (s *stream) Splice(src *rawconn.Conn, n int64) (int64, error) {
	if s.plain {
		return s.a.Splice(src, n)
	}
	return rawconn.Copy(flushing{s}, src, n)
}

// flushing writes at once.
type flushing struct{ exchange.Sink }

// Write implements io.Writer.
func (f flushing) Write(p []byte) (int, error) {
	n, err := f.Sink.Write(p)
	if err != nil {
		return n, err
	}
	return n, f.Flush()
}

// End implements exchange.Sink. A worker's clean end is the client's only if
// that has had everything.
func (s *stream) End(trailers http1.Fields) error {
	if err := s.packing.end(); err != nil {
		s.fault = s.packing.fault()
		return err
	}
	if s.plain {
		return s.a.End(trailers)
	}
	// The end without the empty line after it. Any other event that is not whole
	// no client would heed.
	if last, _ := sse.Parse(s.held, nil); string(last.Data) == "[DONE]" {
		if _, err := s.pass([]byte("\n\n")); err != nil {
			return err
		}
	}
	switch {
	case s.events.Whole():
	case s.events.Foreign():
		if err := s.write(s.held); err != nil {
			return err
		}
	default:
		s.fault = continuation.ErrEnded
		return s.fault
	}
	return s.a.End(trailers)
}

// Break implements exchange.Sink. Transports do not call it.
func (s *stream) Break(cause error) { s.a.Break(cause) }
