package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"stoker/internal/http1/rawcases"
)

// What we take and net/http takes too is one request to both. We refuse more
// than net/http does, each time since somebody behind or before us may read the
// same bytes in another way:
//
//   - bare LF for CRLF, and folded lines
//   - several Content-Lengths, also when they agree
//   - empty Hosts, and Hosts with user information, paths, escapes or bad ports
//   - a URL as target whose host is not the Host's
//   - Transfer-Encoding in HTTP/1.0, and together with Content-Length
//   - fragments and controls in targets; HTTP/1.2 and later
//   - heads that are larger, or of more fields
//
// And we take what net/http refuses but what cannot be read in two ways: targets
// that package url does not parse, such as those with bad escapes (the engine's
// to judge), and an empty line before the request.
func FuzzParseRequest(f *testing.F) {
	for _, r := range requests {
		f.Add([]byte(r.raw))
	}
	for _, r := range rawcases.Refused {
		f.Add([]byte(r.Raw))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		text := string(raw)
		got, n, err := requestWhole(text)
		if cutGot, cutN, cutErr := requestBytewise(text); cutGot != got || cutN != n || !errors.Is(cutErr, err) {
			t.Fatalf("whole: %s, %d, %v\nbytewise: %s, %d, %v", got, n, err, cutGot, cutN, cutErr)
		}
		var syntax SyntaxError
		if err != nil && (!errors.As(err, &syntax) || syntax.Status() < 400) {
			t.Fatalf("refused with %v", err)
		}
		if n == 0 || err != nil {
			return
		}
		var h RequestHead
		_, _ = ParseRequest(raw, 0, &h)
		checkWritten(t, &h)
		theirs, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(raw[:n], []byte("\r\n")))))
		if err != nil {
			return
		}
		if theirs.Method != h.Method || theirs.ContentLength != h.Length || theirs.ProtoMajor*10+theirs.ProtoMinor != h.Proto {
			t.Errorf("net/http reads %s %d from %q, we %s", theirs.Method, theirs.ContentLength, raw[:n], got)
		}
		if !strings.EqualFold(theirs.Host, h.Authority) {
			t.Errorf("net/http reads host %q from %q, we %q", theirs.Host, raw[:n], h.Authority)
		}
	})
}

// checkWritten sends a parsed request on: what goes out is that request to us
// and to net/http.
func checkWritten(t *testing.T, h *RequestHead) {
	t.Helper()
	if h.Method == http.MethodConnect {
		return // never sent on
	}
	fields := StripHopByHop(append(Fields(nil), h.Fields...))
	out, err := AppendRequest(nil, &Request{Method: h.Method, Target: h.Target, Authority: h.Authority, Fields: fields}, h.Length)
	if err != nil {
		t.Fatalf("cannot be sent on: %v", err)
	}
	if h.Authority == "" {
		return // HTTP/1.0 goes on as HTTP/1.1, with an empty Host
	}
	var again RequestHead
	n, err := ParseRequest(out, 0, &again)
	if err != nil && (errors.Is(err, errSectionSize) || errors.Is(err, errLineSize) || errors.Is(err, ErrTooManyFields)) {
		return // by the Host and framing of ours
	}
	if err != nil || n != len(out) || again.Method != h.Method || again.Target != h.Target || again.Authority != h.Authority || again.Length != h.Length || len(again.Fields) != len(fields) {
		t.Errorf("what was sent on, %q, is read as %s, %v", out, showRequest(&again, n, err), err)
	}
	in := bufio.NewReader(bytes.NewReader(out))
	if theirs, err := http.ReadRequest(in); err == nil && h.Length == 0 {
		if rest, _ := io.ReadAll(in); len(rest) > 0 || theirs.RequestURI != h.Target {
			t.Errorf("net/http reads %s and leaves %q of %q", theirs.RequestURI, rest, out)
		}
	}
}
