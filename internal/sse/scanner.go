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
