package continuation

import (
	"bytes"
	"math"
)

// kind of a JSON value.
type kind uint8

const (
	null kind = iota
	boolean
	number
	text
	array
	object
)

// none is no node.
const none = -1

// node is a value in a document.
type node struct {
	kind kind
	// Where it lies, quotes included; for a member of an object its key, too.
	start, end       int32
	keyStart, keyEnd int32
	first, next      int32 // child, sibling
	// gone: it is left out when the document is written again; edit, where not
	// nil, is written in its place.
	gone bool
	edit []byte
}

// document is a JSON document as a tree over its bytes. Its room is used again
// for the next: an event costs no allocation.
type document struct {
	raw   []byte
	nodes []node
	at    int
	depth int // containers below that have no nodes for what they hold
}

// maxDepth bounds how deep values may lie.
const maxDepth = 64

// parse reads raw and says whether it is JSON, of less than 2 GiB. Down to depth containers have
// nodes for what they hold, and beyond are leaves. The root is node 0.
func (d *document) parse(raw []byte, depth int) bool {
	d.raw, d.nodes, d.at, d.depth = raw, d.nodes[:0], 0, depth
	if len(raw) > math.MaxInt32 || d.value(0) == none {
		return false
	}
	d.space()
	return d.at == len(raw)
}

func (d *document) space() {
	for d.at < len(d.raw) {
		switch d.raw[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

func (d *document) accept(c byte) bool {
	d.space()
	if d.at < len(d.raw) && d.raw[d.at] == c {
		d.at++
		return true
	}
	return false
}

// value reads one and returns its node.
func (d *document) value(level int) int {
	d.space()
	if d.at == len(d.raw) || level > maxDepth {
		return none
	}
	n := len(d.nodes)
	d.nodes = append(d.nodes, node{start: int32(d.at), first: none, next: none})
	k := null
	var ok bool
	switch c := d.raw[d.at]; c {
	case '{', '[':
		k = array
		if c == '{' {
			k = object
		}
		ok = d.container(n, k, level)
	case '"':
		k, ok = text, d.skipString()
	case 't':
		k, ok = boolean, d.word("true")
	case 'f':
		k, ok = boolean, d.word("false")
	case 'n':
		ok = d.word("null")
	default:
		k, ok = number, d.number()
	}
	if !ok {
		return none
	}
	d.nodes[n].kind, d.nodes[n].end = k, int32(d.at)
	return n
}

// container reads the members of an object or the elements of an array.
func (d *document) container(parent int, k kind, level int) bool {
	d.at++
	closing := byte(']')
	if k == object {
		closing = '}'
	}
	if d.accept(closing) {
		return true
	}
	last := none
	for {
		keyStart, keyEnd := 0, 0
		if k == object {
			d.space()
			keyStart = d.at
			if !d.skipString() {
				return false
			}
			keyEnd = d.at
			if !d.accept(':') {
				return false
			}
		}
		n := d.value(level + 1)
		if n == none {
			return false
		}
		if level >= d.depth {
			d.nodes = d.nodes[:n]
		} else {
			d.nodes[n].keyStart, d.nodes[n].keyEnd = int32(keyStart), int32(keyEnd)
			if last == none {
				d.nodes[parent].first = int32(n)
			} else {
				d.nodes[last].next = int32(n)
			}
			last = n
		}
		if d.accept(closing) {
			return true
		}
		if !d.accept(',') {
			return false
		}
	}
}

func (d *document) skipString() bool {
	if d.at == len(d.raw) || d.raw[d.at] != '"' {
		return false
	}
	i := d.at + 1
	quote := i - 1
	for {
		if quote < i { // the one found before was escaped
			n := bytes.IndexByte(d.raw[min(i, len(d.raw)):], '"')
			if n < 0 {
				return false
			}
			quote = i + n
		}
		escape := bytes.IndexByte(d.raw[i:quote], '\\')
		if escape < 0 {
			d.at = quote + 1
			return true
		}
		i += escape + 2
	}
}

func (d *document) word(w string) bool {
	if !bytes.HasPrefix(d.raw[d.at:], []byte(w)) {
		return false
	}
	d.at += len(w)
	return true
}

// number takes whatever looks like one, NaN and Infinity included, which some
// engines write.
func (d *document) number() bool {
	begin := d.at
	for d.at < len(d.raw) {
		switch c := d.raw[d.at]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			d.at++
		default:
			return d.at > begin
		}
	}
	return d.at > begin
}

// get is the member of an object that has that key, none where there is none.
// Of several it is the last, as for most readers.
func (d *document) get(parent int, key string) int {
	if parent == none || d.nodes[parent].kind != object {
		return none
	}
	found := none
	for n := d.first(parent); n != none; n = d.next(n) {
		if string(d.key(n)) == key {
			found = n
		}
	}
	return found
}

// key of a member, its escapes resolved.
func (d *document) key(n int) []byte {
	k := d.raw[d.nodes[n].keyStart+1 : d.nodes[n].keyEnd-1]
	if bytes.IndexByte(k, '\\') < 0 {
		return k
	}
	return appendUnquoted(nil, k)
}

func (d *document) first(n int) int { return int(d.nodes[n].first) }

func (d *document) next(n int) int { return int(d.nodes[n].next) }

// raw0 is a node as it is written; none has nothing.
func (d *document) raw0(n int) []byte {
	if n == none {
		return nil
	}
	return d.value0(n)
}

func (d *document) value0(n int) []byte { return d.raw[d.nodes[n].start:d.nodes[n].end] }

// is says what kind of value a node is; none is null.
func (d *document) is(n int, k kind) bool {
	if n == none {
		return k == null
	}
	return d.nodes[n].kind == k
}

// appendText appends the string that a node is, its escapes resolved.
func (d *document) appendText(dst []byte, n int) []byte {
	return appendUnquoted(dst, d.raw[d.nodes[n].start+1:d.nodes[n].end-1])
}

// text is a copy of it.
func (d *document) text(n int) string {
	if !d.is(n, text) {
		return ""
	}
	return string(d.appendText(nil, n))
}

// integer is the whole number that a node is.
func (d *document) integer(n int) (int, bool) {
	if n == none || !d.is(n, number) {
		return 0, false
	}
	value, digits, negative := 0, 0, false
	for i, c := range d.value0(n) {
		switch {
		case c == '-' && i == 0:
			negative = true
		case c < '0' || c > '9' || digits > 17:
			return 0, false
		default:
			value = value*10 + int(c-'0')
			digits++
		}
	}
	if negative {
		value = -value
	}
	return value, digits > 0
}

// append writes a node again, without what is gone and with what was edited.
func (d *document) append(dst []byte, n int) []byte {
	v := &d.nodes[n]
	switch {
	case v.edit != nil:
		return append(dst, v.edit...)
	case v.first == none:
		return append(dst, d.value0(n)...)
	}
	opening, closing := byte('['), byte(']')
	if v.kind == object {
		opening, closing = '{', '}'
	}
	dst = append(dst, opening)
	empty := true
	for c := int(v.first); c != none; c = d.next(c) {
		if d.nodes[c].gone {
			continue
		}
		if !empty {
			dst = append(dst, ',')
		}
		empty = false
		if v.kind == object {
			dst = append(append(dst, d.raw[d.nodes[c].keyStart:d.nodes[c].keyEnd]...), ':')
		}
		dst = d.append(dst, c)
	}
	return append(dst, closing)
}
