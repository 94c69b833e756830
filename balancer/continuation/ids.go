package continuation

import "bytes"

// Text does not say which tokens it was made of: the same word may be one token
// or three, and who continues the text goes on from others than the engine that
// wrote it. Engines that are asked to say the tokens of a completion let it go on from
// the very same ones.
//
//	what was said                                   then
//	the prompt's tokens, and those of each text     the rest is asked for behind all of them
//	text without its tokens: a hole                 behind the text, where the prompt is one
//	tokens without text, last                       these are asked for again: a character is not whole yet
//
// They are not asked for where the end of a text may be among them (ignore_eos):
// that is a token like any other only to who has written it. Nor where the
// client has asked for them by itself: it would then see those of two engines.

// What is remembered, as channels that no worker is compared with.
const (
	promptIDs = "(tokens of the prompt)"
	textIDs   = "(tokens of the text)"
)

// ids is what is known of an answer's tokens.
type ids struct {
	asked bool
	taken bool // the event at hand had some
	hole  bool // there is text of which we don't know them
	// settled are those with text, in bytes of their channel and by number; count
	// has the others, too.
	settled, settledCount, count int
}

// idsMember says whether a member of a choice is one that we have asked for.
func (s *Stream) idsMember(key []byte) bool {
	return s.ids.asked && (string(key) == "token_ids" || string(key) == "prompt_token_ids")
}

// noteIDs remembers the tokens that an event has, and takes them off.
func (s *Stream) noteIDs(n int, c *choice) {
	if !s.ids.asked {
		return
	}
	d := &s.doc
	if m := d.get(n, "prompt_token_ids"); m != none {
		d.nodes[m].gone, s.ids.taken = true, true
		if list, ok := listOfIDs(d.value0(m)); ok && s.original() && !s.began {
			s.keepIDs(c, promptIDs, list)
		}
	}
	m := d.get(n, "token_ids")
	list, ok := listOfIDs(d.raw0(m))
	if m != none {
		d.nodes[m].gone, s.ids.taken = true, true
	}
	if ok {
		s.ids.count += s.keepIDs(c, textIDs, list)
	}
	if t := d.get(n, "text"); d.is(t, text) && len(d.value0(t)) > len(`""`) {
		if !ok {
			s.ids.hole = true
		}
		s.ids.settledCount = s.ids.count
		if ch := c.at([]byte(textIDs)); ch != nil {
			s.ids.settled = len(ch.data)
		}
	}
}

// keepIDs appends a list to a channel, and says how many there were.
func (s *Stream) keepIDs(c *choice, path string, list []byte) int {
	ch := c.open([]byte(path))
	ch.constant = true
	if len(ch.data) > 0 {
		s.journal.add(ch, []byte(","))
	}
	s.journal.add(ch, list)
	return bytes.Count(list, []byte(",")) + 1
}

// listOfIDs is what stands between the brackets of a list of numbers that has some.
func listOfIDs(raw []byte) ([]byte, bool) {
	if len(raw) < len("[0]") || raw[0] != '[' {
		return nil, false
	}
	list := bytes.TrimSpace(raw[1 : len(raw)-1])
	for _, c := range list {
		if (c < '0' || c > '9') && c != ',' && c != ' ' {
			return nil, false
		}
	}
	return list, len(list) > 0
}

// knowsIDs says whether the rest can be asked for by tokens.
func (s *Stream) knowsIDs() bool {
	return s.ids.asked && !s.ids.hole && s.ids.settled > 0 && !s.journal.lost && len(s.promptTokens()) > 0
}

// promptTokens are those that the engine has made of the prompt, or the client.
func (s *Stream) promptTokens() []byte {
	if list := s.journal.said(promptIDs); len(list) > 0 {
		return list
	}
	return s.request.promptIDs
}

// byIDs is the prompt for the rest: all tokens so far. From here on only these
// count as sent.
func (s *Stream) byIDs() []byte {
	ch := s.journal.choices[0].at([]byte(textIDs))
	ch.data = ch.data[:s.ids.settled]
	s.ids.count = s.ids.settledCount
	list := append(append([]byte{'['}, s.promptTokens()...), ',')
	return append(append(list, ch.data...), ']')
}

// forgetIDs is for who repeats the request from its beginning.
func (s *Stream) forgetIDs() {
	s.ids = ids{asked: s.ids.asked}
	for i := range s.journal.choices {
		for _, path := range []string{promptIDs, textIDs} {
			if ch := s.journal.choices[i].at([]byte(path)); ch != nil {
				ch.data, ch.pos = ch.data[:0], 0
			}
		}
	}
}
