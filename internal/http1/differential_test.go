package http1

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"stoker/internal/http1/rawcases"
)

// differentials is how many messages of each kind are held against net/http.
const differentials = 60_000

// stricterRequests is why we refuse requests that net/http takes. It takes them
// since old clients send them; whoever stands before or behind us may read
// them in another way, and where two readers differ, one client's bytes become
// another's request.
var stricterRequests = map[error]string{
	errLength:        "net/http reads more digits than any length has",
	errBareLF:        "a reader that wants CRLF goes on reading the line",
	errFold:          "some join the line with the one before, some make it a field",
	errLine:          "net/http splits at any space: what is target and what version is then a guess",
	errTargetChar:    "a fragment is no part of what is sent; others cut there or don't",
	errTargetForm:    "a target that is neither path nor URL, or has user information: which host is meant is a guess",
	errHost:          "ports that are none, paths, user information: which host is meant is a guess",
	errHostDiffers:   "the RFC lets the target win, but who has let the request in may have gone by the Host",
	errLengthTwice:   "repeated lengths that agree are allowed, but only sent by who wants to find out who reads which",
	errLengthCoding:  "the classic of request smuggling; net/http drops the length",
	errCodingOld:     "HTTP/1.0 has no chunks; net/http drops the field or reads them, by version",
	errExpectation:   "RFC 9110 10.1.1 allows 417, and nobody here could meet it",
	errVersion:       "versions that there are not: nobody can know their framing",
	errFieldName:     "names that are no tokens are normalised elsewhere",
	errHostMissing:   "HTTP/1.1 wants one, empty or not; an empty one names no host",
	errCoding:        "chunked must be the last coding, and there is none that we know besides",
	errCodingUnknown: "no coding besides chunked",
	errChunkSize:     "white space, signs and empty sizes are read in many ways",
	errChunkHuge:     "sizes that overflow elsewhere",
	errChunkExt:      "controls in extensions end lines elsewhere",
	ErrTooManyFields: "a limit",
	errSectionSize:   "a limit",
	errLineSize:      "a limit",
}

// stricterAnswers is why we refuse answers that net/http takes.
var stricterAnswers = map[error]string{
	errBareLF:        stricterRequests[errBareLF],
	errFold:          stricterRequests[errFold],
	errNotHTTP:       "net/http takes other versions than 1.0 and 1.1",
	errStatus:        "statuses beyond 599, and text before the space",
	errReason:        "controls in a reason go into the next reader's line",
	errFieldName:     stricterRequests[errFieldName],
	errLength:        stricterRequests[errLength],
	errLengthCoding:  stricterRequests[errLengthCoding],
	errCoding:        stricterRequests[errCoding],
	errCodingOld:     stricterRequests[errCodingOld],
	errChunkSize:     stricterRequests[errChunkSize],
	errChunkExt:      stricterRequests[errChunkExt],
	ErrTooManyFields: "a limit",
	ErrHeadTooLarge:  "a limit",
}

// laxer are the beginnings of net/http's errors about what we take, and why
// that is right.
var laxer = map[string]string{
	"parse ": "package url wants escapes and paths of its own taste; targets pass as they are, and the engine judges them",
}

// message is one that was read: what matters of it, as text.
type message struct {
	text string
	body string
	err  error
}

// ours reads a request, body and all, with this package.
func oursRequest(raw []byte) message {
	var h RequestHead
	raw = bytes.Clone(raw)
	n, err := ParseRequest(raw, 0, &h)
	if err != nil || n == 0 {
		return message{err: orEnded(err)}
	}
	m := message{text: fmt.Sprintf("%s %d %s %d %v", h.Method, h.Proto, strings.ToLower(h.Authority), h.Length, sortedFields(h.Fields))}
	m.body, m.err = oursBody(h.Framing, h.Length, raw[n:])
	return m
}

var errEnds = errors.New("ends in the middle")

func orEnded(err error) error {
	if err == nil {
		return errEnds
	}
	return err
}

