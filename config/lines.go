package config

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// lineIndex maps the path of every key and array element of a TOML file
// ("pools[0].health.path", "pools[0].command[2]") to its line. The TOML library
// knows positions only while it fails, and a contradiction between two keys is
// found long after both were read.
type lineIndex map[string]int

// line is where path is written, or else the nearest thing that contains it;
// 0 when nothing of it is in the file.
func (x lineIndex) line(path string) int {
	for path != "" {
		if n, ok := x[path]; ok {
			return n
		}
		path = parentPath(path)
	}
	return 0
}

// parentPath takes the last ".key" or "[index]" off; a quoted key is one step.
func parentPath(path string) string {
	quoted := false
	for i := len(path) - 1; i > 0; i-- {
		switch {
		case path[i] == '"' && !escapedAt(path, i):
			quoted = !quoted
		case !quoted && (path[i] == '.' || path[i] == '['):
			return path[:i]
		}
	}
	return ""
}

// escapedAt reports whether the byte at i stands behind an odd number of backslashes.
func escapedAt(s string, i int) bool {
	n := 0
	for i--; i >= 0 && s[i] == '\\'; i-- {
		n++
	}
	return n%2 == 1
}

// joinPath appends a key to a path, quoted unless it is bare.
func joinPath(path, key string) string {
	if !isBareKey(key) {
		key = quoteTOML(key)
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// maxPath bounds the paths that are indexed, in bytes. No key of ours comes near
// it, and without it half a megabyte of opening brackets would have as many
// paths, each as long as the way to it.
const maxPath = 4096

// indexPath appends an array index to a path.
func indexPath(path string, i int) string {
	return path + "[" + strconv.Itoa(i) + "]"
}

func isBareKey(key string) bool {
	return key != "" && strings.IndexFunc(key, func(r rune) bool { return !isBareRune(r) }) < 0
}

func isBareRune(r rune) bool {
	return r == '_' || r == '-' || (r >= 'a' && r <= 'z') || (r >= 'A' && r <= 'Z') || (r >= '0' && r <= '9')
}

// indexLines finds the lines of a file that the TOML library has accepted. On
// anything else the result is incomplete, never an endless loop.
func indexLines(data string) lineIndex {
	s := lineScanner{in: data, line: 1, lines: lineIndex{}, elements: map[string]int{}}
	s.accept("\xef\xbb\xbf")
	s.document()
	return s.lines
}

// lineScanner walks a file once, keeping no value but the keys.
type lineScanner struct {
	in    string
	pos   int
	line  int
	lines lineIndex
	// elements counts the [[tables]] seen per path; a later header or dotted
	// key that passes through such a path means its last element.
	elements map[string]int
}

func (s *lineScanner) document() {
	table := ""
	for s.skipBlank(); !s.end(); s.skipBlank() {
		before := s.pos
		switch {
		case s.accept("[["):
			table = s.header(true)
		case s.accept("["):
			table = s.header(false)
		default:
			s.keyValue(table)
		}
		if s.pos == before {
			return
		}
	}
}

// header reads [key] or [[key]] behind its opening brackets and returns the
// path of the table that it opens.
func (s *lineScanner) header(array bool) string {
	keys := s.keys()
	path := ""
	for _, key := range keys[:len(keys)-1] {
		path = s.descend(path, key)
	}
	last := within(joinPath(path, keys[len(keys)-1]), path)
	switch {
	case array:
		s.mark(last)
		s.elements[last]++
		last = indexPath(last, s.elements[last]-1)
		s.lines[last] = s.line
	default:
		// A header says more than the dotted mention that came before it.
		s.lines[last] = s.line
	}
	s.accept("]")
	s.accept("]")
	return last
}

// keyValue reads "a.b = value" inside table.
func (s *lineScanner) keyValue(table string) {
	keys := s.keys()
	path := table
	for _, key := range keys[:len(keys)-1] {
		path = s.descend(path, key)
	}
	path = within(joinPath(path, keys[len(keys)-1]), path)
	s.mark(path)
	s.skipSpace()
	s.accept("=")
	s.skipSpace()
	s.value(path)
}

// descend enters the table that key names inside path.
func (s *lineScanner) descend(path, key string) string {
	path = within(joinPath(path, key), path)
	s.mark(path)
	if n := s.elements[path]; n > 0 {
		return indexPath(path, n-1)
	}
	return path
}

// within is path, or what it would have extended when it is too long to index.
func within(path, parent string) string {
	if len(path) > maxPath {
		return parent
	}
	return path
}

// mark keeps the first line on which path is mentioned.
func (s *lineScanner) mark(path string) {
	if _, ok := s.lines[path]; !ok {
		s.lines[path] = s.line
	}
}

// keys reads a dotted key; there is always at least one part.
func (s *lineScanner) keys() []string {
	var keys []string
	for {
		s.skipSpace()
		keys = append(keys, s.key())
		s.skipSpace()
		if !s.accept(".") {
			return keys
		}
	}
}

func (s *lineScanner) key() string {
	switch {
	case s.accept(`"`):
		return unescapeTOML(s.until(`"`, true))
	case s.accept("'"):
		return s.until("'", false)
	}
	start := s.pos
	for !s.end() && isBareRune(rune(s.in[s.pos])) {
		s.pos++
	}
	return s.in[start:s.pos]
}

// value passes over one value and marks what is inside it.
func (s *lineScanner) value(path string) {
	switch {
	case s.accept(`"""`):
		s.until(`"""`, true)
		s.acceptQuotes('"')
	case s.accept("'''"):
		s.until("'''", false)
		s.acceptQuotes('\'')
	case s.accept(`"`):
		s.until(`"`, true)
	case s.accept("'"):
		s.until("'", false)
	case s.accept("["):
		s.array(path)
	case s.accept("{"):
		s.inlineTable(path)
	default:
		for !s.end() && !strings.ContainsRune(",]}#\r\n", rune(s.in[s.pos])) {
			s.pos++
		}
	}
}

func (s *lineScanner) array(path string) {
	for i := 0; ; i++ {
		s.skipBlank()
		if s.end() || s.accept("]") {
			return
		}
		before := s.pos
		element := within(indexPath(path, i), path)
		s.lines[element] = s.line
		s.value(element)
		s.skipBlank()
		s.accept(",")
		if s.pos == before {
			return
		}
	}
}

func (s *lineScanner) inlineTable(path string) {
	for {
		s.skipBlank()
		if s.end() || s.accept("}") {
			return
		}
		before := s.pos
		s.keyValue(path)
		s.skipBlank()
		s.accept(",")
		if s.pos == before {
			return
		}
	}
}

// until returns what precedes the closing quote and passes over both, counting
// lines. In an escaping string a backslash hides the byte behind it.
func (s *lineScanner) until(quote string, escapes bool) string {
	start := s.pos
	for !s.end() {
		if strings.HasPrefix(s.in[s.pos:], quote) {
			text := s.in[start:s.pos]
			s.pos += len(quote)
			return text
		}
		if escapes && s.in[s.pos] == '\\' {
			s.step()
		}
		s.step()
	}
	return s.in[start:]
}

// acceptQuotes passes over the one or two quotes that a multi-line string may
// have directly before its closing three: """a""""" ends in two of its own.
func (s *lineScanner) acceptQuotes(quote byte) {
	for range 2 {
		if !s.end() && s.in[s.pos] == quote {
			s.pos++
		}
	}
}

// step passes over one byte.
func (s *lineScanner) step() {
	if s.end() {
		return
	}
	if s.in[s.pos] == '\n' {
		s.line++
	}
	s.pos++
}

func (s *lineScanner) end() bool { return s.pos >= len(s.in) }

func (s *lineScanner) accept(prefix string) bool {
	if !strings.HasPrefix(s.in[s.pos:], prefix) {
		return false
	}
	s.pos += len(prefix)
	return true
}

func (s *lineScanner) skipSpace() {
	for !s.end() && (s.in[s.pos] == ' ' || s.in[s.pos] == '\t') {
		s.pos++
	}
}

// skipBlank passes over white space, line ends and comments.
func (s *lineScanner) skipBlank() {
	for !s.end() {
		switch s.in[s.pos] {
		case ' ', '\t', '\r', '\n':
			s.step()
		case '#':
			for !s.end() && s.in[s.pos] != '\n' {
				s.pos++
			}
		default:
			return
		}
	}
}

// unescapeTOML resolves the escapes of a basic string on one line.
func unescapeTOML(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	simple := map[byte]string{'b': "\b", 't': "\t", 'n': "\n", 'f': "\f", 'r': "\r", 'e': "\x1b", '"': `"`, '\\': `\`}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		n := digits[s[i]]
		if n == 0 || i+n >= len(s) {
			b.WriteString(simple[s[i]])
			continue
		}
		code, err := strconv.ParseUint(s[i+1:i+1+n], 16, 32)
		if err == nil && utf8.ValidRune(rune(code)) {
			b.WriteRune(rune(code))
		}
		i += n
	}
	return b.String()
}

// quoteTOML writes s as a TOML basic string.
func quoteTOML(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			b.WriteString(`\u00`)
			b.WriteByte("0123456789abcdef"[r>>4])
			b.WriteByte("0123456789abcdef"[r&15])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
