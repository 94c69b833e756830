package balancer

import (
	"net/http"
	"strconv"

	"stoker/exchange"
	"stoker/internal/http1"
)

// refuse answers with an error of our own, in the form that OpenAI's clients
// read: {"error":{"message":…,"type":…,"code":…}}, or as a page: see
// pages.go; or in gRPC's.
func refuse(x *exchange.Exchange, a *attempt, v verdict) error {
	if isGRPC(&x.Request) {
		return a.reply(x, grpcRefusal(v))
	}
	var p pages
	if a.table != nil {
		p = a.table.pages
	}
	target := x.Request.Target
	if a.target != "" {
		target = a.target
	}
	own := p.errorReply(x, target, &v)
	fields := append(own.fields, v.fields...)
	if v.status == http.StatusUnauthorized {
		fields = append(fields, http1.Field{Name: "WWW-Authenticate", Value: challenge})
	}
	if v.retryAfter > 0 {
		fields = append(fields, http1.Field{Name: "Retry-After", Value: strconv.Itoa(v.retryAfter)})
	}
	own.fields = fields
	return a.reply(x, own)
}

func errorBody(v verdict) []byte {
	b := append([]byte(nil), `{"error":{"message":`...)
	b = appendJSON(b, v.message)
	b = append(b, `,"type":`...)
	b = appendJSON(b, v.kind)
	if v.param != "" {
		b = append(b, `,"param":`...)
		b = appendJSON(b, v.param)
	}
	b = append(b, `,"code":`...)
	b = appendJSON(b, v.code)
	return append(b, "}}\n"...)
}
