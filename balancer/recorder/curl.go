package recorder

import (
	"bytes"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"
)

// ours are fields that stoker adds, or that whoever sends anew makes itself.
var ours = map[string]bool{
	"x-request-id": true, "x-forwarded-for": true, "x-forwarded-proto": true, "x-forwarded-host": true,
	"accept-encoding": true, "connection": true, "content-length": true, "host": true,
}

// Resendable are the fields that belong to the request itself. Those that were
// redacted are left out, since a placeholder proves nothing to anybody.
func (q *Request) Resendable() (fields []Field, redacted []string) {
	for _, f := range q.Fields {
		switch {
		case ours[strings.ToLower(f.Name)]:
		case strings.Contains(f.Value, Redacted):
			redacted = append(redacted, f.Name)
		default:
			fields = append(fields, f)
		}
	}
	return fields, redacted
}

// Lacks says what of the request was not kept, so that it cannot be sent again
// as it was; empty when all is there.
func (q *Request) Lacks() string {
	switch {
	case q.Body.Omitted > 0:
		return fmt.Sprintf("%d of its body's %d bytes were not kept; raise recorder.body_kib", q.Body.Omitted, q.Body.Size)
	case q.Unfinished:
		return "its client had not sent all of its body"
	case strings.Contains(q.Target, Redacted):
		return "its target held a secret, which was not kept"
	}
	return ""
}

// Curl is a command for a POSIX shell that sends the request to base (such as
// "http://127.0.0.1:8000"), with comments about what it lacks.
func (q *Request) Curl(base string) string {
	var b strings.Builder
	if lacks := q.Lacks(); lacks != "" {
		fmt.Fprintf(&b, "# not the whole request: %s\n", lacks)
	}
	if q.Body.Redacted > 0 {
		fmt.Fprintf(&b, "# secrets in the body were replaced by %s\n", Redacted)
	}
	fields, redacted := q.Resendable()
	if len(redacted) > 0 {
		fmt.Fprintf(&b, "# secret fields, to be added by hand: %s\n", strings.Join(redacted, ", "))
	}
	body, _ := q.Body.Bytes()
	piped := true
	switch {
	case q.Body.Base64 || bytes.ContainsFunc(body, unprintable):
		fmt.Fprintf(&b, "printf %%s %s | base64 -d | ", quote(encode(body)))
	case len(body) > longestWord:
		fmt.Fprintf(&b, "printf %%s %s | ", quote(string(body))) // a shell's own, which is given no words
	default:
		piped = false
	}
	b.WriteString("curl -sS -N")
	if strings.ContainsAny(q.Target, "[]{}") {
		b.WriteString(" -g") // or curl takes them for several targets
	}
	if strings.Contains(q.Target, "/.") {
		b.WriteString(" --path-as-is") // or it goes up by itself
	}
	switch {
	case q.Method == http.MethodHead:
		b.WriteString(" -I")
	case q.Method != http.MethodGet && (q.Method != http.MethodPost || len(body) == 0):
		b.WriteString(" -X " + quote(q.Method))
	case q.Method == http.MethodGet && len(body) > 0:
		b.WriteString(" -X GET")
	}
	b.WriteString(" " + quote(base+q.Target))
	for _, f := range fields {
		if f.Value == "" {
			b.WriteString(" -H " + quote(f.Name+";"))
			continue
		}
		b.WriteString(" -H " + quote(f.Name+": "+f.Value))
	}
	for _, invented := range []string{"Accept", "User-Agent", "Content-Type"} {
		if !has(fields, invented) && (invented != "Content-Type" || len(body) > 0) {
			b.WriteString(" -H " + quote(invented+":")) // or curl invents one
		}
	}
	switch {
	case piped:
		b.WriteString(" --data-binary @-")
	case len(body) > 0:
		b.WriteString(" --data-raw " + quote(string(body)))
	}
	return b.String()
}

// longestWord is what a command can be given: Linux refuses words of 128 KiB.
const longestWord = 96 << 10

func has(fields []Field, name string) bool {
	return slices.ContainsFunc(fields, func(f Field) bool { return strings.EqualFold(f.Name, name) })
}

// unprintable is what no shell's word can hold (NUL), or a terminal would obey.
func unprintable(r rune) bool { return r != '\n' && r != '\t' && unicode.IsControl(r) }

// quote makes one word of s for a shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
