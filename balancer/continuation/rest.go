package continuation

import (
	"bytes"
	"strconv"
)

// asking is the request with what the engine is to tell beside, where the rest
// of its answer may have to be asked for and the client wants to know the usage.
func (r *Request) asking(p Profile) (asked *Request, strip string) {
	if !r.continues || r.deterministic || !r.usage || p.strip == "" || r.asks(p) {
		return r, ""
	}
	more := *r
	more.body = edit(r.body, p.ask)
	return &more, p.strip
}

// asks says whether the client has asked for the same by itself.
func (r *Request) asks(p Profile) bool {
	var d, o document
	if !d.parse(r.body, 1) {
		return true
	}
	if p.ask.key == "stream_options" {
		n := d.get(0, "stream_options")
		return d.is(n, object) && o.parse(d.value0(n), 1) && o.get(0, "continuous_usage_stats") != none
	}
	return d.get(0, p.ask.key) != none
}

// GoOn says that another worker is asked for the rest, and returns the request
// for it: the text so far, as what the assistant has said or behind the prompt,
// and as many tokens less.
func (s *Stream) GoOn() []byte {
	r := s.request
	said := s.journal.said("delta.content", "text")
	s.base = usage{s.told.prompt, s.tokens(), false}
	s.part0, s.mixed = going, true
	s.journal.skip()
	var d document
	if !d.parse(r.body, 1) {
		return r.body
	}
	var changes []change
	if r.form == chat {
		changes = append(changes,
			change{"messages", withMessage(d.value0(d.get(0, "messages")), said)},
			change{"continue_final_message", []byte("true")}, change{"add_generation_prompt", []byte("false")})
	} else {
		prompt := append(d.appendText(nil, d.get(0, "prompt")), said...)
		changes = append(changes, change{"prompt", appendQuoted(nil, prompt)})
	}
	if r.limit > 0 {
		changes = append(changes, change{r.limitKey, strconv.AppendInt(nil, int64(max(r.limit-s.tokens(), 1)), 10)})
	}
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
