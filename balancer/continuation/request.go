package continuation

import (
	"bytes"
	"strconv"
	"strings"
)

// form is the shape of a request and its answer.
type form uint8

const (
	chat  form = iota // /v1/chat/completions
	plain             // /v1/completions
)

// Request is one that asks for a stream of tokens, as far as it matters here
// which. It does not change.
type Request struct {
	body []byte // as it is sent first
	form form
	// usage: the client wants to be told at the end how many tokens there were.
	usage bool
	// deterministic: whoever is asked gives the same answer.
	deterministic bool
	// continues: text may be continued by who has not begun it.
	continues bool
	limit     int    // of tokens, 0: none is given
	limitKey  string // that gives it
	promptIDs []byte // the prompt's tokens, where it is a list of them
	endless   bool   // the end of a text is a token like any other
	choices   int
}

// Form says whether requests with that target may ask for streams that we
// know, whatever the query.
func formOf(target string) (form, bool) {
	path, _, _ := strings.Cut(target, "?")
	switch {
	case strings.HasSuffix(path, "/chat/completions"):
		return chat, true
	case strings.HasSuffix(path, "/completions"):
		return plain, true
	}
	return 0, false
}

// Concerns says whether a request with that target could be one.
func Concerns(target string) bool {
	_, ok := formOf(target)
	return ok
}

// Parse reads a request's body. It returns nil for what asks for no stream, or
// cannot be told to.
func Parse(target string, body []byte) *Request {
	f, ok := formOf(target)
	if !ok {
		return nil
	}
	var d document
	if !d.parse(body, 1) || !d.is(0, object) || !d.isTrue(d.get(0, "stream")) || d.twice() {
		return nil
	}
	r := &Request{body: body, form: f, choices: 1}
	if n := d.get(0, "n"); !d.is(n, null) {
		if r.choices, ok = d.integer(n); !ok || r.choices < 1 {
			return nil
		}
	}
	if n := d.get(0, "stream_options"); d.is(n, object) {
		var o document
		r.usage = o.parse(d.value0(n), 1) && o.isTrue(o.get(0, "include_usage"))
	}
	for _, key := range []string{"max_completion_tokens", "max_tokens"} {
		if n, ok := d.integer(d.get(0, key)); ok && r.limitKey == "" {
			r.limit, r.limitKey = n, key
		}
	}
	r.deterministic = d.isDeterministic()
	r.endless = d.isTrue(d.get(0, "ignore_eos"))
	if f == plain {
		r.promptIDs, _ = listOfIDs(d.raw0(d.get(0, "prompt")))
	}
	r.continues = r.choices == 1 && d.isPlain(f) && (f == chat || r.promptIDs != nil || d.is(d.get(0, "prompt"), text))
	return r
}

func (d *document) isTrue(n int) bool {
	return d.is(n, boolean) && d.raw[d.nodes[n].start] == 't'
}

// maxKeys is far more than a request has.
const maxKeys = 300

// twice says whether a key is there twice: what we read of it may not be what
// the engine reads.
func (d *document) twice() bool {
	if len(d.nodes) > maxKeys {
		return true
	}
	for n := d.first(0); n != none; n = d.next(n) {
		for o := d.next(n); o != none; o = d.next(o) {
			if bytes.Equal(d.key(n), d.key(o)) {
				return true
			}
		}
	}
	return false
}

// isDeterministic: at temperature 0 the likeliest token is taken, and with a
// seed chance is the same for whoever throws the dice. A negative seed means a
// random one to some engines.
func (d *document) isDeterministic() bool {
	if n := d.get(0, "temperature"); d.is(n, number) {
		if t, err := strconv.ParseFloat(string(d.value0(n)), 64); err == nil && t == 0 {
			return true
		}
	}
	seed, ok := d.integer(d.get(0, "seed"))
	return ok && seed >= 0
}

// shaping are fields, of OpenAI and of engines, by which an answer has a form, or an end,
// that its text alone does not say: who continues the text would not keep it.
var shaping = []string{
	"tools", "functions", "tool_choice", "function_call", "response_format",
	"grammar", "json_schema", "structured_outputs", "regex", "ebnf", "structural_tag",
	"guided_json", "guided_regex", "guided_choice", "guided_grammar",
	"logprobs", "top_logprobs", "prompt_logprobs", "n_probs",
	"stop", "stop_token_ids", "min_tokens", "suffix", "echo", "best_of", "use_beam_search",
	"modalities", "audio", "add_generation_prompt", "continue_final_message", "prefix",
}

// isPlain says whether text is all that there is to an answer.
func (d *document) isPlain(f form) bool {
	for _, key := range shaping {
		n := d.get(0, key)
		if d.is(n, null) || d.is(n, boolean) && !d.isTrue(n) {
			continue
		}
		switch key {
		case "response_format":
			var o document
			if o.parse(d.value0(n), 1) && o.text(o.get(0, "type")) == "text" {
				continue
			}
		case "tool_choice":
			if d.text(n) == "none" {
				continue
			}
		case "best_of":
			if best, _ := d.integer(n); best == 1 {
				continue
			}
		case "tools", "stop":
			if bytes.Equal(bytes.ReplaceAll(d.value0(n), []byte(" "), nil), []byte("[]")) {
				continue
			}
		}
		return false
	}
	if f == plain {
		return true
	}
	return d.endsWithOthers(d.get(0, "messages"))
}

// endsWithOthers says whether the last of the messages is not the assistant's,
// which the answer would continue already.
func (d *document) endsWithOthers(messages int) bool {
	var m document
	if !d.is(messages, array) || !m.parse(d.value0(messages), 2) {
		return false
	}
	last := m.first(0)
	if last == none {
		return false
	}
	for m.next(last) != none {
		last = m.next(last)
	}
	role := m.text(m.get(last, "role"))
	return role != "" && role != "assistant"
}

// Seeded is the request with a seed, where it has none and is not deterministic
// by itself: from here on whoever is asked gives the same answer.
func (r *Request) Seeded(seed uint32) *Request {
	if r.deterministic {
		return r
	}
	seeded := *r
	seeded.deterministic = true
	seeded.body = edit(r.body, change{"seed", strconv.AppendUint(nil, uint64(seed), 10)})
	return &seeded
}

// change of one member of a JSON object; a nil value removes it.
type change struct {
	key   string
	value []byte
}

// edit makes a body of another: what is not changed stays as it is, byte for byte.
func edit(body []byte, changes ...change) []byte {
	var d document
	if !d.parse(body, 1) {
		return body
	}
	out := make([]byte, 0, len(body)+256)
	out = append(out, '{')
	empty := true
	begin := func(key []byte) {
		if !empty {
			out = append(out, ',')
		}
		empty = false
		out = append(append(out, key...), ':')
	}
	done := make([]bool, len(changes))
	for n := d.first(0); n != none; n = d.next(n) {
		key, value := d.raw[d.nodes[n].keyStart:d.nodes[n].keyEnd], d.value0(n)
		for i := range changes {
			if string(d.key(n)) == changes[i].key {
				value, done[i] = changes[i].value, true
			}
		}
		if value != nil {
			begin(key)
			out = append(out, value...)
		}
	}
	for i := range changes {
		if !done[i] && changes[i].value != nil {
			begin(appendQuoted(nil, []byte(changes[i].key)))
			out = append(out, changes[i].value...)
		}
	}
	return append(out, '}')
}
