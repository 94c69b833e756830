package main

import (
	"context"
	"reflect"
	"time"

	"stoker/balancer/tracing"
	"stoker/config"
)

// tracingFlush bounds the sending of the last spans: at the end, and of what a
// reload has replaced.
const tracingFlush = 3 * time.Second

// tracingNow is the tracer in use, nil for none, and what it was made by.
type tracingNow struct {
	tracer  *tracing.Tracer
	by      config.Tracing
	metrics *tracing.Metrics
}

// traceBy goes by what the configuration says of traces: the same tracer as long
// as that stays the same. The last one of a reload ends in the background, since
// its collector may not answer.
func (m *master) traceBy(cfg *config.Config) *tracing.Tracer {
	now := &m.tracing
	if reflect.DeepEqual(now.by, cfg.Tracing) {
		return now.tracer
	}
	before := now.tracer
	now.by = cfg.Tracing
	now.tracer = tracing.New(tracing.Options{
		Endpoint: cfg.Tracing.URL(), Headers: cfg.Tracing.Headers, Ratio: cfg.Tracing.SampleRatio,
		OnlyTrusted: cfg.Tracing.Parents == config.ParentsTrusted, Service: cfg.Tracing.Service, Version: version,
		Metrics: now.metrics, Log: m.log.Named("tracing"),
	})
	if before != nil {
		m.jobs.Go(func() { flushTraces(before) })
	}
	return now.tracer
}

// endTracing sends what waits. Requests have ended by now.
func (m *master) endTracing() {
	m.changing.Lock()
	defer m.changing.Unlock()
	flushTraces(m.tracing.tracer)
}

func flushTraces(t *tracing.Tracer) {
	ctx, cancel := context.WithTimeout(context.Background(), tracingFlush)
	defer cancel()
	t.Close(ctx)
}