func oursBody(framing Framing, length int64, rest []byte) (string, error) {
	switch framing {
	case Sized:
		if int64(len(rest)) < length {
			return "", errEnds
		}
		return string(rest[:length]), nil
	case Chunks:
		var d Chunked
		body, _, err := d.Decode(rest)
		if err == nil && !d.Done() {
			err = errEnds
		}
		return string(body), err
	case UntilClose:
		return string(rest), nil
	case NoBody:
	}
	return "", nil
}

func theirsRequest(raw []byte) message {
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(raw, []byte("\r\n")))))
	if err != nil {
		return message{err: err}
	}
	body, err := io.ReadAll(r.Body)
	fields := headerOf(r.Header, "Expect")
	return message{
		text: fmt.Sprintf("%s %d %s %d %v", r.Method, r.ProtoMajor*10+r.ProtoMinor, strings.ToLower(r.Host), r.ContentLength, fields),
		body: string(body), err: err,
	}
}

func oursAnswer(raw []byte, method string) message {
	var h ResponseHead
	raw = bytes.Clone(raw)
	n, err := ParseResponse(raw, 0, method, &h)
	if err != nil || n == 0 {
		return message{err: orEnded(err)}
	}
	m := message{text: fmt.Sprintf("%d %v", h.Status, sortedFields(h.Fields))}
	m.body, m.err = oursBody(h.Framing, h.Length, raw[n:])
	return m
}

func theirsAnswer(raw []byte, method string) message {
	r, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), &http.Request{Method: method})
	if err != nil {
		return message{err: err}
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	fields := StripHopByHop(fieldsOf(r.Header))
	return message{text: fmt.Sprintf("%d %v", r.StatusCode, sortedFields(fields)), body: string(body), err: err}
}

func fieldsOf(h http.Header) (f Fields) {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		for _, v := range h[name] {
			f = append(f, Field{name, v})
		}
	}
	return f
}

func headerOf(h http.Header, without ...string) string {
	h = h.Clone()
	for _, name := range append(without, "Content-Length", "Transfer-Encoding", "Host") {
		h.Del(name)
	}
	return sortedFields(fieldsOf(h))
}

// sortedFields is fields in no order but that of equal names.
func sortedFields(f Fields) string {
	h := http.Header{}
	for _, field := range f {
		if !same(field.Name, "Trailer") && !same(field.Name, "Pragma") && !same(field.Name, "Cache-Control") { // which net/http takes out, or sets
			h.Add(field.Name, field.Value)
		}
	}
	return fmt.Sprint(h)
}

// differ holds one message against net/http, and counts why they differ.
type differ struct {
	stricter map[error]string
	seen     map[string]int
	agreed   int
	refused  int
}

func (d *differ) compare(t *testing.T, raw []byte, ours, theirs message) {
	t.Helper()
	var syntax SyntaxError
	switch {
	case ours.err == nil && theirs.err == nil:
		d.agreed++
		if ours.text != theirs.text || ours.body != theirs.body {
			t.Errorf("%.300q\nours:   %.300s %.300q\ntheirs: %.300s %.300q", raw, ours.text, ours.body, theirs.text, theirs.body)
		}
	case ours.err != nil && theirs.err != nil:
		d.refused++
	case errors.As(ours.err, &syntax):
		if d.stricter[syntax] == "" {
			t.Errorf("%.300q\nwe say %q and nobody has said why; net/http takes it as %.300s %.300q", raw, syntax, theirs.text, theirs.body)
		}
		d.seen[string(syntax)]++
	case ours.err != nil:
		// We wait for more where net/http is content: only with lines that it
		// ends without CRLF, of which more would have been refused.
		if !bytes.Contains(bytes.ReplaceAll(raw, []byte("\r\n"), nil), []byte("\n")) && !bytes.HasSuffix(raw, []byte("\r")) {
			t.Errorf("%.300q\nwe say %v; net/http takes it as %.300s %.300q", raw, ours.err, theirs.text, theirs.body)
		}
	default:
		for begin := range laxer {
			if strings.HasPrefix(theirs.err.Error(), begin) {
				d.seen[begin]++
				return
			}
		}
		t.Errorf("%.300q\nwe take it as %.300s %.300q; net/http says %v", raw, ours.text, ours.body, theirs.err)
	}
}

