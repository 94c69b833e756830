package balancer

import (
	"net/http"
	"strings"

	"stoker/internal/http1"
)

// measure begins to count the tokens of an answer that has some: a stream of
// events, or a JSON document, that nobody has compressed.
func (a *attempt) measure(r *http1.Response) {
	j := &a.journey
	if j.l == nil || !j.l.rules.CountTokens || j.b.tokens == nil || r.Status != http.StatusOK || first(r.Fields, "Content-Encoding") != "" {
		return
	}
	kind, _, _ := strings.Cut(first(r.Fields, "Content-Type"), ";")
	switch strings.ToLower(strings.TrimSpace(kind)) {
	case "text/event-stream":
		a.meter.Begin(true)
	case "application/json":
		a.meter.Begin(false)
	}
}

// countTokens adds what was counted, if anything.
func (j *journey) countTokens() {
	c, ok := j.a.meter.End()
	if !ok {
		return
	}
	model := ""
	if ahead := &j.a.ahead; ahead.asked && ahead.err == nil {
		model = ahead.value.Text
	}
	j.b.tokens.Observe(j.l.pool.Name(), model, j.x.Record.Start, &c)
}
