package tokens

import (
	"bytes"
	"time"

	"stoker/internal/jsonfield"
	"stoker/internal/sse"
)

const (
	// maxEvent is the largest event that is looked into.
	maxEvent = 64 << 10
	// maxKept is how much memory is kept for the next answer.
	maxKept = 8 << 10
	// tailSize is how much is kept of an answer's end, where usage stands.
	tailSize = 2 << 10
)

// Count is what was counted of one answer.
type Count struct {
	// Model that the answer names.
	Model string
	// Stream: its tokens came one by one.
	Stream bool
	// First is when the first of them came.
	First time.Time
	// Gaps are the times between them.
	Gaps Gaps
	// Prompt and Completion are how many tokens there were. Told: the engine said
	// so; else Completion are events, and Prompt is 0.
	Prompt, Completion int
	Told               bool
	// Cached is how many of Prompt the engine had already, -1 if it does not say.
	Cached int
}

// Meter counts one answer at a time. The zero value is ready for Begin; its
// memory is kept for the next.
type Meter struct {
	count  Count
	on     bool
	last   time.Time // when the last token came
	now    time.Time // of the present piece
	scan   sse.Scanner
	each   func(sse.Event) // made once: a closure each time would be garbage
	tail   []byte
	usage  []byte // the last event that has one
	events int
	named  string // the model of the last document, which is most often the next one's
}

// Begin gets ready for an answer: a stream of events, or a document.
func (m *Meter) Begin(stream bool) {
	m.count = Count{}
	m.count.Stream, m.count.Cached = stream, -1
	m.on, m.events, m.last, m.now = true, 0, time.Time{}, time.Time{}
	m.scan.Reset()
	m.scan.Limit = maxEvent
	m.tail, m.usage = m.tail[:0], m.usage[:0]
	if m.each == nil {
		m.each = func(e sse.Event) {
			if e.HasData {
				m.event(e.Data)
			}
		}
	}
}

// Write takes a piece of the answer, which has just come.
func (m *Meter) Write(p []byte) {
	switch {
	case !m.on:
	case m.count.Stream:
		m.now = time.Time{}
		m.scan.Feed(p, m.each)
	default:
		m.keep(p)
	}
}

// Skip says that bytes of the answer have passed unseen: most of a large document.
func (m *Meter) Skip() { m.tail = m.tail[:0] }

var (
	doneData   = []byte("[DONE]")
	usageKey   = []byte(`"usage":`)
	timingsKey = []byte(`"timings":`)
	modelKey   = []byte(`"model":`)
)

// event counts one, by its data.
func (m *Meter) event(data []byte) {
	if bytes.Equal(data, doneData) {
		return
	}
	if m.now.IsZero() {
		m.now = time.Now()
	}
	if tells(data) {
		m.usage = append(m.usage[:0], data...)
		if bytes.Contains(data, noChoices) {
			return // it is no token's
		}
	}
	if m.events == 0 && isPreamble(data) {
		return
	}
	m.events++
	if m.events == 1 {
		m.count.First = m.now
		if model, err := jsonfield.Find(data, "model"); err == nil {
			m.count.Model = model.Text
		}
	} else {
		m.count.Gaps.add(m.now.Sub(m.last))
	}
	m.last = m.now
}

// isPreamble says whether a stream's first event only says who speaks, as all
// chats begin; some engines send it before they have read the prompt.
func isPreamble(data []byte) bool {
	if !bytes.Contains(data, []byte(`"role":"assistant"`)) || bytes.Contains(data, []byte(`"tool_calls":[{`)) || bytes.Contains(data, []byte(`"reasoning`)) {
		return false
	}
	return bytes.Contains(data, []byte(`"content":""`)) || bytes.Contains(data, []byte(`"content":null`))
}

var noChoices = []byte(`"choices":[]`)

// tells says whether a document has what engines tell of their tokens. Most
// events of a stream have "usage":null, if anything. Within a string the quotes
// would have backslashes. Index is many times as fast here as LastIndex.
func tells(data []byte) bool { return hasObject(data, usageKey) || hasObject(data, timingsKey) }

