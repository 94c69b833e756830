package balancer

import (
	"net/http"
	"strconv"

	"stoker/exchange"
	"stoker/internal/http1"
)

// refuse answers with an error of our own, in the form that OpenAI's clients
// read: {"error":{"message":…,"type":…,"code":…}}.
func refuse(x *exchange.Exchange, a *attempt, v verdict) error {
	body := errorBody(v)
	fields := http1.Fields{
		{Name: "Content-Type", Value: "application/json"},
		{Name: "Cache-Control", Value: "no-store"},
	}
	fields = append(fields, v.fields...)
	if v.status == http.StatusUnauthorized {
		fields = append(fields, http1.Field{Name: "WWW-Authenticate", Value: challenge})
	}
	if v.retryAfter > 0 {
		fields = append(fields, http1.Field{Name: "Retry-After", Value: strconv.Itoa(v.retryAfter)})
	}
	return a.reply(x, reply{status: v.status, fields: fields, body: body})
}

func errorBody(v verdict) []byte {
	b := append([]byte(nil), `{"error":{"message":`...)
	b = appendJSON(b, v.message)
	b = append(b, `,"type":`...)
	b = appendJSON(b, v.kind)
	b = append(b, `,"code":`...)
	b = appendJSON(b, v.code)
	return append(b, "}}\n"...)
}
