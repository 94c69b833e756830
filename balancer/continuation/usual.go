package continuation

import "bytes"

// usual is what nearly all events of a stream look like: the same bytes around
// one piece of text. To see that costs a tenth of what reading such an event does.
type usual struct {
	known           bool
	before, after   []byte
	choice, channel int
}

// read takes in an event that is like the one before, but for its piece.
func (s *Stream) readUsual(raw []byte) bool {
	u := &s.usual
	if !u.known || len(raw) < len(u.before)+len(u.after) || !bytes.HasPrefix(raw, u.before) || !bytes.HasSuffix(raw, u.after) {
		return false
	}
	piece := raw[len(u.before) : len(raw)-len(u.after)]
	for _, c := range piece {
		if c < ' ' || c == '"' || c == '\\' {
			return false
		}
	}
	if len(piece) == 0 {
		return false
	}
	s.journal.add(&s.journal.choices[u.choice].channels[u.channel], piece)
	s.pieces++
	s.fresh, s.progress = true, true
	return true
}

// learnUsual remembers an event of who began the stream whose only piece was node n.
func (s *Stream) learnUsual(raw []byte) {
	u := &s.usual
	u.known = false
	if s.one == none || s.others {
		return
	}
	at := bytes.Index(raw, s.doc.raw)
	if at < 0 { // data of several lines
		return
	}
	n := &s.doc.nodes[s.one]
	u.before = append(u.before[:0], raw[:at+int(n.start)+1]...)
	u.after = append(u.after[:0], raw[at+int(n.end)-1:]...)
	for i := range s.journal.choices {
		for k := range s.journal.choices[i].channels {
			if &s.journal.choices[i].channels[k] == s.into {
				u.choice, u.channel, u.known = i, k, true
			}
		}
	}
}