// The same bytes, generated and mutated, to us and to net/http: where both take
// them they are the same message, where we differ the lists above say why.
func TestDifferentialRequests(t *testing.T) {
	g := newGenerator(1)
	seeds := make([]string, 0, len(requests)+len(rawcases.Refused))
	for _, r := range requests {
		seeds = append(seeds, r.raw)
	}
	for _, r := range rawcases.Refused {
		seeds = append(seeds, r.Raw)
	}
	d := &differ{stricter: stricterRequests, seen: map[string]int{}}
	for range differentials {
		raw := g.message(seeds, g.request)
		d.compare(t, raw, oursRequest(raw), theirsRequest(raw))
		if t.Failed() {
			return
		}
	}
	d.report(t)
}

func TestDifferentialAnswers(t *testing.T) {
	g := newGenerator(2)
	var seeds []string
	for _, a := range answers {
		seeds = append(seeds, a.raw)
	}
	for _, a := range rawcases.NoAnswers {
		seeds = append(seeds, a.Raw)
	}
	d := &differ{stricter: stricterAnswers, seen: map[string]int{}}
	for i := range differentials {
		method := []string{"GET", "GET", "POST", "HEAD"}[i%4]
		raw := g.message(seeds, g.answer)
		if bytes.HasPrefix(raw, []byte("HTTP/1.1 1")) || bytes.HasPrefix(raw, []byte("HTTP/1.0 1")) {
			continue // interim ones are met by a transport, not by its parser
		}
		d.compare(t, raw, oursAnswer(raw, method), theirsAnswer(raw, method))
		if t.Failed() {
			return
		}
	}
	d.report(t)
}

// report fails unless the comparison met all there is to meet.
func (d *differ) report(t *testing.T) {
	t.Helper()
	t.Logf("%d taken by both, %d by neither; differences: %v", d.agreed, d.refused, d.seen)
	if d.agreed < differentials/10 || d.refused < differentials/10 || len(d.seen) < 10 {
		t.Error("the generator has become dull")
	}
}

// generator makes messages that are nearly right.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, seed))} }

func (g generator) of(s ...string) string { return s[g.IntN(len(s))] }

// rarely is one of those that are wrong, one time in fifteen.
func (g generator) mostly(right string, wrong ...string) string {
	if g.IntN(15) > 0 {
		return right
	}
	return g.of(wrong...)
}

// message is a seed or a generated one, as it is or with a few bytes changed.
func (g generator) message(seeds []string, generate func() string) []byte {
	raw := []byte(g.of(seeds...))
	if g.IntN(3) > 0 {
		raw = []byte(generate())
	}
	if len(raw) > 4<<10 {
		return raw
	}
	for range g.IntN(3) {
		raw = g.mutate(raw)
	}
	return raw
}

func (g generator) mutate(raw []byte) []byte {
	if len(raw) == 0 {
		return raw
	}
	at := g.IntN(len(raw))
	switch g.IntN(5) {
	case 0:
		raw[at] ^= 1 << g.IntN(8)
	case 1:
		raw = slices.Delete(raw, at, min(len(raw), at+1+g.IntN(3)))
	case 2:
		raw = slices.Insert(raw, at, []byte(g.of("\r", "\n", "\r\n", " ", "\t", "\x00", ":", ",", ";", "0", "_", "\x80", "chunked", "Host: b\r\n"))...)
	case 3:
		end := min(len(raw), at+g.IntN(40))
		raw = slices.Insert(raw, at, slices.Clone(raw[at:end])...)
	case 4:
		raw = raw[:at]
	}
	return raw
}

func (g generator) eol() string { return g.mostly("\r\n", "\n", "\r\r\n", "\r") }

