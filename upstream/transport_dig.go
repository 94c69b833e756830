package upstream

import (
	"context"
	"errors"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/internal/rawconn"
	"stoker/internal/websocket"
)

// How an exchange whose answer is 101 becomes a tunnel, and what is said of its end.

const (
	errNotAsked = http1.SyntaxError("101 (Switching Protocols) to something else than a WebSocket")
	errAccept   = http1.SyntaxError("101 (Switching Protocols) with a Sec-WebSocket-Accept that does not answer the key")
)

// dig makes a tunnel of the exchange whose answer is 101, and carries it to its end.
func (c *call) dig() *Failure {
	if !c.x.WebSocket {
		return c.fail(OpMalformed, errSwitch)
	}
	if !c.head.WebSocket {
		return c.fail(OpMalformed, errNotAsked)
	}
	if !websocket.Accepts(c.x.Request.Fields, c.head.Fields) {
		return c.fail(OpMalformed, errAccept)
	}
	sink, able := c.sink.(exchange.Upgrader)
	if !able {
		return c.fail(OpMalformed, errSwitch)
	}
	c.headCame()
	c.request.free() // from here on no second attempt is possible
	c.request = nil
	t := newTunnel(c.link.conn)
	if failure := c.hand(t); failure != nil {
		return failure
	}
	c.begun = true
	var err error
	t.client, err = sink.Upgrade(&c.head.Response)
	clear(c.head.Fields)
	c.head.Fields, c.head.Reason = c.head.Fields[:0], ""
	if err != nil {
		return c.fail(OpClientWrite, err)
	}
	return c.through(t)
}

// hand has t told of what ends the exchange, or is to, in place of the link. This
// comes before the client can know that there is a tunnel: one that says Close and
// leaves as soon as it does would else find its link cut, and its Close lost.
func (c *call) hand(t *tunnel) *Failure {
	if !c.alarm.stop() {
		return c.fail(OpCanceled, nil) // the link is cut
	}
	ctx := c.ctx // it may be told of the end when the call is another's
	c.alarm = onEnd(ctx, func() { t.endWith(context.Cause(ctx)) })
	c.t.open(c.link, t)
	return nil
}

// through carries the tunnel, and says how it ended.
func (c *call) through(t *tunnel) *Failure {
	go t.upload()
	err := t.relay(c.in.unread())
	c.in.free()
	err = t.finish(err, c.endedBy())
	t.engine.Abort()
	t.client.Interrupt()
	<-t.done
	t.room.give()
	switch {
	case t.why != nil:
		return &Failure{Op: OpCanceled, Sent: true, Begun: true, Err: t.why} // and not what has followed, as fail would
	case t.frames.Closed(), t.goodbye.Load():
		c.settle(false)
		if err := c.sink.End(nil); err != nil {
			return c.fail(OpClientWrite, err)
		}
		return nil
	}
	return c.failTunnel(t, err)
}

// endedBy is why somebody here has ended the exchange, nil if nobody but its client has.
func (c *call) endedBy() error {
	if cause := context.Cause(c.ctx); cause != nil && !errors.Is(cause, exchange.ErrClientGone) {
		return cause
	}
	return c.cutBy()
}

// failTunnel says who has ended it without a word.
func (c *call) failTunnel(t *tunnel, err error) *Failure {
	var client *clientError
	var source *rawconn.SourceError
	switch {
	case errors.As(err, &client):
		return c.fail(OpClientWrite, client.error)
	case t.parted:
		return c.fail(OpCanceled, exchange.ErrClientGone)
	case errors.As(err, &source):
		err = source.Err
	}
	return c.fail(OpRead, noEOF(err))
}
