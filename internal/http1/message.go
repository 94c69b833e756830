// Package http1 is HTTP/1.1 as bytes: heads, fields and chunked bodies, read
// and written as strictly as RFC 9112 allows. It knows neither sockets nor
// upstreams; a front and a transport both stand on it.
package http1

// Field is one header or trailer field as it was received: the name in the
// sender's own spelling, the value without surrounding white space.
//
// Name and Value may be views into a connection's read buffer. They are valid
// until the exchange that carries them ends; who keeps one longer clones it.
type Field struct {
	Name  string
	Value string
}

// Fields is a header or trailer section in the order of arrival. A name may
// occur more than once.
type Fields []Field

// Request is the head of a request, whatever HTTP version it came in.
type Request struct {
	// Method is a token (RFC 9110 5.6.2), case-sensitive.
	Method string
	// Target is the origin form (RFC 9112 3.2.1), path and query untouched,
	// or "*" for OPTIONS.
	Target string
	// Authority is the host and optional port that the client asked for: the
	// Host field of HTTP/1.1, :authority of HTTP/2.
	Authority string
	// Scheme is "http" or "https": how the client reached us.
	Scheme string
	// Proto is 10, 11 or 20.
	Proto int
	// Fields holds no Host, no framing fields (Content-Length,
	// Transfer-Encoding): those are carried by Authority and Exchange.Length.
	Fields Fields
}

// Response is the head of an answer.
type Response struct {
	// Status is 100–599. 1xx other than 101 are interim.
	Status int
	// Reason is the reason phrase as received; it may be empty.
	Reason string
	// Fields holds no framing and no hop-by-hop fields: framing is a matter of
	// one connection, and each side writes its own.
	Fields Fields
}
