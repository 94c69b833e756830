package balancer

import (
	"net/http"
	"strings"

	"stoker/balancer/continuation"
	"stoker/internal/http1"
	"stoker/upstream"
)

// open looks at the head of an answer. How a stream of tokens ends is watched: both
// of OpenAI's clients take a clean end for success, so that of an engine that
// dies politely must not be passed on as one. A body whose length was said
// beforehand is whole when that has come.
func (a *attempt) open(r *http1.Response, length int64) (*http1.Response, error) {
	q := &a.x.Request
	if length >= 0 || r.Status != http.StatusOK || q.Method != http.MethodPost || !continuation.Concerns(q.Target) || !isEvents(r.Fields) {
		return r, nil
	}
	packed, err := plainly(r.Fields)
	if err != nil {
		a.fault = unreadable()
		return nil, err
	}
	if packed {
		a.packing, r = newUnpacker(plainSink(a.write)), withoutCoding(r)
	}
	if a.ending == nil {
		a.ending = new(continuation.Ending)
	}
	a.ending.Begin()
	a.ends = true
	return r, nil
}

// whole is how an attempt has ended, if its answer lacks its end.
func (a *attempt) whole(err error) error {
	a.packing.close()
	if a.fault == nil {
		return err
	}
	return a.fault
}

// cutShort is how an attempt has failed whose stream ended without its end.
func cutShort() error {
	return &upstream.Failure{Op: upstream.OpRead, Sent: true, Begun: true, Err: continuation.ErrEnded}
}

// isEvents says whether an answer is a stream of events.
func isEvents(fields http1.Fields) bool {
	kind, _, _ := strings.Cut(fields.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(kind), "text/event-stream")
}
