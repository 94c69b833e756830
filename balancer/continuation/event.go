package continuation

// An event of a stream as a worker sends it, made into what the client is to
// get of it.

// What becomes of a member of a choice, by its key.
type use uint8

const (
	// grows: a string that comes in pieces, a list that grows, or an object of such.
	grows use = iota
	// once: said by the first who says it.
	once
	// passes: not compared. It goes where the rest goes.
	passes
)

func useOf(key []byte) use {
	switch string(key) {
	case "role", "id", "type":
		return once
	case "index", "finish_reason", "stop_reason", "matched_stop", "object", "hidden_states", "prompt_logprobs", "prompt_token_ids":
		return passes
	}
	return grows
}

// choicesOf reads the choices of an event and takes off what the client has had.
// left says whether any is left, some whether there were any.
func (s *Stream) choicesOf(list int) (left, some bool, err error) {
	d := &s.doc
	for n := d.first(list); n != none; n = d.next(n) {
		some = true
		index, ok := d.integer(d.get(n, "index"))
		if !ok {
			index = 0
		}
		more, err := s.choice(n, s.journal.at(index))
		if err != nil {
			return false, true, err
		}
		d.nodes[n].gone = !more
		left = left || more
	}
	return left, some, nil
}

// choice takes in what an event says of one.
func (s *Stream) choice(n int, c *choice) (left bool, err error) {
	d := &s.doc
	finish := none
	for m := d.first(n); m != none; m = d.next(m) {
		key := d.key(m)
		switch {
		case string(key) == "finish_reason":
			if !d.is(m, null) {
				finish = m
			}
		case s.idsMember(key):
		case useOf(key) == grows:
			s.path = append(s.path[:0], key...)
			more, err := s.part(m, c)
			if err != nil {
				return false, err
			}
			if !more {
				s.empty(m)
			}
			left = left || more
		}
	}
	s.noteIDs(n, c)
	switch {
	case s.original():
		if finish != none {
			c.finished, s.others = true, true
			s.finish = append(s.finish[:0], d.value0(finish)...)
		}
		return true, nil
	case left && c.finished:
		return false, errDiverged // more, after what was the end
	case finish == none:
	case c.behind():
		return false, errDiverged // the end, before all of it
	case !c.finished:
		c.finished, left = true, true
		s.finish = append(s.finish[:0], d.value0(finish)...)
	}
	return left, nil
}

// empty leaves of a member of a choice that it is there: clients rely on that.
func (s *Stream) empty(n int) {
	v := &s.doc.nodes[n]
	v.gone = false
	switch v.kind {
	case text:
		v.edit = emptyText
	case array:
		v.edit = emptyList
	case object:
		if string(s.doc.key(n)) != "delta" {
			v.edit = nothing
		}
	case null, boolean, number:
	}
}

var emptyText, emptyList, nothing = []byte(`""`), []byte("[]"), []byte("null")

// part takes in one value of a choice, at s.path, and says whether anything of
// it is left for the client. What is not is gone.
func (s *Stream) part(n int, c *choice) (left bool, err error) {
	switch d := &s.doc; d.nodes[n].kind {
	case text:
		left, err = s.piece(n, c)
	case object:
		left, err = s.members(n, c)
	case array:
		left, err = s.elements(n, c)
	case null, boolean, number:
		return false, nil // nothing by itself, and no harm beside others
	}
	s.doc.nodes[n].gone = !left
	return left, err
}

// piece is the next of a string.
func (s *Stream) piece(n int, c *choice) (left bool, err error) {
	s.room = s.doc.appendText(s.room[:0], n)
	ch := s.open(c)
	fresh, ok := s.journal.hear(ch, s.room)
	if !ok {
		return false, errDiverged
	}
	s.progress = s.progress || len(s.room) > 0
	s.others = s.others || s.one != none
	s.one, s.into = n, ch
	switch {
	case len(fresh) == 0:
		return false, nil
	case len(fresh) < len(s.room):
		s.doc.nodes[n].edit = appendQuoted(nil, fresh)
		s.edited = true
	}
	s.fresh = true
	return true, nil
}

// open is the channel at s.path, made at the first time.
func (s *Stream) open(c *choice) *channel {
	ch := c.at(s.path)
	if ch == nil {
		ch = c.open(s.path)
		s.channels++
	}
	return ch
}

// original says whether the client sees what the worker sends as it is.
func (s *Stream) original() bool { return s.part0 == first }

// said is a constant.
func (s *Stream) said(n int, c *choice) (left bool) {
	s.others = true
	ch := c.at(s.path)
	if ch == nil {
		ch = c.open(s.path)
		ch.constant = true
		s.journal.add(ch, s.doc.value0(n))
		return true
	}
	return false
}

// members of an object, each at its own path.
func (s *Stream) members(n int, c *choice) (left bool, err error) {
	d, here := &s.doc, len(s.path)
	for m := d.first(n); m != none; m = d.next(m) {
		key := d.key(m)
		use := useOf(key)
		if use == passes {
			continue
		}
		s.path = append(append(s.path[:here], '.'), key...)
		var more bool
		if use == once && d.is(m, text) {
			more = s.said(m, c)
			d.nodes[m].gone = !more
		} else if more, err = s.part(m, c); err != nil {
			return false, err
		} else if d.nodes[m].kind <= number {
			d.nodes[m].gone = false
		}
		left = left || more
	}
	s.path = s.path[:here]
	return left, nil
}

// elements of a list: with an index each is at a path of its own, as the calls
// of tools are; else the list grows by them.
func (s *Stream) elements(n int, c *choice) (left bool, err error) {
	d, here := &s.doc, len(s.path)
	s.others = true
	for m := d.first(n); m != none; m = d.next(m) {
		var more bool
		if index := d.get(m, "index"); index != none {
			s.path = append(append(s.path[:here], '.'), d.value0(index)...)
			if more, err = s.members(m, c); err != nil {
				return false, err
			}
		} else {
			s.path = s.path[:here]
			s.room = append(append(s.room[:0], d.value0(m)...), '\n')
			ch := s.open(c)
			fresh, ok := s.journal.hear(ch, s.room)
			if !ok || len(fresh) > 0 && len(fresh) < len(s.room) {
				return false, errDiverged
			}
			more = len(fresh) > 0
			s.fresh, s.progress = s.fresh || more, true
		}
		d.nodes[m].gone = !more
		left = left || more
	}
	s.path = s.path[:here]
	return left, nil
}
