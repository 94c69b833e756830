package recorder

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"stoker/exchange"
	"stoker/internal/http1"
)

// Redacted stands where a secret was.
const Redacted = "[redacted]"

// secretFields are fields that hold secrets, and whose names do not tell: see tellsOfSecret.
var secretFields = []string{"www-authenticate", "proxy-authenticate", "authentication-info", "cookie2", "set-cookie2"}

// secretWords are the names under which secrets stand in queries and JSON.
const secretWords = `(?:x[-_])?api[-_]?key|key|password|passwd|secret|client[-_]secret|auth|(?:access|auth|refresh|id|session|bearer)[-_]?token|token|sig|signature|credential` //nolint:gosec // their names only

// jsonWords are those of them that mean a secret wherever they stand: the
// answers of engines are full of "token" and "key".
const jsonWords = `(?:x[-_])?api[-_]?key|password|passwd|secret|client[-_]secret|(?:access|auth|refresh|session|bearer)[-_]?token|authorization`

// pattern finds secrets by how they look. Group 1, where there is one, is kept.
type pattern struct {
	*regexp.Regexp

	// One of needles is in all that matches, in lower case if folded; none: what
	// is not known of it. To look for them costs a hundredth of a match, and few
	// bodies have any.
	needles []string
	folded  bool
}

// possible says whether it may match b, whose lower case is given.
func (p *pattern) possible(b, lower []byte) bool {
	if p.folded {
		b = lower
	}
	for _, needle := range p.needles {
		if bytes.Contains(b, []byte(needle)) {
			return true
		}
	}
	return len(p.needles) == 0
}

// secretPatterns find the usual ones.
var secretPatterns = []pattern{
	{regexp.MustCompile(`(?i)\b(bearer\s+)[A-Za-z0-9._~+/=-]+`), []string{"bearer"}, true},
	{regexp.MustCompile(`(?i)\b(basic\s+)[A-Za-z0-9+/]{8,}={0,2}`), []string{"basic"}, true},
	{regexp.MustCompile(`\bsk-[A-Za-z0-9_-]{6,}|\bsk-[A-Za-z0-9_-]*\z`), []string{"sk-"}, false},
	{
		regexp.MustCompile(`\b(?:hf_|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abprs]-|nvapi-|gsk_|AIza)[A-Za-z0-9_-]{10,}`),
		[]string{"hf_", "ghp_", "gho_", "ghs_", "github_pat_", "glpat-", "xox", "nvapi-", "gsk_", "AIza"},
		false,
	},
	{regexp.MustCompile(`\b(?:AKIA|ASIA)[A-Z0-9]{16}\b`), []string{"AKIA", "ASIA"}, false},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?`), []string{"eyJ"}, false},
	{
		regexp.MustCompile(`(?i)("(?:` + jsonWords + `)"\s*:\s*")(?:[^"\\]|\\.)*`),
		[]string{`key"`, `password"`, `passwd"`, `secret"`, `token"`, `authorization"`},
		true,
	},
}

var secretQuery = regexp.MustCompile(`(?i)([?&;](?:` + secretWords + `)=)[^&;#\s]*`)

// Redactor says what is secret, and puts Redacted in its place.
type Redactor struct {
	fields   [][]string // by their length: a field's name is compared with few
	initials []initials // of those
	patterns []pattern
}

// NewRedactor knows the usual secrets, and those whose field names (of any
// case) or patterns are given.
func NewRedactor(fields, patterns []string) (*Redactor, error) {
	r := &Redactor{patterns: secretPatterns}
	for _, name := range slices.Concat(secretFields, fields) {
		for len(r.fields) <= len(name) {
			r.fields, r.initials = append(r.fields, nil), append(r.initials, 0)
		}
		r.fields[len(name)] = append(r.fields[len(name)], name)
		r.initials[len(name)].add(name)
	}
	r.patterns = slices.Clip(r.patterns)
	for _, text := range patterns {
		p, err := regexp.Compile(text)
		if err != nil {
			return nil, fmt.Errorf("redact pattern %q: %w", text, err)
		}
		r.patterns = append(r.patterns, pattern{Regexp: p})
	}
	return r, nil
}

// secretField says whether a field is secret by its name.
func (r *Redactor) secretField(name string) bool {
	if tellsOfSecret(name) {
		return true
	}
	return name != "" && len(name) < len(r.initials) && r.initials[len(name)].has(name) && isAmong(r.fields[len(name)], name)
}

// appendHead writes a request's head for keeping: a line for each of id, client,
// protocol, length, scheme, authority, method, target, then the fields. None of
// them can hold a line's end.
func (r *Redactor) appendHead(b []byte, x *exchange.Exchange) []byte {
	b = append(append(b, x.Record.ID...), '\n')
	b = append(append(b, x.Record.ClientIP...), '\n')
	b = append(strconv.AppendInt(b, int64(x.Request.Proto), 10), '\n')
	b = append(append(b, x.Request.Scheme...), '\n')
	b = append(append(b, x.Request.Authority...), '\n')
	b = append(append(b, x.Request.Method...), '\n')
	b = append(append(b, x.Request.Target...), '\n')
	return r.appendFields(b, x.Request.Fields)
}

// headLines is how many lines of a head come before its fields.
const headLines = 7

// appendFields writes fields, and not the secret ones' values.
func (r *Redactor) appendFields(b []byte, fields http1.Fields) []byte {
	for _, f := range fields {
		b = append(append(b, f.Name...), ':')
		if r.secretField(f.Name) {
			b = append(b, Redacted...)
		} else {
			b = append(b, f.Value...)
		}
		b = append(b, '\n')
	}
	return b
}

// Text replaces the secrets in b, which it may change, and says how many there were.
func (r *Redactor) Text(b []byte) ([]byte, int) {
	found := 0
	lower := lowered(b)
	for i := range r.patterns {
		if p := &r.patterns[i]; p.possible(b, lower) {
			b = replace(p.Regexp, b, &found)
		}
	}
	return b, found
}

// lowered is a copy in which ASCII letters are small.
func lowered(b []byte) []byte {
	lower := make([]byte, len(b))
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		lower[i] = c
	}
	return lower
}

