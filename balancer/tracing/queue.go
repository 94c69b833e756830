package tracing

import (
	"context"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Why spans are dropped.
const (
	queueFull  = "queue_full"
	sendFailed = "send_failed"
)

// Metrics count spans.
type Metrics struct {
	sent    prometheus.Counter
	dropped *prometheus.CounterVec
}

// NewMetrics registers the metrics with r, once per registry.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "stoker_trace_spans_sent_total",
			Help: "Spans that a collector has taken.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "stoker_trace_spans_dropped_total",
			Help: "Spans that no collector will see, by why.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{queueFull, sendFailed} {
		m.dropped.WithLabelValues(reason)
	}
	r.MustRegister(m.sent, m.dropped)
	return m
}

// queue bounds the spans that wait for the collector, and counts what the library's
// own batches would lose in silence.
type queue struct {
	sdk.SpanProcessor

	waiting atomic.Int64
	most    int64
	metrics *Metrics
	log     hclog.Logger
	next    sdk.SpanExporter
	// failing: the last batch was lost. The sending goroutine's alone.
	failing bool
	lost    int
}

func newQueue(next sdk.SpanExporter, o *Options) *queue {
	q := &queue{most: queueLength, metrics: o.Metrics, log: o.Log, next: next}
	// Its own queue never fills up: ours is shorter.
	q.SpanProcessor = sdk.NewBatchSpanProcessor(exporter{q}, sdk.WithMaxQueueSize(queueLength+batchLength),
		sdk.WithMaxExportBatchSize(batchLength), sdk.WithBatchTimeout(batchDelay), sdk.WithExportTimeout(sendLimit))
	return q
}

// OnEnd implements sdk.SpanProcessor. It never waits.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	if q.waiting.Add(1) > q.most {
		q.waiting.Add(-1)
		q.metrics.dropped.WithLabelValues(queueFull).Inc()
		return
	}
	q.SpanProcessor.OnEnd(s)
}

// exporter is a queue's other end.
type exporter struct{ q *queue }

// ExportSpans implements sdk.SpanExporter. Errors end here: the library would
// print them. One line says that the collector is out of reach, one that it is back.
func (e exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	q := e.q
	defer q.waiting.Add(-int64(len(spans)))
	if err := q.next.ExportSpans(ctx, spans); err != nil {
		q.lost += len(spans)
		q.metrics.dropped.WithLabelValues(sendFailed).Add(float64(len(spans)))
		if !q.failing {
			q.failing = true
			q.log.Warn("traces cannot be sent; they are dropped until they can", "error", err)
		}
		return nil
	}
	q.metrics.sent.Add(float64(len(spans)))
	if q.failing {
		q.log.Info("traces are sent again", "spans_dropped", q.lost)
		q.failing, q.lost = false, 0
	}
	return nil
}

// Shutdown implements sdk.SpanExporter.
func (e exporter) Shutdown(ctx context.Context) error { return e.q.next.Shutdown(ctx) }
