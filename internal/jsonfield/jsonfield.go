// Package jsonfield finds one string in the outermost object of a JSON
// document, and where it lies, or all that is in that object, without building the document: a prompt of a
// megabyte is passed over at the speed of memory. It knows nothing of what the
// document means.
//
// Of a document that is JSON (RFC 8259) it says what encoding/json would. Of
// others it may say anything but a wrong place: only the structure is looked at
// (quotes, braces, brackets, commas), since some engines read a little more than
// JSON (NaN), and what an engine does not read it refuses by itself.
package jsonfield

import (
	"bytes"
	"encoding/json"
	"errors"
)

// What is wrong with a document.
var (
	// ErrSyntax: it is no JSON object, or breaks off.
	ErrSyntax = errors.New("no JSON object")
	// ErrMissing: the object has no such key.
	ErrMissing = errors.New("key not found")
	// ErrNotString: the key's value is something else.
	ErrNotString = errors.New("value is no string")
	// ErrTwice: the key is there more than once. Most readers take the last, some
	// the first, some none: what is decided by one must not be done by another.
	ErrTwice = errors.New("key found twice")
)

// Value is a string in a document.
type Value struct {
	// Text is the string, its escapes resolved.
	Text string
	// Start and End are where it lies in the document, quotes included.
	Start, End int
}

// Key is a key as it is written, quotes included.
type Key []byte

// Is says whether k is name.
func (k Key) Is(name string) bool { return is(k, name) }

// Among returns which of names k is, -1 if it is none.
func (k Key) Among(names []string) int {
	for i, name := range names {
		if is(k, name) {
			return i
		}
	}
	return -1
}

// Walk calls visit for each member of the outermost object, with its value as it
// is written, and says whether doc has the structure of an object. Visit may have
// been called for some when it has not.
func Walk(doc []byte, visit func(key Key, value []byte)) error {
	s, ok := begin(doc)
	if !ok {
		return ErrSyntax
	}
	if !s.accept('}') {
		for more := true; more; more = s.accept(',') {
			name, start, end, ok := s.member()
			if !ok {
				return ErrSyntax
			}
			visit(name, doc[start:end])
		}
		if !s.accept('}') {
			return ErrSyntax
		}
	}
	if s.space(); s.at != len(doc) {
		return ErrSyntax
	}
	return nil
}

// Find returns the string that key has in the outermost object of doc. The
// whole document is looked at: the key may be there again at its end.
func Find(doc []byte, key string) (Value, error) {
	s, ok := begin(doc)
	if !ok {
		return Value{}, ErrSyntax
	}
	var found Value
	count := 0
	if !s.accept('}') {
		for {
			name, start, end, ok := s.member()
			if !ok {
				return Value{}, ErrSyntax
			}
			if is(name, key) {
				found = Value{Start: start, End: end}
				count++
			}
			if s.accept(',') {
				continue
			}
			if s.accept('}') {
				break
			}
			return Value{}, ErrSyntax
		}
	}
	if s.space(); s.at != len(doc) {
		return Value{}, ErrSyntax
	}
	switch {
	case count == 0:
		return Value{}, ErrMissing
	case count > 1:
		return Value{}, ErrTwice
	case doc[found.Start] != '"':
		return Value{}, ErrNotString
	}
	if found.Text, ok = resolve(doc[found.Start:found.End]); !ok {
		return Value{}, ErrSyntax // a bad escape
	}
	return found, nil
}

// resolve makes a string of one as it is written. Nearly all names are plain, and
// need no decoder, nor the stack that one takes.
func resolve(written []byte) (string, bool) {
	inner := written[1 : len(written)-1]
	for _, c := range inner {
		if c < ' ' || c > '~' || c == '\\' {
			return decode(written)
		}
	}
	return string(inner), true
}

func decode(written []byte) (text string, ok bool) {
	err := json.Unmarshal(written, &text)
	return text, err == nil
}

// is compares a key as it is written, quotes included.
func is(written []byte, key string) bool {
	inner := written[1 : len(written)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner) == key
	}
	text, ok := decode(written)
	return ok && text == key
}

// scanner walks a document once.
type scanner struct {
	doc []byte
	at  int
}

// begin enters the outermost object.
func begin(doc []byte) (s scanner, ok bool) {
	s.doc = doc
	if bytes.HasPrefix(doc, []byte("\xef\xbb\xbf")) { // as some editors begin
		s.at = 3
	}
	return s, s.accept('{')
}

// member reads "key": value, and returns the key as it is written and where
// the value lies.
func (s *scanner) member() (name []byte, start, end int, ok bool) {
	if s.space(); s.at == len(s.doc) || s.doc[s.at] != '"' {
		return nil, 0, 0, false
	}
	start = s.at
	if !s.text() {
		return nil, 0, 0, false
	}
	name = s.doc[start:s.at]
	if !s.accept(':') {
		return nil, 0, 0, false
	}
	s.space()
	start = s.at
	if !s.value() {
		return nil, 0, 0, false
	}
	return name, start, s.at, true
}

// space passes over white space.
func (s *scanner) space() {
	for s.at < len(s.doc) {
		switch s.doc[s.at] {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return
		}
	}
}

// accept passes over white space and c, if that follows.
func (s *scanner) accept(c byte) bool {
	if s.space(); s.at == len(s.doc) || s.doc[s.at] != c {
		return false
	}
	s.at++
	return true
}

// value passes over one value.
func (s *scanner) value() bool {
	if s.at == len(s.doc) {
		return false
	}
	switch s.doc[s.at] {
	case '"':
		return s.text()
	case '{', '[':
		return s.nested()
	}
	start := s.at
	for s.at < len(s.doc) && !delimits[s.doc[s.at]] {
		s.at++
	}
	return s.at > start
}

// delimits are the bytes that end a number or a word.
var delimits = func() (t [256]bool) {
	for _, c := range " \t\r\n,:\"{}[]" {
		t[c] = true
	}
	return t
}()

// nested passes over an object or array and all that is in it.
func (s *scanner) nested() bool {
	depth := 0
	for s.at < len(s.doc) {
		switch s.doc[s.at] {
		case '"':
			if !s.text() {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.at++
		if depth == 0 {
			return true
		}
	}
	return false
}

// text passes over a string. A quote ends it unless an odd number of
// backslashes stands before it.
func (s *scanner) text() bool {
	begin := s.at + 1
	for from := begin; ; {
		quote := bytes.IndexByte(s.doc[from:], '"')
		if quote < 0 {
			return false
		}
		from += quote + 1
		backslashes := 0
		for i := from - 2; i >= begin && s.doc[i] == '\\'; i-- {
			backslashes++
		}
		if backslashes%2 == 0 {
			s.at = from
			return true
		}
	}
}
