package continuation

import (
	"bytes"
	"strconv"
)

// asking is the request with what the engine is to tell beside, where the rest
// of its answer may have to be asked for: how many tokens there were, if the client wants to know
// the usage, and which, of a completion. strip is what every event then has to lose.
func (r *Request) asking(p Profile, limit int64) (asked *Request, strip string, ids bool) {
	if !r.continues || r.deterministic {
		return r, "", false
	}
	var d document
	if !d.parse(r.body, 1) {
		return r, "", false
	}
	more := *r
	if r.usage && p.strip != "" && !d.asks(p.ask) {
		more.body, strip = edit(more.body, p.ask), p.strip
	}
	if r.form == plain && !r.endless && p.ids != "" && d.get(0, p.ids) == none && int64(len(r.body))*bytesPerID <= limit {
		more.body, ids = edit(more.body, change{p.ids, []byte("true")}), true
	}
	return &more, strip, ids
}

// bytesPerID is how long the list of a prompt's tokens may become, for a byte of
// it: it comes in one event, which must find room.
const bytesPerID = 8

// asks says whether the client has asked for the same by itself.
func (d *document) asks(ask change) bool {
	if ask.key == "stream_options" {
		var o document
		n := d.get(0, "stream_options")
		return d.is(n, object) && o.parse(d.value0(n), 1) && o.get(0, "continuous_usage_stats") != none
	}
	return d.get(0, ask.key) != none
}

// GoOn says that another worker is asked for the rest, and returns the request
// for it: what was said so far, as the assistant's words or behind the prompt,
// by tokens where they are known, and as many tokens less.
func (s *Stream) GoOn() []byte {
	r := s.request
	said := s.journal.said("delta.content", "text")
	had := s.tokens()
	byIDs := s.knowsIDs()
	if byIDs {
		had = s.ids.settledCount
		s.told.completion, s.toldAt = had, s.pieces
	}
	s.base = usage{s.told.prompt, had, false}
	s.part0, s.mixed = going, true
	var d document
	if !d.parse(r.body, 1) {
		return r.body
	}
	var changes []change
	switch {
	case r.form == chat:
		changes = append(changes,
			change{"messages", withMessage(d.value0(d.get(0, "messages")), said)},
			change{"continue_final_message", []byte("true")}, change{"add_generation_prompt", []byte("false")})
	case byIDs:
		changes = append(changes, change{"prompt", s.byIDs()})
	default:
		prompt := append(d.appendText(nil, d.get(0, "prompt")), said...)
		changes = append(changes, change{"prompt", appendQuoted(nil, prompt)})
	}
	if r.limit > 0 {
		changes = append(changes, change{r.limitKey, strconv.AppendInt(nil, int64(max(r.limit-had, 1)), 10)})
	}
	s.journal.skip()
	return edit(r.body, changes...)
}

// withMessage appends what the assistant has said to a list of messages.
func withMessage(messages, said []byte) []byte {
	list := bytes.TrimRight(messages, " \t\r\n")
	out := append([]byte(nil), list[:len(list)-1]...)
	out = append(out, `,{"role":"assistant","content":`...)
	return append(appendQuoted(out, said), "}]"...)
}

// add puts an answer's usage together with what came before it.
func (s *Stream) add(u usage) usage {
	if s.part0 != going {
		return u
	}
	if s.base.prompt == 0 { // what was computed before is part of this one's prompt
		u.prompt -= s.base.completion
	} else {
		u.prompt = s.base.prompt
	}
	u.completion += s.base.completion
	return u
}

// correct puts the whole answer's usage into an event.
func (s *Stream) correct() {
	d := &s.doc
	n := d.get(0, "usage")
	if s.part0 != going || !d.is(n, object) {
		return
	}
	for key, count := range map[string]int{
		"prompt_tokens": s.told.prompt, "completion_tokens": s.told.completion, "total_tokens": s.told.prompt + s.told.completion,
	} {
		if m := d.get(n, key); m != none {
			d.nodes[m].edit = strconv.AppendInt(nil, int64(count), 10)
		}
	}
}
