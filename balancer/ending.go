package balancer

import (
	"net/http"
	"strings"

	"stoker/balancer/continuation"
	"stoker/internal/http1"
	"stoker/upstream"
)

// watchEnd begins to look at how an answer ends that is a stream of tokens: both
// of OpenAI's clients take a clean end for success, so that of an engine that
// dies politely must not be passed on as one. A body whose length was said
// beforehand is whole when that has come, and what an engine has compressed
// cannot be looked into.
func (a *attempt) watchEnd(r *http1.Response, length int64) {
	q := &a.x.Request
	if length >= 0 || r.Status != http.StatusOK || q.Method != http.MethodPost || !continuation.Concerns(q.Target) || !isEvents(r.Fields) {
		return
	}
	if a.ending == nil {
		a.ending = new(continuation.Ending)
	}
	a.ending.Begin()
	a.ends = true
}

// whole is how an attempt has ended, if its answer lacks its end.
func (a *attempt) whole(err error) error {
	if !a.short {
		return err
	}
	return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: continuation.ErrEnded}
}

// isEvents says whether an answer is a stream of events that can be read.
func isEvents(fields http1.Fields) bool {
	kind, _, _ := strings.Cut(fields.Get("Content-Type"), ";")
	coding := fields.Get("Content-Encoding")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") && (coding == "" || strings.EqualFold(coding, "identity"))
}