// hasObject says whether a key of data has an object. The key is looked for without
// its first quote: Index stops at each byte that is like the first, and those are all
// over JSON.
func hasObject(data, key []byte) bool {
	for from := 1; from < len(data); {
		at := bytes.Index(data[from:], key[1:])
		if at < 0 {
			return false
		}
		at += from
		from = at + len(key) - 1
		if data[at-1] != '"' {
			continue
		}
		if value := bytes.TrimLeft(data[from:], " "); len(value) > 0 && value[0] == '{' {
			return true
		}
	}
	return false
}

// keep holds the last bytes of a document.
func (m *Meter) keep(p []byte) {
	if len(m.tail) == 0 && m.count.Model == "" {
		m.count.Model = m.modelIn(p)
	}
	if len(p) >= tailSize {
		m.tail = append(m.tail[:0], p[len(p)-tailSize:]...)
		return
	}
	if over := len(m.tail) + len(p) - tailSize; over > 0 {
		m.tail = append(m.tail[:0], m.tail[over:]...)
	}
	m.tail = append(m.tail, p...)
}

// modelIn finds the name in the beginning of a document, where engines write it.
func (m *Meter) modelIn(p []byte) string {
	at := find(p, modelKey, 'm')
	if at < 0 {
		return ""
	}
	rest := bytes.TrimLeft(p[at+len(modelKey):], " ")
	if len(rest) == 0 || rest[0] != '"' {
		return ""
	}
	end := bytes.IndexByte(rest[1:], '"')
	if end < 0 || bytes.IndexByte(rest[1:end+1], '\\') >= 0 {
		return ""
	}
	if string(rest[1:end+1]) != m.named {
		m.named = string(rest[1 : end+1])
	}
	return m.named
}

// find is bytes.Index of a key that has a rare byte in it, once: that one is looked
// for. Index goes by the first, and a quote is in every tenth place of JSON.
func find(p, key []byte, rare byte) int {
	before := bytes.IndexByte(key, rare)
	for from := before; from < len(p); {
		hit := bytes.IndexByte(p[from:], rare)
		if hit < 0 {
			return -1
		}
		from += hit + 1
		if at := from - 1 - before; bytes.HasPrefix(p[at:], key) {
			return at
		}
	}
	return -1
}

// End returns what was counted, and false where there is nothing to count: the
// answer has no tokens.
func (m *Meter) End() (Count, bool) {
	if !m.on {
		return Count{}, false
	}
	m.on = false
	if cap(m.usage) > maxKept {
		defer func() { m.usage = nil }()
	}
	c := m.count
	c.Completion = m.events
	if c.Stream {
		c.told(m.usage)
		return c, m.events > 0
	}
	c.told(fromLast(m.tail))
	return c, c.Told
}

// fromLast is what stands in a document's end from where usage, or timings, begin:
// an object of its own, made in place.
func fromLast(tail []byte) []byte {
	at, timings := lastOf(tail)
	if at < 0 || timings >= 0 && timings < at {
		at = timings
	}
	switch {
	case at < 0:
		return nil
	case at == 0:
		return append([]byte("{"), tail...)
	}
	tail[at-1] = '{'
	return tail[at-1:]
}

// lastOf is where usageKey and timingsKey stand last. Both have one g, which is rare:
// to look at every quote, or at each byte, took a tenth of all that a small answer cost.
func lastOf(p []byte) (usage, timings int) {
	const inUsage, inTimings = len(`"usa`), len(`"timin`)
	usage, timings = -1, -1
	for from := 0; ; {
		hit := bytes.IndexByte(p[from:], 'g')
		if hit < 0 {
			return usage, timings
		}
		from += hit
		switch {
		case from >= inUsage && bytes.HasPrefix(p[from-inUsage:], usageKey):
			usage = from - inUsage
		case from >= inTimings && bytes.HasPrefix(p[from-inTimings:], timingsKey):
			timings = from - inTimings
		}
		from++
	}
}
