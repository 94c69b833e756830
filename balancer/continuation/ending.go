package continuation

import (
	"bytes"

	"stoker/internal/jsonfield"
	"stoker/internal/sse"
)

// tailSize is how much of a stream's end is kept: room for the last event with
// a finish_reason, and for the usage behind it.
const tailSize = 1 << 10

// Ending says of a stream that nobody follows event by event whether its clean
// end is one: an engine that dies may well end its answer as if all were there,
// and clients take that for success. It keeps the last bytes, and looks at
// them once, at the end.
//
//	what was said last                                            it is
//	[DONE]                                                        whole
//	an error that clients see ("error" in an event)               whole
//	events, and none in OpenAI's form (with "choices")            whole: what its end is we don't know
//	an event that is not whole                                    broken
//	no event at all, comments apart                               broken
//	a finish_reason for each choice that was heard of last        whole: not every engine says [DONE]
//	the usage of the whole answer, which has no choices           whole
//	anything else                                                 broken
type Ending struct {
	form  dialect
	begin sse.Scanner // up to the first event
	seen  int64
	tail  [tailSize]byte // the last of what was seen, as a ring
}

// dialect is what the first event has told of the stream.
type dialect uint8

const (
	unheard dialect = iota // there was none
	foreign
	openAI
)

// Begin gets ready for a stream.
func (e *Ending) Begin() {
	e.form, e.seen = unheard, 0
	e.begin.Reset()
	e.begin.Limit = maxFirst
}

// maxFirst is the largest first event that is looked into.
const maxFirst = 64 << 10

// Write takes the next piece of it.
func (e *Ending) Write(p []byte) {
	if e.form == unheard {
		e.begin.Feed(p, func(event sse.Event) {
			if event.HasData && e.form == unheard {
				e.first(event.Data)
			}
		})
	}
	at := int(e.seen % tailSize)
	e.seen += int64(len(p))
	if len(p) > tailSize {
		at = int((e.seen - tailSize) % tailSize)
		p = p[len(p)-tailSize:]
	}
	if n := copy(e.tail[at:], p); n < len(p) {
		copy(e.tail[:], p[n:])
	}
}

// first is told of the first event that says something.
func (e *Ending) first(data []byte) {
	e.form = foreign
	if isDone(data) || isOpenAIs(data) {
		e.form = openAI
	}
}

// isOpenAIs says whether an event has choices, or an error. No document is made of it:
// that took so much of the stack that each stream's had to grow.
func isOpenAIs(data []byte) bool {
	choices, failed := false, false
	err := jsonfield.Walk(data, func(key jsonfield.Key, value []byte) {
		switch {
		case key.Is("choices"):
			choices = value[0] == '['
		case key.Is("error"):
			failed = string(value) != "null"
		}
	})
	return err == nil && (choices || failed)
}

func isDone(data []byte) bool { return string(bytes.TrimSpace(data)) == "[DONE]" }

// Whole says whether the stream has come to its end.
func (e *Ending) Whole() bool {
	if e.usual() {
		return true
	}
	end := e.last()
	var cut []byte // of an event whose beginning is not there any more
	var split sse.Splitter
	if e.seen <= tailSize {
		end = bytes.TrimPrefix(end, sse.BOM)
	} else if n := split.Next(end); n >= 0 {
		cut, end = end[:n], end[n:]
	} else {
		return e.form == foreign
	}
	var l lastWords
	for len(end) > 0 {
		n := split.Next(end)
		if n < 0 {
			break
		}
		l.event(end[:n])
		end = end[n:]
	}
	if event, _ := sse.Parse(end, nil); isDone(event.Data) { // without the empty line behind it
		return true
	}
	switch {
	case l.done, l.failed:
		return true
	case e.form == foreign && !l.heard():
		return true
	case len(bytes.TrimRight(end, "\r\n")) > 0 && end[0] != ':':
		return false
	case !l.heard():
		return finishes(cut)
	}
	return l.finished()
}

// usual sees at a glance how nearly all streams end.
func (e *Ending) usual() bool {
	const end = "\n\ndata: [DONE]\n\n"
	for i := range int64(len(end)) {
		if i >= e.seen || e.tail[(e.seen-1-i)%tailSize] != end[len(end)-1-int(i)] {
			return false
		}
	}
	return true
}

// last is what is kept, in order.
func (e *Ending) last() []byte {
	if e.seen <= tailSize {
		return e.tail[:e.seen]
	}
	at := int(e.seen % tailSize)
	return append(append(make([]byte, 0, tailSize), e.tail[at:]...), e.tail[:at]...)
}

// finishes says whether the end of an event has a finish_reason. Within a string
// its quotes would have backslashes.
func finishes(cut []byte) bool {
	for {
		_, value, found := bytes.Cut(cut, []byte(`"finish_reason":`))
		if !found {
			return false
		}
		if value = bytes.TrimLeft(value, " "); len(value) > 0 && value[0] == '"' {
			return true
		}
		cut = value
	}
}

// lastWords are what a stream's last events have said.
type lastWords struct {
	doc     document
	choices []lastChoice
	done    bool
	failed  bool
	counted bool // the usage of all came
}

type lastChoice struct {
	index    int
	finished bool
}

func (l *lastWords) event(raw []byte) {
	event, _ := sse.Parse(raw, nil)
	d := &l.doc
	switch {
	case !event.HasData:
		return
	case isDone(event.Data):
		l.done = true
		return
	case !d.parse(event.Data, maxDepth):
		return
	}
	if !d.is(d.get(0, "error"), null) {
		l.failed = true
		return
	}
	list := d.get(0, "choices")
	if !d.is(list, array) {
		return
	}
	if d.first(list) == none {
		l.counted = l.counted || d.is(d.get(0, "usage"), object)
		return
	}
	for n := d.first(list); n != none; n = d.next(n) {
		index, _ := d.integer(d.get(n, "index"))
		c := l.of(index)
		c.finished = c.finished || !d.is(d.get(n, "finish_reason"), null)
	}
}

func (l *lastWords) of(index int) *lastChoice {
	for i := range l.choices {
		if l.choices[i].index == index {
			return &l.choices[i]
		}
	}
	l.choices = append(l.choices, lastChoice{index: index})
	return &l.choices[len(l.choices)-1]
}

// heard says whether anything of an answer was among them.
func (l *lastWords) heard() bool { return l.counted || len(l.choices) > 0 }

func (l *lastWords) finished() bool {
	if l.counted {
		return true
	}
	for _, c := range l.choices {
		if !c.finished {
			return false
		}
	}
	return true
}