// string is Text for text; it counts into found, where that is not nil.
func (r *Redactor) string(s string, found *int) string {
	b, n := r.Text([]byte(s))
	if found != nil {
		*found += n
	}
	return string(b)
}

// target replaces the secrets in a request's target.
func (r *Redactor) target(s string) string {
	found := 0
	b, _ := r.Text(replace(secretQuery, []byte(s), &found))
	return string(b)
}

// replace puts Redacted in the place of every match, behind its first group.
func replace(p *regexp.Regexp, b []byte, found *int) []byte {
	all := p.FindAllSubmatchIndex(b, -1)
	if len(all) == 0 {
		return b
	}
	out := make([]byte, 0, len(b))
	at := 0
	for _, m := range all {
		from := m[0]
		if len(m) > 3 && m[2] == m[0] {
			from = m[3] // what the group holds says what was there
		}
		if from == m[1] || string(b[from:m[1]]) == Redacted {
			continue
		}
		out = append(append(out, b[at:from]...), Redacted...)
		at = m[1]
		*found++
	}
	return append(out, b[at:]...)
}

// longestSecret is how much of a word is taken away beside a cut: half a
// secret has lost what it would be known by.
const longestSecret = 4 << 10

// trimCut takes the broken words, and broken characters, off both sides of a
// cut. What is longer than any secret is data, such as an image.
func trimCut(head, tail []byte) (trimmedHead, trimmedTail []byte) {
	n := len(head)
	for n > 0 && isWord(head[n-1]) {
		n--
	}
	if len(head)-n <= longestSecret {
		head = head[:n]
	}
	n = 0
	for n < len(tail) && isWord(tail[n]) {
		n++
	}
	if n <= longestSecret {
		tail = tail[n:]
	}
	return trimRune(head), bytes.TrimLeftFunc(tail, func(r rune) bool { return r == utf8.RuneError })
}

// trimRune takes a broken last character off.
func trimRune(b []byte) []byte {
	for i := len(b) - 1; i >= 0 && i >= len(b)-utf8.UTFMax; i-- {
		if utf8.RuneStart(b[i]) {
			if !utf8.FullRune(b[i:]) {
				return b[:i]
			}
			break
		}
	}
	return b
}

// isWord says whether a byte may be part of a key or token.
func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.IndexByte("-_.~+/=%\\", c) >= 0
}
