// Package compression makes answers smaller for clients that can read them so:
// those of configured content types, never a stream of events. It stands between
// the balancer, whose record keeps the plain form, and a front's sink.
//
// What a request and its answer must be like:
//
//	the client accepts zstd or gzip, by q-values, and likes it no less than the plain form
//	HTTP/1.1 or 2: HTTP/1.0 has no framing for what is not yet known to be long
//	its type is one of Options.Types, and it is no stream of events, no gRPC, no multipart
//	it has a body of at least Options.MinSize bytes, or of unknown length
//	neither side says no-transform
//	it has no content coding yet, is no part of a range (206), and no digest of it is given
//
// Then it gets Content-Encoding, its length is unknown beforehand, its strong
// ETag becomes a weak one (the bytes differ, the meaning does not), and
// Accept-Ranges goes. Whatever fulfils all but the client's part gets Vary:
// Accept-Encoding, so that no cache gives one client what is for another.
// HEAD gets the head that GET would get.
package compression

import (
	"net/http"
	"strings"
	"sync/atomic"

	"stoker/exchange"
	"stoker/internal/http1"
)

// maxAtWork is how many answers are compressed at a time. Each takes up to two
// megabytes, for as long as its client takes to read: those beyond pass as they are.
const maxAtWork = 64

// Options say what is compressed, and how.
type Options struct {
	// Encodings in order of preference, of "zstd" and "gzip"; none: nothing is compressed.
	Encodings []string
	// Types of content, such as "application/json" or "text/*", in lower case.
	Types []string
	// MinSize is the least length of a body, where it is known.
	MinSize int64
	// Level is 1, the fastest, to 9.
	Level int
}

// Compressor is safe for use by many goroutines; nil compresses nothing.
type Compressor struct {
	types   []string
	minSize int64
	codings []*coding // in order of preference
	atWork  atomic.Int32
	most    int32
}

// New returns nil where nothing is to be compressed.
func New(o Options) *Compressor {
	if len(o.Encodings) == 0 {
		return nil
	}
	c := &Compressor{types: o.Types, minSize: o.MinSize, most: maxAtWork}
	for _, name := range o.Encodings {
		c.codings = append(c.codings, newCoding(name, o.Level))
	}
	return c
}

// Wish is what a request allows: nothing, Vary, or a coding.
type Wish struct {
	of     *Compressor
	coding *coding // nil: it accepts none that we have
	head   bool
}

// Wish reads what the client wants. Routes may take Accept-Encoding away from
// the engine later.
func (c *Compressor) Wish(r *http1.Request) Wish {
	if c == nil || r.Fields.HasToken("Cache-Control", "no-transform") {
		return Wish{}
	}
	w := Wish{of: c, head: r.Method == http.MethodHead}
	if r.Proto >= 11 {
		w.coding = c.choose(r.Fields)
	}
	return w
}

// Over changes the answer's head as it must be, and returns the sink that the
// answer goes through, with its length; nil: it goes to below as it is.
func (w Wish) Over(below exchange.Sink, q *http1.Request, r *http1.Response, length int64) (*Sink, int64) {
	switch {
	case w.of == nil:
		return nil, length
	case r.Status == http.StatusNotModified:
		w.revalidate(q, r)
		return nil, length
	case !w.of.suits(r, length):
		return nil, length
	}
	if !r.Fields.HasToken("Vary", "Accept-Encoding") && !r.Fields.HasToken("Vary", "*") {
		r.Fields = append(r.Fields, http1.Field{Name: "Vary", Value: "Accept-Encoding"})
	}
	if w.coding == nil {
		return nil, length
	}
	var s *Sink
	if !w.head {
		if s = w.coding.take(w.of); s == nil {
			return nil, length
		}
		s.begin(below, length)
	}
	r.Fields = r.Fields.Without("Accept-Ranges").Without("Content-Encoding") // which said identity
	weaken(r)
	r.Fields = append(r.Fields, http1.Field{Name: "Content-Encoding", Value: w.coding.name})
	return s, -1
}

// suits says whether the answer may be compressed for a client that likes that.
func (c *Compressor) suits(r *http1.Response, length int64) bool {
	switch r.Status {
	case http.StatusNoContent, http.StatusResetContent, http.StatusPartialContent:
		return false
	}
	if length >= 0 && (length == 0 || length < c.minSize) || !c.hasType(r.Fields.Get("Content-Type")) {
		return false
	}
	for i := range r.Fields {
		switch f := &r.Fields[i]; {
		case isName(f.Name, "Content-Encoding") && !strings.EqualFold(f.Value, "identity"),
			isName(f.Name, "Content-Range"),
			isName(f.Name, "Content-Digest"), isName(f.Name, "Repr-Digest"), isName(f.Name, "Digest"), isName(f.Name, "Content-MD5"):
			return false
		}
	}
	return !r.Fields.HasToken("Cache-Control", "no-transform")
}

// never are types that whatever pattern does not mean: streams of which each
// event is for now, and protocols with framing of their own.
var never = []string{"text/event-stream", "multipart/", "application/grpc"}

// Never says whether answers of this type are never compressed.
func Never(contentType string) bool {
	for _, n := range never {
		if strings.HasPrefix(contentType, n) {
			return true
		}
	}
	return false
}

func (c *Compressor) hasType(value string) bool {
	value, _, _ = strings.Cut(value, ";")
	value = strings.TrimSpace(value)
	if value == "" {
		return false
	}
	value = strings.ToLower(value)
	if Never(value) {
		return false
	}
	for _, t := range c.types {
		if family, open := strings.CutSuffix(t, "*"); t == value || open && strings.HasPrefix(value, family) {
			return true
		}
	}
	return false
}

// weaken makes a strong validator a weak one.
func weaken(r *http1.Response) {
	for i := range r.Fields {
		if f := &r.Fields[i]; isName(f.Name, "ETag") && strings.HasPrefix(f.Value, `"`) {
			f.Value = "W/" + f.Value
		}
	}
}

// revalidate lets a 304 name the validator that the client has: it was weakened
// when the client got what it asks about, and the engine knows the strong one.
func (w Wish) revalidate(q *http1.Request, r *http1.Response) {
	if tag := r.Fields.Get("ETag"); strings.HasPrefix(tag, `"`) && q.Fields.HasToken("If-None-Match", "W/"+tag) {
		weaken(r)
	}
}

func isName(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }
