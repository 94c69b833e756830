package sse

import "bytes"

// Scanner is a Splitter that holds what is not whole yet, and parses the rest.
// The zero value is at a stream's beginning, and holds any amount.
type Scanner struct {
	// Limit is the largest event that is held, in bytes; 0: any. Larger ones are
	// passed over.
	Limit int

	split Splitter
	held  []byte
	over  bool // the present event is too large
	begun bool // the first event has been read
	room  []byte
}

// Feed takes the next piece of the stream, and gives each event that is whole.
// What that views is good until each returns.
func (s *Scanner) Feed(p []byte, each func(Event)) {
	for len(p) > 0 {
		if data, n := s.plain(p); n > 0 {
			p = p[n:]
			each(Event{Data: data, HasData: true})
			continue
		}
		n := s.split.Next(p)
		if n < 0 {
			s.hold(p)
			return
		}
		raw := p[:n]
		p = p[n:]
		if len(s.held) > 0 || s.over {
			s.hold(raw)
			raw = s.held
		}
		if !s.begun {
			s.begun = true
			raw = bytes.TrimPrefix(raw, BOM)
		}
		if !s.over {
			var e Event
			if s.room = e.parse(raw, s.room); e.HasData || e.Error != nil {
				each(e)
			}
		}
		s.held, s.over = s.held[:0], false
	}
}

// plain is the data of an event that p begins with, and how long that is, if it is
// one line of data that ends with LF, as nearly all are that language models send:
// that saves half of what reading it costs. Else 0.
func (s *Scanner) plain(p []byte) (data []byte, n int) {
	if s.split != (Splitter{}) || !s.begun || s.over || len(s.held) > 0 || !bytes.HasPrefix(p, dataPrefix) {
		return nil, 0
	}
	end := bytes.IndexByte(p, '\n')
	if end < 0 || end+1 == len(p) || p[end+1] != '\n' {
		return nil, 0
	}
	data = p[len(dataPrefix):end]
	if bytes.IndexByte(data, '\r') >= 0 {
		return nil, 0
	}
	return data, end + 2
}

var dataPrefix = []byte("data: ")

func (s *Scanner) hold(p []byte) {
	if s.over || s.Limit > 0 && len(s.held)+len(p) > s.Limit {
		s.held, s.over = s.held[:0], true
		return
	}
	s.held = append(s.held, p...)
}

// mostKept is how much memory is kept for another stream.
const mostKept = 8 << 10

// Reset goes to the beginning of another stream. Memory is kept, if that is little.
func (s *Scanner) Reset() {
	held, room := s.held[:0], s.room[:0]
	if cap(held)+cap(room) > mostKept {
		held, room = nil, nil
	}
	*s = Scanner{Limit: s.Limit, held: held, room: room}
}
