package continuation

import (
	"bytes"
	"errors"

	"stoker/internal/sse"
)

// Why a worker's part of a stream is over, other than by its connection's end.
var (
	// ErrEnded: it ended as if it were whole, and is not.
	ErrEnded = errors.New("the stream ended without its end")
	// ErrEvent: the engine said that something went wrong.
	ErrEvent = errors.New("the engine sent an error event")
	// errDiverged: the worker says something else than the one before.
	errDiverged = errors.New("another worker gives another answer")
)

// Diverged says whether an error is that another worker gave another answer.
func Diverged(err error) bool { return errors.Is(err, errDiverged) }

// part is who is speaking.
type part uint8

const (
	first     part = iota // who began the stream
	repeating             // the same request to another
	going                 // a request for the rest
)

// Pass says what becomes of an event.
type Pass uint8

const (
	// Whole goes to the client as it is.
	Whole Pass = iota
	// Changed has Stream.Changed go in its place.
	Changed
	// Nothing goes.
	Nothing
)

// Stream is the client's view of one stream of events, whoever sends them. One
// goroutine uses it.
type Stream struct {
	request *Request
	journal journal

	part0    part
	began    bool // an event with choices has gone to the client
	envelope []member
	done     bool // [DONE] has
	refused  bool // the engine said that the request is at fault: its own end is the end
	usage    bool // the client has had the usage
	mixed    bool // part of what was sent no repetition will give
	unknown  bool // an event has gone to the client of which we know nothing
	finish   []byte

	// Counted of what was sent: events with something new, and what the engine said last.
	pieces   int
	channels int // that were ever opened
	told     usage
	toldAt   int    // pieces that there were then
	base     usage  // of those before whom the rest was asked of
	strip    string // of every event, see Profile
	ids      ids
	replayed int // events held back, of all repetitions

	// Of the event at hand.
	doc      document
	path     []byte
	room     []byte
	data     []byte // of several lines
	out      []byte
	edited   bool
	fresh    bool // it says something that the client has not had
	progress bool // it holds something that an engine computed
	// The node of its only piece, and where that went; others: it holds more to be noted.
	one    int
	into   *channel
	others bool

	usual usual
}

// member of every event's outermost object, as the first one had it.
type member struct {
	key   string
	value []byte
}

// usage in tokens, as engines count.
type usage struct {
	prompt, completion int
	// final: they are of the whole answer.
	final bool
}

// same are the members that a client must see unchanged to take it for one stream.
var same = []string{"id", "object", "created", "model", "system_fingerprint"}

// NewStream is the stream of a request's answer. What it remembers is bounded by
// limit and budget, in bytes.
func NewStream(r *Request, p Profile, limit int64, budget *Budget) *Stream {
	r, strip, asked := r.asking(p, limit)
	return &Stream{request: r, strip: strip, ids: ids{asked: asked}, journal: journal{limit: limit, budget: budget}}
}

// First is the request as it is sent first, and each time that it is repeated.
func (s *Stream) First() []byte { return s.request.body }

// Asked says whether the engine is asked for more than its client wants to have.
func (s *Stream) Asked() bool { return s.strip != "" || s.ids.asked }

// Model is the request's word for it.
func (s *Stream) Model() string {
	var d document
	if !d.parse(s.request.body, 1) {
		return ""
	}
	return d.text(d.get(0, "model"))
}

// Close gives back what it held.
func (s *Stream) Close() { s.journal.release() }

// Take takes in an event that the present worker has sent, and says what the
// client gets of it. Raw is what Splitter found. An error ends the worker's part.
func (s *Stream) Take(raw []byte) (Pass, error) {
	if s.original() && s.readUsual(raw) {
		s.edited = false
		return Whole, nil
	}
	s.one, s.into, s.others, s.ids.taken = none, nil, false, false
	var e sse.Event
	e, s.data = sse.Parse(raw, s.data)
	s.progress, s.fresh, s.edited = false, false, false
	switch {
	case e.Error != nil && !e.HasData:
		return s.complaint(e.Error)
	case !e.HasData:
		return Whole, nil
	case string(bytes.TrimSpace(e.Data)) == "[DONE]":
		return s.end()
	}
	d := &s.doc
	if !d.parse(e.Data, maxDepth) || !d.is(0, object) {
		return s.strange()
	}
	if n := d.get(0, "error"); !d.is(n, null) {
		return s.complaint(d.value0(n))
	}
	if string(e.Type) == "error" || string(d.raw0(d.get(0, "object"))) == `"error"` {
		return s.complaint(e.Data)
	}
	pass, err := s.message()
	if s.original() && pass == Whole && err == nil {
		s.learnUsual(raw)
	}
	return pass, err
}

// end is [DONE].
func (s *Stream) end() (Pass, error) {
	switch {
	case s.refused, s.Foreign():
	case !s.journal.lost && !s.original() && s.journal.behind():
		return Nothing, errDiverged
	case !s.journal.finished(s.request.choices):
		return Nothing, ErrEnded
	}
	s.done = true
	return Whole, nil
}

