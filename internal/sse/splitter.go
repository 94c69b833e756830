package sse

import "bytes"

// Splitter finds the ends of events in a stream that comes in pieces. The zero
// value is at a stream's beginning.
type Splitter struct {
	inLine bool // something of the present line has been seen
	cr     bool // the byte before was a CR: a LF now belongs to it
	some   bool // something of the present event has been seen
}

// Next returns how much of p belongs to the event that is under way, when that
// ends in p; or -1: all of p does, and it goes on. An event here is whatever
// comes up to an empty line, if that is but a comment; empty lines in front of
// it are its own.
func (s *Splitter) Next(p []byte) int {
	for i := 0; i < len(p); {
		c := p[i]
		if s.inLine && c != '\n' && c != '\r' {
			end := bytes.IndexByte(p[i:], '\n')
			if end < 0 {
				end = len(p) - i
			}
			if cr := bytes.IndexByte(p[i:i+end], '\r'); cr >= 0 {
				end = cr
			}
			i += end
			s.cr = false
			continue
		}
		i++
		switch {
		case c == '\n' && s.cr:
			s.cr = false
		case c == '\n' || c == '\r':
			s.cr = c == '\r'
			ended := !s.inLine && s.some
			s.inLine = false
			if ended {
				s.some = false
				return i
			}
		default:
			s.inLine, s.some, s.cr = true, true, false
		}
	}
	return -1
}