func (g generator) request() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s%s%s%s%s",
		g.of("GET", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", g.mostly("PATCH", "get", "G T", "(", "CONNECT", "PRI")),
		g.mostly(" ", "  ", "\t", ""),
		g.of("/", "/a?b=c", "/v1/chat/completions", g.mostly("/%7e", "*", "http://a/x", "http://b/", "http://u@a/", "//a//b", "/a#b", "/%zz", "a", "", "/a b", "http://a:99999/")),
		g.mostly(" ", "  ", "\t"),
		g.mostly("HTTP/1.1", "HTTP/1.0", "HTTP/1.0", "HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.10", ""),
		g.eol())
	b.WriteString(g.mostly("Host: a"+g.eol(), "", "Host: a\r\nHost: a\r\n", "Host:\r\n", "Host: a:80\r\n", "Host: [::1]:8\r\n", "Host: a:b\r\n", "Host : a\r\n", "host: A\r\n"))
	b.WriteString(g.fields())
	b.WriteString(g.framed())
	return b.String()
}

func (g generator) answer() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s%s%s", g.mostly("HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/1.2", "http/1.1", "HTTP/11"),
		g.of("200", "200", "404", g.mostly("500", "204", "304", "600", "99", "2 0", "-20", "0200")),
		g.mostly(" OK", "", " ", "OK", " \x00", " no\rway"), g.eol())
	b.WriteString(g.fields())
	b.WriteString(g.framed())
	return b.String()
}

func (g generator) fields() string {
	var b strings.Builder
	for range g.IntN(4) {
		b.WriteString(g.mostly("X-A", "X A", "", "X_A", "Connection", "\x80", "X:", "Expect", "Trailer"))
		b.WriteString(g.mostly(": ", ":", " : ", ":\t", ""))
		b.WriteString(g.mostly("value", "", "close", "\x00", "a,b", "100-continue", " b ", "\"q\"", "\xc3\xa4", "a\r\n b"))
		b.WriteString(g.eol())
	}
	return b.String()
}

// framed is the end of a head, and a body.
func (g generator) framed() string {
	const body = "hello, world"
	sized := fmt.Sprintf("Content-Length%s%s%s%s%s", g.mostly(": ", ":", " : "),
		g.mostly("12", "+12", "0x0c", "12, 12", "012", "13", "5", "99999999999999999999", "", "12 ", "-1"), g.eol(), g.eol(), body)
	chunked := fmt.Sprintf("Transfer-Encoding: %s%s%s", g.mostly("chunked", "Chunked", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "chunked, chunked", " chunked "), g.eol(), g.eol()) + g.chunks(body)
	switch g.IntN(8) {
	case 0, 1, 2:
		return sized
	case 3, 4, 5:
		return chunked
	case 6:
		return g.mostly("\r\n", "Content-Length: 12\r\n"+chunked, "Transfer-Encoding: chunked\r\n"+sized, "Content-Length: 12\r\n"+sized, "Transfer-Encoding: chunked\r\n"+chunked)
	}
	return g.eol()
}

func (g generator) chunks(body string) string {
	var b strings.Builder
	for len(body) > 0 {
		n := 1 + g.IntN(len(body))
		size := fmt.Sprintf("%x", n)
		b.WriteString(g.mostly(size, "0"+size, strings.ToUpper(size), " "+size, size+" ", "+"+size, "0x"+size, size+";a=b", size+" ;a=\"b\"", "f"+size, "1"+strings.Repeat("0", 15)+size, ""))
		b.WriteString(g.eol())
		b.WriteString(body[:n])
		b.WriteString(g.mostly("\r\n", "\n", "", "x\r\n"))
		body = body[n:]
	}
	b.WriteString(g.mostly("0", "00", "0;x", "", "-0"))
	b.WriteString(g.eol())
	b.WriteString(g.mostly("", "X-T: 1\r\n", "Content-Length: 5\r\n", "X\r\n", "X: a\r\n b\r\n"))
	b.WriteString(g.eol())
	return b.String()
}
