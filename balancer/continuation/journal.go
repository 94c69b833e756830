package continuation

import (
	"bytes"
	"slices"
	"sync/atomic"
)

// journal is what a client has been sent, by choice and by channel: a channel is
// a string that comes in pieces (content, reasoning, a tool's arguments), or a list
// that grows (log probabilities, token ids). Pieces differ from worker to worker,
// what they make together does not.
type journal struct {
	choices []choice
	budget  *Budget
	held    int64 // of budget
	limit   int64
	lost    bool // too much to be remembered: nobody can take over
}

// choice is one of the answers that were asked for.
type choice struct {
	index    int
	channels []channel
	finished bool
}

// channel is one part of a choice.
type channel struct {
	path string
	data []byte
	// pos is how much of data the present worker has said again.
	pos int
	// constant: said once, whatever who comes next calls it (ids of tool calls are random).
	constant bool
}

// Budget bounds what all journals hold together, in bytes.
type Budget struct{ left atomic.Int64 }

// NewBudget is one of so many bytes.
func NewBudget(bytes int64) *Budget {
	b := new(Budget)
	b.left.Store(bytes)
	return b
}

// Take claims n bytes and says whether there were as many. A nil budget has any amount.
func (b *Budget) Take(n int64) bool {
	if b == nil {
		return true
	}
	if b.left.Add(-n) < 0 {
		b.left.Add(n)
		return false
	}
	return true
}

// Give returns them.
func (b *Budget) Give(n int64) {
	if b != nil {
		b.left.Add(n)
	}
}

// Left is how many there are.
func (b *Budget) Left() int64 { return b.left.Load() }

// at is the choice of that index, made at the first time.
func (j *journal) at(index int) *choice {
	for i := range j.choices {
		if j.choices[i].index == index {
			return &j.choices[i]
		}
	}
	j.choices = append(j.choices, choice{index: index})
	return &j.choices[len(j.choices)-1]
}

// at is the channel of that path, nil where nothing has come through it.
func (c *choice) at(path []byte) *channel {
	for i := range c.channels {
		if c.channels[i].path == string(path) {
			return &c.channels[i]
		}
	}
	return nil
}

// open is the channel of that path, made at the first time.
func (c *choice) open(path []byte) *channel {
	if ch := c.at(path); ch != nil {
		return ch
	}
	c.channels = append(c.channels, channel{path: string(path)})
	return &c.channels[len(c.channels)-1]
}

// behind says whether the present worker has not yet said all that was sent.
func (c *choice) behind() bool {
	for i := range c.channels {
		if c.channels[i].pos < len(c.channels[i].data) {
			return true
		}
	}
	return false
}

// rewind begins anew, with another worker.
func (j *journal) rewind() {
	for i := range j.choices {
		for k := range j.choices[i].channels {
			if !j.choices[i].channels[k].constant {
				j.choices[i].channels[k].pos = 0
			}
		}
	}
}

// finished says whether all choices have their end.
func (j *journal) finished(want int) bool {
	if len(j.choices) < want {
		return false
	}
	for i := range j.choices {
		if !j.choices[i].finished {
			return false
		}
	}
	return true
}

// behind says whether any choice is.
func (j *journal) behind() bool {
	for i := range j.choices {
		if j.choices[i].behind() {
			return true
		}
	}
	return false
}

// hear takes a piece that the present worker says in a channel, and returns
// what of it is new. ok is false when it is not what was sent.
func (j *journal) hear(ch *channel, piece []byte) (fresh []byte, ok bool) {
	known := min(len(piece), len(ch.data)-ch.pos)
	if known > 0 {
		if !bytes.Equal(ch.data[ch.pos:ch.pos+known], piece[:known]) {
			return nil, false
		}
		ch.pos += known
	}
	fresh = piece[known:]
	j.add(ch, fresh)
	return fresh, true
}

// add remembers what is sent now.
func (j *journal) add(ch *channel, piece []byte) {
	if j.lost || len(piece) == 0 {
		return
	}
	if need := len(ch.data) + len(piece); need > cap(ch.data) {
		grown := int64(max(need, 2*cap(ch.data), 64))
		extra := grown - int64(cap(ch.data))
		if j.held+extra > j.limit || !j.budget.Take(extra) {
			j.lose()
			return
		}
		j.held += extra
		ch.data = append(make([]byte, 0, grown), ch.data...)
	}
	ch.data = append(ch.data, piece...)
	ch.pos = len(ch.data)
}

// lose forgets everything: it has become too much.
func (j *journal) lose() {
	j.lost = true
	for i := range j.choices {
		for k := range j.choices[i].channels {
			ch := &j.choices[i].channels[k]
			ch.data, ch.pos = nil, 0
		}
	}
	j.release()
}

func (j *journal) release() {
	j.budget.Give(j.held)
	j.held = 0
}

// only says whether nothing but these channels has been used, constants apart.
func (j *journal) only(paths ...string) bool {
	for i := range j.choices {
		for k := range j.choices[i].channels {
			ch := &j.choices[i].channels[k]
			if !ch.constant && len(ch.data) > 0 && !slices.Contains(paths, ch.path) {
				return false
			}
		}
	}
	return true
}

// skip takes all that was sent as said: who comes goes on from there.
func (j *journal) skip() {
	for i := range j.choices {
		for k := range j.choices[i].channels {
			j.choices[i].channels[k].pos = len(j.choices[i].channels[k].data)
		}
	}
}

// said is what went through the first of these channels that was used.
func (j *journal) said(paths ...string) []byte {
	for i := range j.choices {
		for _, path := range paths {
			if ch := j.choices[i].at([]byte(path)); ch != nil && len(ch.data) > 0 {
				return ch.data
			}
		}
	}
	return nil
}
