package balancer

import (
	"errors"
	"io"
	"net/http"

	"stoker/exchange"
	"stoker/upstream"
)

// errBodyTooLarge is what a body says that has passed its limit.
var errBodyTooLarge = &requestError{http.StatusRequestEntityTooLarge, "body_too_large", "the request's body is larger than this server takes"}

// limit refuses a body that is known to be larger than most bytes (0: any), and
// lets one that does not say how large it is end with an error there. It may be
// asked twice: where the body must be read before the route is known.
func (a *attempt) limit(x *exchange.Exchange, most int64) error {
	switch {
	case most <= 0:
	case x.Length > most, x.AtLeast > most, a.ahead.held && int64(len(*a.ahead.buf)) > most:
		return errBodyTooLarge
	case x.Length < 0 && !a.ahead.held && a.body.from == nil:
		a.body = limitedBody{from: x.Body, left: most}
		x.Body = &a.body
		x.MaxBody = most
	}
	return nil
}

// checkBody refuses a chunked body whose beginning has come and is no HTTP: what
// an attacker sends in one piece no engine hears of at all.
func checkBody(x *exchange.Exchange) error {
	if x.Length >= 0 {
		return nil
	}
	if c, able := x.Body.(exchange.Checker); able {
		if err := c.Check(); err != nil {
			return &upstream.Failure{Op: upstream.OpClientBody, Err: err}
		}
	}
	return nil
}

// limitedBody reads a body up to its limit.
type limitedBody struct {
	from io.Reader
	left int64
}

// Read implements io.Reader.
func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errBodyTooLarge
	}
	n, err := b.from.Read(p)
	if errors.Is(err, exchange.ErrBodyTooLarge) {
		b.left = -1
		return 0, errBodyTooLarge
	}
	if b.left -= int64(n); b.left < 0 && (err == nil || errors.Is(err, io.EOF)) {
		return 0, errBodyTooLarge // and the engine has had no more than the limit
	}
	return n, err
}

// Interrupt passes a transport's wish on to a body that can hear it.
func (b *limitedBody) Interrupt() {
	if i, ok := b.from.(interface{ Interrupt() }); ok {
		i.Interrupt()
	}
}