// complaint is an error event. One that is about the request is the client's: no
// other worker would say anything else.
func (s *Stream) complaint(said []byte) (Pass, error) {
	var d document
	if d.parse(said, 1) && d.is(0, object) {
		code, _ := d.integer(d.get(0, "code"))
		kind := d.text(d.get(0, "type"))
		if code >= 400 && code < 500 || kind == "invalid_request_error" || kind == "BadRequestError" {
			s.refused = true
			return Whole, nil
		}
	}
	return Nothing, ErrEvent
}

// message is an event with choices, or with the usage.
func (s *Stream) message() (Pass, error) {
	d := &s.doc
	left, some := false, false
	if list := d.get(0, "choices"); d.is(list, array) {
		var err error
		if left, some, err = s.choicesOf(list); err != nil {
			return Nothing, err
		}
	}
	if s.fresh {
		s.pieces++
	}
	s.count()
	if !some {
		return s.extra()
	}
	stripped := s.take(d.get(0, s.strip))
	if s.original() {
		s.remember()
		if stripped || s.ids.taken {
			return s.rewritten()
		}
		return Whole, nil
	}
	if !left {
		s.replayed++
		return Nothing, nil
	}
	return s.rewritten()
}

// take takes off what the client has not asked for.
func (s *Stream) take(n int) bool {
	if s.strip == "" || n == none {
		return false
	}
	s.doc.nodes[n].gone = true
	return true
}

// extra is an event without choices: the usage, or something that we don't know.
func (s *Stream) extra() (Pass, error) {
	if s.doc.is(s.doc.get(0, "usage"), object) {
		if s.usage {
			return Nothing, nil
		}
		s.usage = true
	} else if pass, err := s.strange(); pass == Nothing {
		return pass, err
	}
	stripped := s.strip != "usage" && s.take(s.doc.get(0, s.strip))
	if s.original() && !stripped {
		return Whole, nil
	}
	return s.rewritten()
}

// strange is an event that is not in OpenAI's form, as gateways send them beside others.
func (s *Stream) strange() (Pass, error) {
	if !s.original() {
		return Nothing, nil
	}
	s.unknown = true
	return Whole, nil
}

// remember keeps of the first event what all others must have.
func (s *Stream) remember() {
	if s.began {
		return
	}
	s.began = true
	for _, key := range same {
		if n := s.doc.get(0, key); n != none {
			s.envelope = append(s.envelope, member{key, bytes.Clone(s.doc.value0(n))})
		}
	}
}

// rewritten is an event as if it came from who began the stream.
func (s *Stream) rewritten() (Pass, error) {
	s.remember() // where none came before
	s.correct()
	for _, m := range s.envelope {
		if n := s.doc.get(0, m.key); n != none {
			s.doc.nodes[n].edit = m.value
		}
	}
	s.out = append(s.out[:0], "data: "...)
	s.out = s.doc.append(s.out, 0)
	s.out = append(s.out, "\n\n"...)
	return Changed, nil
}

// count notes how many tokens there were, where the event says so: in the usage,
// or in llama-server's timings, which come with the end.
func (s *Stream) count() {
	d := &s.doc
	told, ok := d.counts(d.get(0, "usage"), "prompt_tokens", "completion_tokens")
	if !ok {
		timings := d.get(0, "timings")
		if told, ok = d.counts(timings, "prompt_n", "predicted_n"); ok {
			cached, _ := d.integer(d.get(timings, "cache_n"))
			told.prompt += cached
		}
	}
	if ok {
		s.others = true
		told = s.add(told)
		told.final = s.journal.finished(s.request.choices)
		s.told, s.toldAt = told, s.pieces
	}
}

func (d *document) counts(n int, prompt, completion string) (told usage, ok bool) {
	if !d.is(n, object) {
		return told, false
	}
	var ok2 bool
	told.prompt, ok = d.integer(d.get(n, prompt))
	told.completion, ok2 = d.integer(d.get(n, completion))
	return told, ok && ok2
}

// Changed is what goes in the place of an event, until the next Take.
func (s *Stream) Changed() []byte { return s.out }

// Progress says whether the last event held anything that an engine had computed.
func (s *Stream) Progress() bool { return s.progress }

// Caught says whether the client has had something new of the last event.
func (s *Stream) Caught() bool { return s.fresh }

// Whole says whether the client has had everything.
func (s *Stream) Whole() bool { return s.done || s.refused }

// Foreign says whether the client has had something, and nothing in OpenAI's
// form: it is another kind of stream, whose end we don't know, and that nobody can go on with.
func (s *Stream) Foreign() bool { return s.unknown && !s.began }

// Replayed is how many events were held back since the client had had them.
func (s *Stream) Replayed() int { return s.replayed }

// Repeat says that another worker begins with the same request.
func (s *Stream) Repeat() {
	s.part0 = repeating
	s.journal.rewind()
	s.forgetIDs()
}
