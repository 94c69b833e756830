package balancer

import (
	"cmp"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"

	"stoker/internal/http1"
	"stoker/upstream"
)

// # Streams of tokens that an engine has compressed
//
// Engines are not asked for it, see attempt.prepare. One that does it all the same, or
// because a route asks, is read as what it means: else nobody could tell its polite
// break from its end, count its tokens, or let another worker go on.
//
//	Content-Encoding of the events    then
//	none, identity                    as they are
//	gzip, x-gzip                      unpacked as they come; the client gets the plain form, which
//	                                  every client can read, without that field
//	what is no gzip, or damaged       the stream breaks
//	ends within the gzip              what has come of it says whether it is whole
//	any other                         502 unreadable_coding, and nobody is blamed: the engine is well,
//	                                  but its stream could pass for whole and not be
//
// All of this is about 200s to a POST of …/chat/completions or …/completions alone,
// whose length is not said beforehand: another is whole when that has come.

// errCoding refuses a stream that cannot be looked into.
var errCoding = errors.New("the worker has compressed its stream of events in a way that is not known here")

// unreadable is how an attempt has failed that was answered so.
func unreadable() error {
	return &upstream.Failure{Op: upstream.OpMalformed, Sent: true, Err: errCoding}
}

func judgeUnreadable() verdict {
	v := broken(http.StatusBadGateway, typeUpstreamError, "unreadable_coding", errCoding.Error())
	v.blame = false
	return v
}

// plainly says how events have to be read: as they are, or unpacked.
func plainly(fields http1.Fields) (packed bool, err error) {
	switch coding := strings.ToLower(strings.TrimSpace(fields.Get("Content-Encoding"))); coding {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	default:
		return false, errCoding
	}
}

// withoutCoding is the head of an answer that is unpacked.
func withoutCoding(r *http1.Response) *http1.Response {
	plain := *r
	plain.Fields = append(http1.Fields(nil), r.Fields...).Without("Content-Encoding")
	return &plain
}

// plainSink takes what was unpacked.
type plainSink func(p []byte) (int, error)

// Write implements io.Writer.
func (s plainSink) Write(p []byte) (int, error) { return s(p) }

// unpacker gives on what comes compressed, as far as that goes: all that an engine has
// flushed. It is a coroutine, so that whoever writes runs it, and nothing runs beside.
type unpacker struct {
	out  io.Writer
	in   []byte
	over bool  // nothing more comes
	bad  error // what has come is no gzip
	lost error // out took nothing
	more func() (struct{}, bool)
	stop func()
}

func newUnpacker(out io.Writer) *unpacker {
	u := &unpacker{out: out}
	u.more, u.stop = iter.Pull(u.run)
	return u
}

// Write implements io.Writer.
func (u *unpacker) Write(p []byte) (int, error) {
	u.in = p
	u.more()
	u.in = nil // the caller's
	return len(p), cmp.Or(u.lost, u.bad)
}

// end gives on what is left. That the gzip lacks its end is no error.
func (u *unpacker) end() error {
	if u == nil {
		return nil
	}
	u.over = true
	u.more()
	return cmp.Or(u.lost, u.bad)
}

// fault is what is wrong with what has come; nil: nothing.
func (u *unpacker) fault() error {
	if u.bad == nil {
		return nil
	}
	return fmt.Errorf("what is said to be gzip: %w", u.bad)
}

// close lets go of everything.
func (u *unpacker) close() {
	if u != nil {
		u.stop()
	}
}

func (u *unpacker) run(wait func(struct{}) bool) {
	z, err := gzip.NewReader(&pieces{u, wait})
	for buf := make([]byte, 4<<10); err == nil && u.lost == nil; {
		var n int
		if n, err = z.Read(buf); n > 0 {
			_, u.lost = u.out.Write(buf[:n])
		}
	}
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		u.bad = err
	}
	for wait(struct{}{}) { // nothing is heeded after that
	}
}

// pieces are what an unpacker reads. It reads by bytes, so that nothing is held back.
type pieces struct {
	u    *unpacker
	wait func(struct{}) bool
}

// Read implements io.Reader.
func (p *pieces) Read(to []byte) (int, error) {
	if err := p.fill(); err != nil {
		return 0, err
	}
	n := copy(to, p.u.in)
	p.u.in = p.u.in[n:]
	return n, nil
}

// ReadByte implements io.ByteReader.
func (p *pieces) ReadByte() (byte, error) {
	if err := p.fill(); err != nil {
		return 0, err
	}
	b := p.u.in[0]
	p.u.in = p.u.in[1:]
	return b, nil
}

// fill waits for the next piece.
func (p *pieces) fill() error {
	for len(p.u.in) == 0 {
		if p.u.over || !p.wait(struct{}{}) {
			return io.EOF
		}
	}
	return nil
}
