package continuation

import (
	"bytes"
	"strconv"
)

// Facts are what Decide is to know of the stream.
func (s *Stream) Facts() Facts {
	return Facts{
		Said:          s.pieces > 0 || s.journal.lost,
		Deterministic: s.request.deterministic,
		Diverged:      s.mixed,
		Continues:     s.continues(),
		Spent:         s.spent(),
		Lost:          s.journal.lost,
		Foreign:       s.Foreign(),
		Finished:      s.journal.finished(s.request.choices),
		Complete:      s.done || !s.request.usage || s.usage || s.told.final || s.spent() && s.told.completion >= s.request.limit,
	}
}

// Shape changes whenever Facts may say something else of the stream's future.
func (s *Stream) Shape() int {
	shape := 0
	for i, yes := range [...]bool{s.pieces > 0, s.journal.lost, s.mixed, s.done, s.Foreign(), s.ids.hole, s.journal.finished(s.request.choices)} {
		if yes {
			shape |= 1 << i
		}
	}
	return shape + len(s.journal.choices)<<8 + s.channels<<16
}

// Diverge notes that no repetition will give what the client has had.
func (s *Stream) Diverge() { s.mixed = true }

// Tail is what is missing of a finished stream.
func (s *Stream) Tail() []byte {
	s.out = s.out[:0]
	if s.done {
		return s.out
	}
	if !s.journal.finished(s.request.choices) { // all tokens that were asked for are there
		end := `[{"index":0,"delta":{},"finish_reason":"length"}]`
		if s.request.form == plain {
			end = `[{"index":0,"text":"","finish_reason":"length"}]`
		}
		s.event([]byte(end), nil)
	}
	if s.request.usage && !s.usage {
		s.event(emptyList, s.tally())
		s.usage = true
	}
	s.out = append(s.out, "data: [DONE]\n\n"...)
	s.done = true
	return s.out
}

// event appends one with the stream's envelope; usage may be nil.
func (s *Stream) event(choices, usage []byte) {
	s.out = append(s.out, `data: {`...)
	for _, m := range s.envelope {
		s.out = append(appendQuoted(s.out, []byte(m.key)), ':')
		s.out = append(append(s.out, m.value...), ',')
	}
	s.out = append(append(s.out, `"choices":`...), choices...)
	if usage != nil {
		s.out = append(append(s.out, `,"usage":`...), usage...)
	}
	s.out = append(s.out, "}\n\n"...)
}

// tally is the usage as it is known.
func (s *Stream) tally() []byte {
	var b bytes.Buffer
	for i, part := range []struct {
		key   string
		count int
	}{{"prompt_tokens", s.told.prompt}, {"completion_tokens", s.told.completion}, {"total_tokens", s.told.prompt + s.told.completion}} {
		b.WriteByte("{,,"[i])
		b.WriteString(strconv.Quote(part.key))
		b.WriteByte(':')
		b.WriteString(strconv.Itoa(part.count))
	}
	b.WriteByte('}')
	return b.Bytes()
}

// continues says whether the rest of the answer can be asked for.
func (s *Stream) continues() bool {
	return s.request.continues && s.journal.only("delta.content", "text") && (s.request.promptIDs == nil || s.knowsIDs())
}

// spent says whether the client has had all the tokens that it asked for.
func (s *Stream) spent() bool { return s.request.limit > 0 && s.tokens() >= s.request.limit }

// tokens that the client has had.
func (s *Stream) tokens() int {
	if s.told.completion > 0 {
		return s.told.completion + s.pieces - s.toldAt
	}
	return s.pieces
}
