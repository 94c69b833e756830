package balancer

import (
	"context"
	"net/http"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// ownAnswer is one that no pool is asked for, or none alone.
type ownAnswer interface {
	// make returns the answer to x.
	make(ctx context.Context, b *Balancer, r *route, x *exchange.Exchange) (reply, error)
}

// reply is an answer of our own.
type reply struct {
	status int
	fields http1.Fields
	body   []byte
}

// answer sends a route's own answer.
func (b *Balancer) answer(ctx context.Context, x *exchange.Exchange, a *attempt, r *route) verdict {
	own, err := r.own.make(ctx, b, r, x)
	if err != nil {
		return classify(err)
	}
	if err := a.reply(x, own); err != nil {
		return classify(&upstream.Failure{Op: upstream.OpClientWrite, Begun: true, Err: err})
	}
	return verdict{ending: endedWell}
}

// reply sends an answer of our own.
func (a *attempt) reply(x *exchange.Exchange, own reply) error {
	if err := a.Head(&http1.Response{Status: own.status, Fields: own.fields}, int64(len(own.body))); err != nil {
		return err
	}
	if x.Request.Method != http.MethodHead && len(own.body) > 0 {
		if _, err := a.Write(own.body); err != nil {
			return err
		}
	}
	return a.End(nil)
}

// fixed is the same answer to all.
type fixed struct{ reply }

func newFixed(c *config.Answer) *fixed {
	f := &fixed{reply{status: c.Status, body: []byte(c.Body)}}
	switch {
	case c.ContentType != "":
		f.fields = http1.Fields{{Name: "Content-Type", Value: c.ContentType}}
	case c.Body != "":
		f.fields = http1.Fields{{Name: "Content-Type", Value: "text/plain; charset=utf-8"}}
	}
	return f
}

func (f *fixed) make(context.Context, *Balancer, *route, *exchange.Exchange) (reply, error) {
	return f.reply, nil
}

// redirect sends clients elsewhere.
type redirect struct {
	status int
	to     *template
}

func newRedirect(c *config.Route) *redirect {
	r := &redirect{status: c.RedirectStatus, to: newTemplate(c.Redirect)}
	if r.status == 0 {
		r.status = http.StatusPermanentRedirect
	}
	return r
}

func (d *redirect) make(_ context.Context, _ *Balancer, r *route, x *exchange.Exchange) (reply, error) {
	return reply{status: d.status, fields: http1.Fields{{Name: "Location", Value: r.location(d.to, &x.Request)}}}, nil
}
