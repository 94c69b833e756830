// Package tracing makes spans of requests, by OpenTelemetry's conventions, and
// sends them to a collector over OTLP/HTTP: one for the request as its client
// sees it, and below it one for each attempt at an upstream, which the upstream
// is told as the parent of its own.
//
//	client's span ──▶ request (server) ──▶ attempt (client) ──▶ engine's span
//	                                   └─▶ attempt (client) ──▶ …
//
// A request that names a parent (W3C Trace Context) is sampled as that one is,
// any other by chance. Spans that have ended wait in a bounded queue, and one
// goroutine sends them in batches. Nothing here makes a request wait: what finds
// the queue full, or cannot be sent, is dropped and counted. A nil *Tracer traces
// nothing.
package tracing

import (
	"context"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"

	"stoker/exchange"
	"stoker/internal/http1"
)

const (
	// queueLength is how many spans may wait.
	queueLength = 4096
	// batchLength is how many are sent at a time, batchDelay how long they wait for others.
	batchLength = 512
	batchDelay  = time.Second
	// sendLimit bounds the sending of a batch, tries and waits included.
	sendLimit = 10 * time.Second
)

// Options say where spans go, and which.
type Options struct {
	// Endpoint is the whole URL of a collector.
	Endpoint string
	// Headers are sent along to it.
	Headers map[string]string
	// Ratio of the requests without a parent that are sampled, 0 to 1.
	Ratio float64
	// OnlyTrusted: what others say of their traces is not believed.
	OnlyTrusted bool
	// Service and Version of what makes the spans.
	Service, Version string
	// Metrics count; Log is told when the collector is out of reach, and when it is back.
	Metrics *Metrics
	Log     hclog.Logger
}

// Tracer makes spans. It has a goroutine until Close.
type Tracer struct {
	provider    *sdk.TracerProvider
	tracer      trace.Tracer
	sender      *sender
	onlyTrusted bool
}

// New returns a tracer; nil without an endpoint.
func New(o Options) *Tracer {
	if o.Endpoint == "" {
		return nil
	}
	t := &Tracer{onlyTrusted: o.OnlyTrusted, sender: newSender(&o)}
	queue := newQueue(otlptrace.NewUnstarted(t.sender), &o)
	t.provider = sdk.NewTracerProvider(
		sdk.WithSpanProcessor(queue),
		sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(o.Ratio))),
		sdk.WithResource(resource.NewWithAttributes(semconv.SchemaURL, describe(&o)...)),
	)
	t.tracer = t.provider.Tracer("stoker", trace.WithInstrumentationVersion(o.Version), trace.WithSchemaURL(semconv.SchemaURL))
	return t
}

// describe says what this process is.
func describe(o *Options) []attribute.KeyValue {
	about := []attribute.KeyValue{
		semconv.ServiceName(o.Service), semconv.ServiceVersion(o.Version), semconv.ProcessPID(os.Getpid()),
	}
	if host, err := os.Hostname(); err == nil {
		about = append(about, semconv.HostName(host))
	}
	return about
}

// Close sends what waits, until ctx ends, and ends the goroutine.
func (t *Tracer) Close(ctx context.Context) {
	if t == nil {
		return
	}
	stop := context.AfterFunc(ctx, t.sender.giveUp)
	defer stop()
	_ = t.provider.Shutdown(context.WithoutCancel(ctx)) // what it could not send was counted, and told
}

// Request is the trace of one request; nil: it has none.
type Request struct {
	tracer  *Tracer
	ctx     context.Context //nolint:containedctx // it is how the library names a parent
	span    trace.Span
	attempt trace.Span // that is under way; nil: none is
}

// Begin begins the span of a request whose fields said p. It ends with End.
func (t *Tracer) Begin(x *exchange.Exchange, p Parent, trusted bool) *Request {
	if t == nil {
		return nil
	}
	ctx := context.Background()
	if p.Traceparent != "" && (trusted || !t.onlyTrusted) {
		ctx = trace.ContextWithRemoteSpanContext(ctx, p.context())
	}
	r := &Request{tracer: t}
	r.ctx, r.span = t.tracer.Start(ctx, methodName(x.Request.Method), trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(x.Record.Start))
	if r.span.IsRecording() {
		r.span.SetAttributes(ofRequest(x)...)
	}
	return r
}

// Said are the fields that tell of r's span.
func (r *Request) Said() Parent { return childOf(r.span.SpanContext()) }

// Try begins an attempt, and has the request's fields say so.
func (r *Request) Try(x *exchange.Exchange, upstream string) {
	_, r.attempt = r.tracer.tracer.Start(r.ctx, methodName(x.Request.Method), trace.WithSpanKind(trace.SpanKindClient))
	if r.attempt.IsRecording() {
		r.attempt.SetAttributes(ofAttempt(x, upstream)...)
	}
	x.Request.Fields = tell(x.Request.Fields, childOf(r.attempt.SpanContext()))
}

// Tried ends the attempt: status is what the upstream has answered, 0 for
// nothing, code says what went wrong, empty for nothing.
func (r *Request) Tried(status int, code string, err error) {
	if r == nil || r.attempt == nil {
		return
	}
	conclude(r.attempt, status, failureOfAttempt(status, code), err)
	r.attempt.End()
	r.attempt = nil
}

// End ends the request's span. route is the pattern that its path has matched.
func (r *Request) End(x *exchange.Exchange, route string) {
	if r == nil {
		return
	}
	r.Tried(0, "abandoned", nil) // by a panic
	if r.span.IsRecording() {
		if route != "" {
			r.span.SetName(methodName(x.Request.Method) + " " + route)
			r.span.SetAttributes(semconv.HTTPRoute(route))
		}
		if !x.Record.FirstByte.IsZero() {
			r.span.AddEvent("first byte", trace.WithTimestamp(x.Record.FirstByte))
		}
		r.span.SetAttributes(ofRecord(&x.Record)...)
		conclude(r.span, x.Record.Status, failureOf(&x.Record), x.Record.Err)
	}
	r.span.End()
}

// tell puts p into fields, in the place of what they say.
func tell(fields http1.Fields, p Parent) http1.Fields {
	kept := fields[:0]
	for _, f := range fields {
		if !strings.EqualFold(f.Name, ParentField) && !strings.EqualFold(f.Name, StateField) {
			kept = append(kept, f)
		}
	}
	return p.Append(kept)
}

// Append adds the fields of p, which are none for the zero value.
func (p Parent) Append(fields http1.Fields) http1.Fields {
	if p.Traceparent == "" {
		return fields
	}
	fields = append(fields, http1.Field{Name: ParentField, Value: p.Traceparent})
	if p.Tracestate != "" {
		fields = append(fields, http1.Field{Name: StateField, Value: p.Tracestate})
	}
	return fields
}
