// Package exchange says what one request is to everybody who touches it: the
// fronts that read it from a client, the balancer that decides where it goes,
// the transports that carry it. It knows nothing of connections, pools or
// HTTP versions, and does nothing by itself.
package exchange

import (
	"errors"
	"io"
	"net/netip"

	"stoker/internal/http1"
	"stoker/internal/rawconn"
)

// Causes with which an exchange's context ends: the front's, a deadline's, or
// a worker's. context.Cause
// tells who ended it, and so whom to blame: nobody here is an upstream.
var (
	// ErrClientGone: the client hung up or reset its stream.
	ErrClientGone = errors.New("client went away")
	// ErrClientSlow: the client took too long to send its body. It is what
	// reading the body says, no cause of a context's end.
	ErrClientSlow = errors.New("client sends its body too slowly")
	// ErrShutdown: the drain limit was over and the master cut the request.
	ErrShutdown = errors.New("cut by shutdown")
	// ErrDrained: its worker has left the pool, and the pool's drain policy does
	// not let requests finish.
	ErrDrained = errors.New("cut since its worker leaves the pool")
	// ErrIdle: nothing has passed through a tunnel for as long as may be.
	ErrIdle = errors.New("nothing passed through the tunnel for too long")
	// ErrBodyTooLarge: more of a body was announced than Exchange.MaxBody.
	ErrBodyTooLarge = errors.New("the request's body is too large")
	// ErrDeadline: the time that the client has given us is over, or too little
	// of it is left for an answer.
	ErrDeadline = errors.New("the request's deadline")
)

// Exchange is one request and the way back to its client. A front makes it,
// lends it to the balancer for the length of one call, and owns it again after.
type Exchange struct {
	// Request is the head as parsed. The balancer may replace Fields with what
	// is to be sent on; Method, Target and Authority are as the client sent them, but for
	// Target while it has them, where a route changes that.
	Request http1.Request
	// Wrong is why nobody must get the request, where the front could not refuse it by
	// itself, since another has parsed it: an http1.SyntaxError. nil: nothing is.
	Wrong error
	// WebSocket: the client asks for its connection to become one, and Sink is an
	// Upgrader.
	WebSocket bool
	// Length of the body in bytes: 0 for none, -1 when not known beforehand
	// (chunked, or an HTTP/2 stream).
	Length int64
	// Here: all of the body, if any, has come with the head, and nobody will wait for it.
	Here bool
	// AtLeast is how long a body of no known length will be at least, by what has come
	// of it with the head.
	AtLeast int64
	// MaxBody is how long it may be, as whoever reads it has said; 0: any. A body
	// that announces more ends with ErrBodyTooLarge, sooner than it has come.
	MaxBody int64
	// Body reads the request's body; nil when Length is 0. An error other than
	// io.EOF is the client's doing (a bad chunk, a hang-up, too slow).
	Body io.Reader
	// Trailers returns the request's trailer fields once Body has returned
	// io.EOF. It is nil where the front has none.
	Trailers func() http1.Fields
	// Client is the peer of the connection, not what any header claims.
	// It is the zero value for a unix socket.
	Client netip.AddrPort
	// ClientText is Client's address as text, where the front has it at hand; else "".
	ClientText string
	// Sink takes the answer.
	Sink Sink
	// Record collects the facts that the front logs and counts once at the end.
	Record Record
}

// Mover is a Body whose bytes need not be copied through this process.
type Mover interface {
	// Move moves up to n bytes of the body to dst inside the kernel, as they
	// come, and returns how many dst was given. Fewer than n, and no error, mean
	// that what is next has to be read: it has come already, or somebody wants to see it. An
	// error of the body's own is a *rawconn.SourceError, any other is dst's.
	Move(dst *rawconn.Conn, n int64) (moved int64, err error)
}

// Checker is a Body that knows what is wrong with it before it is read.
type Checker interface {
	// Check says what is wrong with what has come of the body so far. It does not
	// wait for more, and is asked before the first Read.
	Check() error
}

// Sink takes one answer: any number of Interim, one Head, any number of Write,
// Flush and Splice, then exactly one of End and Break. An error that it returns
// is the client's (it went away or reads too slowly), never the upstream's.
type Sink interface {
	// Interim passes on a 1xx head other than 101.
	Interim(status int, fields http1.Fields) error
	// Head starts the answer. r and what its fields view is good only until Head
	// returns. length is that of the body, -1 when only its end
	// will tell. For HEAD and 304 length is what the upstream declared, and no
	// body follows.
	Head(r *http1.Response, length int64) error
	// Write passes body bytes on; they may be held until Flush or End.
	Write(p []byte) (int, error)
	// Flush puts on the wire what Write holds. A transport calls it when it has
	// nothing more to read right now, so that an event is never held back.
	Flush() error
	// Splice moves up to n body bytes from src without copying them through
	// this process where the kernel can. It returns the bytes moved; when it
	// stops early with a nil error, src has ended. moved is also right on error.
	Splice(src *rawconn.Conn, n int64) (moved int64, err error)
	// End ends the answer cleanly, with trailers where there are any.
	End(trailers http1.Fields) error
	// Break ends the answer visibly broken: HTTP/1.1 closes the connection
	// before the framing is complete, HTTP/2 resets the stream. Half an answer
	// is never made to look whole.
	Break(cause error)
}
