package quarantine

import (
	"bytes"
	"cmp"
	"slices"
	"strconv"
	"unicode/utf8"
)

// Bounds of what is read as JSON; what goes beyond is compared byte for byte.
const (
	// maxDepth is far more than requests have. Each level may copy what is in it.
	maxDepth = 64
	// maxMembers bounds the members of all objects.
	maxMembers = 1 << 17
)

// canon renders JSON in a form that only its meaning decides: members by name,
// the last of those with the same name, as most readers have it; no white
// space; strings with the fewest escapes; numbers as digits and an exponent.
// Everything it does is linear in the input, but for the sorting.
type canon struct {
	// fields says of a member on the way from the top whether it is a schema, and
	// whether to look into it.
	fields func(path []string) (schema, inside bool)
	// schema gets the schemas found: path and canonical value.
	schema map[string]string

	in      []byte
	at      int
	out     []byte
	path    []string
	members int
}

// member is one of an object, where it stands in out.
type member struct {
	name         string
	start, value int
	end          int
}

// render returns the canonical form; false: it is no JSON, or too wild to say.
func (c *canon) render(in []byte) ([]byte, bool) {
	c.in, c.out = in, make([]byte, 0, len(in))
	c.space()
	if c.at == len(in) || !c.value(0, true) {
		return nil, false
	}
	c.space()
	return c.out, c.at == len(c.in)
}

func (c *canon) space() {
	for c.at < len(c.in) {
		switch c.in[c.at] {
		case ' ', '\t', '\n', '\r':
			c.at++
		default:
			return
		}
	}
}

// value renders one value. look: it may hold schemas.
func (c *canon) value(depth int, look bool) bool {
	if c.at == len(c.in) || depth > maxDepth {
		return false
	}
	switch b := c.in[c.at]; {
	case b == '{':
		return c.object(depth, look)
	case b == '[':
		return c.array(depth)
	case b == '"':
		text, ok := c.text()
		c.out = appendText(c.out, text)
		return ok
	case b == '-' || b >= '0' && b <= '9':
		return c.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if bytes.HasPrefix(c.in[c.at:], []byte(word)) {
			c.at += len(word)
			c.out = append(c.out, word...)
			return true
		}
	}
	return false
}

// next steps over a comma; more: another element follows. ok: what stands there
// is a comma or the end.
func (c *canon) next(end byte) (more, ok bool) {
	c.space()
	if c.at == len(c.in) {
		return false, false
	}
	b := c.in[c.at]
	c.at++
	return b == ',', b == ',' || b == end
}

// empty steps over the end of what holds nothing.
func (c *canon) empty(end byte) bool {
	c.at++
	c.space()
	if c.at < len(c.in) && c.in[c.at] == end {
		c.at++
		return true
	}
	return false
}

func (c *canon) array(depth int) bool {
	c.out = append(c.out, '[')
	if !c.empty(']') {
		for more := true; more; {
			c.space()
			if !c.value(depth+1, false) {
				return false
			}
			c.out = append(c.out, ',')
			var ok bool
			if more, ok = c.next(']'); !ok {
				return false
			}
		}
	}
	c.out = append(c.out, ']')
	return true
}

func (c *canon) object(depth int, look bool) bool {
	c.out = append(c.out, '{')
	begin := len(c.out)
	var all []member
	if !c.empty('}') {
		for more := true; more; {
			m, ok := c.member(depth, look)
			if !ok {
				return false
			}
			all = append(all, m)
			if more, ok = c.next('}'); !ok {
				return false
			}
		}
	}
	c.sort(begin, all)
	c.out = append(c.out, '}')
	return true
}

// member renders one, behind those before it.
func (c *canon) member(depth int, look bool) (m member, ok bool) {
	c.members++
	c.space()
	if c.at == len(c.in) || c.in[c.at] != '"' || c.members > maxMembers {
		return m, false
	}
	name, ok := c.text()
	if !ok {
		return m, false
	}
	c.space()
	if c.at == len(c.in) || c.in[c.at] != ':' {
		return m, false
	}
	c.at++
	c.space()
	m = member{name: string(name), start: len(c.out)}
	c.out = append(appendText(c.out, name), ':')
	m.value = len(c.out)
	var schema, inside bool
	if look {
		c.path = append(c.path, m.name)
		defer func() { c.path = c.path[:len(c.path)-1] }()
		schema, inside = c.fields(c.path)
	}
	if !c.value(depth+1, inside) {
		return m, false
	}
	if value := c.out[m.value:]; schema && !saysNothing(value) {
		if c.schema == nil {
			c.schema = map[string]string{}
		}
		c.schema[joined(c.path)] = string(value)
	}
	m.end = len(c.out)
	return m, true
}

// joined is a path as one text. Names are few and have no NUL that matters:
// two that could be mistaken for each other are schemas both.
func joined(path []string) string {
	var text []byte
	for _, name := range path {
		text = append(append(text, name...), 0)
	}
	return string(text)
}

