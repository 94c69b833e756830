package tracing

import (
	"strings"

	"go.opentelemetry.io/otel/trace"
)

// Names of the fields of W3C Trace Context.
const (
	ParentField = "traceparent"
	StateField  = "tracestate"
)

// Parent is what a request says of the trace that it belongs to; the zero value:
// nothing, or nothing that is valid.
type Parent struct {
	Traceparent, Tracestate string
}

// ReadParent judges both fields by W3C Trace Context: a traceparent that is none
// takes the tracestate with it, a tracestate that is none goes alone.
func ReadParent(traceparent, tracestate string) Parent {
	if !isTraceparent(traceparent) {
		return Parent{}
	}
	if tracestate != "" {
		if _, err := trace.ParseTraceState(tracestate); err != nil {
			tracestate = ""
		}
	}
	return Parent{traceparent, tracestate}
}

// traceparentLength is that of version 00: version, trace, parent, flags.
const traceparentLength = 2 + 1 + 32 + 1 + 16 + 1 + 2

// isTraceparent checks the form of version 00, with which those of later versions
// begin, and that neither id is all zeros.
func isTraceparent(s string) bool {
	switch {
	case len(s) < traceparentLength, s[2] != '-', s[35] != '-', s[52] != '-',
		!isHex(s[:2]), !isHex(s[3:35]), !isHex(s[36:52]), !isHex(s[53:55]),
		s[:2] == "ff", isZero(s[3:35]), isZero(s[36:52]):
		return false
	case len(s) == traceparentLength:
		return true
	}
	return s[:2] != "00" && s[traceparentLength] == '-'
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

func isZero(s string) bool {
	for i := range len(s) {
		if s[i] != '0' {
			return false
		}
	}
	return true
}

// context is the parent as the library has it; it was found valid. Of the flags
// only that of sampling means something to us.
func (p Parent) context() trace.SpanContext {
	id, err := trace.TraceIDFromHex(p.Traceparent[3:35])
	if err != nil {
		return trace.SpanContext{}
	}
	span, err := trace.SpanIDFromHex(p.Traceparent[36:52])
	if err != nil {
		return trace.SpanContext{}
	}
	// Found valid as well. A copy: it views a connection's buffer, and spans live on.
	state, _ := trace.ParseTraceState(strings.Clone(p.Tracestate))
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: id, SpanID: span, TraceState: state, Remote: true,
		TraceFlags: trace.TraceFlags(unhex(p.Traceparent[54]) & 1),
	})
}

func unhex(c byte) byte {
	if c >= 'a' {
		return c - 'a' + 10
	}
	return c - '0'
}

// childOf is what is said of a span to whoever is asked next.
func childOf(c trace.SpanContext) Parent {
	flags := "-00"
	if c.IsSampled() {
		flags = "-01"
	}
	return Parent{
		Traceparent: "00-" + c.TraceID().String() + "-" + c.SpanID().String() + flags,
		Tracestate:  c.TraceState().String(),
	}
}
