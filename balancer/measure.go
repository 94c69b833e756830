package balancer

import (
	"net/http"
	"strings"

	"stoker/balancer/tokens"
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
	model := ""
	if ahead := &j.a.ahead; ahead.asked && ahead.err == nil {
		model = ahead.value.Text
	}
	if ok {
		j.b.tokens.Observe(j.l.pool.Name(), model, j.x.Record.Start, &c)
	}
	r := &j.x.Record
	if len(r.Moves) == 0 && r.NotMoved == "" {
		return
	}
	if model == "" {
		model = c.Model
	}
	if model == "" && j.s != nil { // they are not counted
		model = j.s.events.Model()
	}
	r.Model = j.b.tokens.ObserveMoves(j.l.pool.Name(), model, tokens.Moves{Moved: len(r.Moves), Broken: r.NotMoved != "", Replayed: r.ReplayedEvents})
}