// sort puts the members that were rendered from begin on in order.
func (c *canon) sort(begin int, all []member) {
	sorted := slices.IsSortedFunc(all, func(a, b member) int {
		if a.name == b.name {
			return -1 // not as it shall be: one of them goes
		}
		return cmp.Compare(a.name, b.name)
	})
	if sorted {
		return
	}
	slices.SortStableFunc(all, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	rendered := slices.Clone(c.out[begin:])
	c.out = c.out[:begin]
	for i, m := range all {
		if i+1 < len(all) && all[i+1].name == m.name {
			continue
		}
		c.out = append(c.out, rendered[m.start-begin:m.end-begin]...)
	}
}

// appendText appends a string with the fewest escapes.
func appendText(dst, text []byte) []byte {
	dst = append(dst, '"')
	if bytes.IndexByte(text, '"') < 0 && bytes.IndexByte(text, '\\') < 0 {
		return append(append(dst, text...), '"')
	}
	for _, b := range text {
		if b == '"' || b == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, b)
	}
	return append(dst, '"')
}

// text reads a string. Bytes that are no UTF-8 stay as they are, as do halves
// of surrogate pairs, in three bytes each.
func (c *canon) text() ([]byte, bool) {
	c.at++
	rest := c.in[c.at:]
	if end := bytes.IndexByte(rest, '"'); end >= 0 && bytes.IndexByte(rest[:end], '\\') < 0 {
		c.at += end + 1
		return rest[:end], !hasControl(rest[:end])
	}
	var text []byte
	for c.at < len(c.in) {
		b := c.in[c.at]
		c.at++
		switch {
		case b == '"':
			return text, true
		case b == '\\':
			var ok bool
			if text, ok = c.escape(text); !ok {
				return nil, false
			}
		case b < ' ':
			return nil, false
		default:
			text = append(text, b)
		}
	}
	return nil, false
}

func hasControl(text []byte) bool {
	for _, b := range text {
		if b < ' ' {
			return true
		}
	}
	return false
}

// escaped are the characters after a backslash, and what they stand for.
var escaped = map[byte]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// escape reads what follows a backslash.
func (c *canon) escape(text []byte) ([]byte, bool) {
	if c.at == len(c.in) {
		return nil, false
	}
	b := c.in[c.at]
	c.at++
	if plain, ok := escaped[b]; ok {
		return append(text, plain), true
	}
	if b != 'u' {
		return nil, false
	}
	unit, ok := c.hex()
	if !ok {
		return nil, false
	}
	if unit >= 0xd800 && unit < 0xdc00 && bytes.HasPrefix(c.in[c.at:], []byte(`\u`)) {
		before := c.at
		c.at += 2
		if low, ok := c.hex(); ok && low >= 0xdc00 && low < 0xe000 {
			return utf8.AppendRune(text, 0x10000+(unit-0xd800)<<10+(low-0xdc00)), true
		}
		c.at = before
	}
	if unit >= 0xd800 && unit < 0xe000 {
		return append(text, 0xe0|byte(unit>>12), 0x80|byte(unit>>6)&0xbf, 0x80|byte(unit)&0xbf), true
	}
	return utf8.AppendRune(text, unit), true
}

func (c *canon) hex() (rune, bool) {
	if len(c.in)-c.at < 4 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(c.in[c.at:c.at+4]), 16, 16)
	c.at += 4
	return rune(n), err == nil
}

// number renders a number as its digits and an exponent: 1, 1.0, 10e-1 are the same.
func (c *canon) number() bool {
	negative := c.in[c.at] == '-'
	if negative {
		c.at++
	}
	whole := c.digits()
	if len(whole) == 0 || len(whole) > 1 && whole[0] == '0' {
		return false
	}
	var fraction []byte
	if c.at < len(c.in) && c.in[c.at] == '.' {
		c.at++
		if fraction = c.digits(); len(fraction) == 0 {
			return false
		}
	}
	exponent := 0
	if c.at < len(c.in) && c.in[c.at]|0x20 == 'e' {
		c.at++
		start := c.at
		if c.at < len(c.in) && (c.in[c.at] == '+' || c.in[c.at] == '-') {
			c.at++
		}
		if len(c.digits()) == 0 {
			return false
		}
		var err error
		if exponent, err = strconv.Atoi(string(c.in[start:c.at])); err != nil || exponent > 1<<40 || exponent < -1<<40 {
			return false
		}
	}
	digits := append(slices.Clone(whole), fraction...)
	exponent -= len(fraction)
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits = digits[:len(digits)-1]
		exponent++
	}
	digits = bytes.TrimLeft(digits, "0")
	if len(digits) == 0 {
		c.out = append(c.out, '0')
		return true
	}
	if negative {
		c.out = append(c.out, '-')
	}
	c.out = append(c.out, digits...)
	if exponent != 0 {
		c.out = strconv.AppendInt(append(c.out, 'e'), int64(exponent), 10)
	}
	return true
}

func (c *canon) digits() []byte {
	start := c.at
	for c.at < len(c.in) && c.in[c.at] >= '0' && c.in[c.at] <= '9' {
		c.at++
	}
	return c.in[start:c.at]
}
