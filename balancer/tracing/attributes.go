package tracing

import (
	"net"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"stoker/exchange"
)

// methodName is a method as spans are called by it: clients make up others.
func methodName(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY":
		return strings.Clone(method) // it views a connection's buffer
	}
	return "HTTP"
}

// text is a copy that outlives the request's buffer. One byte that is no UTF-8
// would cost the whole batch: no message can hold it.
func text(s string) string { return strings.Clone(strings.ToValidUTF8(s, "\uFFFD")) }

func ofMethod(method string) attribute.KeyValue {
	if name := methodName(method); name != "HTTP" {
		return semconv.HTTPRequestMethodKey.String(name)
	}
	return semconv.HTTPRequestMethodKey.String("_OTHER")
}

// ofRequest are attributes of a server's span that are known at once. What they
// take from the request is copied, since spans outlive it. Queries may hold
// secrets, and are left out.
func ofRequest(x *exchange.Exchange) []attribute.KeyValue {
	r := &x.Request
	path, _, _ := strings.Cut(r.Target, "?")
	about := []attribute.KeyValue{
		ofMethod(r.Method),
		semconv.URLPath(text(path)),
		semconv.URLScheme(r.Scheme),
		semconv.NetworkProtocolVersion(version(r.Proto)),
		semconv.ClientAddress(text(x.Record.ClientIP)),
		attribute.String("stoker.request_id", text(x.Record.ID)),
	}
	if x.Client.IsValid() {
		about = append(about, semconv.NetworkPeerAddress(x.Client.Addr().String()), semconv.NetworkPeerPort(int(x.Client.Port())))
	}
	if r.Authority != "" {
		about = append(about, ofServer(text(r.Authority))...)
	}
	if agent := r.Fields.Get("User-Agent"); agent != "" {
		about = append(about, semconv.UserAgentOriginal(text(agent)))
	}
	return about
}

func version(proto int) string {
	if proto == 20 {
		return "2"
	}
	return "1." + strconv.Itoa(proto%10)
}

// ofServer is a host with or without its port.
func ofServer(address string) []attribute.KeyValue {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return []attribute.KeyValue{semconv.ServerAddress(address)}
	}
	about := []attribute.KeyValue{semconv.ServerAddress(host)}
	if n, err := strconv.Atoi(port); err == nil {
		about = append(about, semconv.ServerPort(n))
	}
	return about
}

// ofAttempt are attributes of a client's span.
func ofAttempt(x *exchange.Exchange, upstream string) []attribute.KeyValue {
	path, _, _ := strings.Cut(x.Request.Target, "?")
	about := append(ofServer(upstream),
		ofMethod(x.Request.Method),
		semconv.URLPath(text(path)),
		attribute.String("stoker.pool", x.Record.Pool),
		attribute.String("stoker.worker", x.Record.Worker),
	)
	if again := x.Record.Attempts - 1; again > 0 {
		about = append(about, semconv.HTTPRequestResendCount(again))
	}
	return about
}

// ofRecord are attributes that are known at a request's end.
func ofRecord(r *exchange.Record) []attribute.KeyValue {
	about := []attribute.KeyValue{
		semconv.HTTPRequestBodySize(int(r.BytesIn)),
		semconv.HTTPResponseBodySize(int(r.BytesOut)),
		attribute.String("stoker.outcome", string(r.Outcome)),
		attribute.Int("stoker.attempts", r.Attempts),
		attribute.Float64("stoker.queued_seconds", r.Queued.Seconds()),
	}
	for _, named := range []struct{ key, value string }{
		{"stoker.route", r.Route}, {"stoker.pool", r.Pool}, {"stoker.worker", r.Worker}, {"stoker.key", r.Key},
	} {
		if named.value != "" {
			about = append(about, attribute.String(named.key, named.value))
		}
	}
	return about
}

// conclude says how a span has ended: what its error is, empty for none.
func conclude(span trace.Span, status int, kind string, err error) {
	if !span.IsRecording() {
		return
	}
	if status > 0 {
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
	}
	if kind == "" {
		return
	}
	span.SetAttributes(semconv.ErrorTypeKey.String(kind))
	why := ""
	if err != nil {
		why = text(err.Error())
	}
	span.SetStatus(codes.Error, why)
}

// failureOf is what a request has failed of as its server sees it: what clients do
// wrong is no error of ours.
func failureOf(r *exchange.Record) string {
	switch {
	case r.Outcome == exchange.OutcomeOK && r.Status >= 500:
		return strconv.Itoa(r.Status)
	case r.Outcome == exchange.OutcomeOK, r.Outcome == exchange.OutcomeClientGone, r.Outcome == exchange.OutcomeClientError:
		return ""
	case r.Status >= 400 && r.Status < 500:
		return ""
	}
	return string(r.Outcome)
}

// failureOfAttempt is the same as who asks an upstream sees it.
func failureOfAttempt(status int, code string) string {
	if code == "" && status >= 400 {
		return strconv.Itoa(status)
	}
	return code
}
