package guard

import (
	"strconv"
	"strings"
	"time"
	"unsafe"

	"stoker/internal/http1"
)

// What clients are told of their limits: RateLimit and RateLimit-Policy as in
// draft-ietf-httpapi-ratelimit-headers-10, with one policy for each number of a
// limit, and for the many clients that know those of earlier drafts
// RateLimit-Limit, -Remaining and -Reset of the tightest.

// describe is the limit's part of RateLimit-Policy. Names are of characters
// that need no escapes.
func (l *limiter) describe() string {
	var parts []string
	w := strconv.Itoa(seconds(l.Window))
	if l.Requests > 0 {
		parts = append(parts, `"`+l.Name+`";q=`+strconv.Itoa(l.Requests)+`;w=`+w)
	}
	if l.InFlight > 0 {
		parts = append(parts, `"`+l.Name+`-in-flight";q=`+strconv.Itoa(l.InFlight)+`;qu="concurrent-requests"`)
	}
	if l.Bytes > 0 {
		parts = append(parts, `"`+l.Name+`-bytes";q=`+strconv.FormatInt(l.Bytes, 10)+`;qu="content-bytes";w=`+w)
	}
	return strings.Join(parts, ", ")
}

// appendLimits adds the fields of all limits that concern the request. They
// view p.text, which therefore must be written to its end first.
func (p *Pass) appendLimits(fields http1.Fields) http1.Fields {
	b := p.text
	tight := p.tightest()
	marks := [6]int{len(b)}
	for i := range p.holds {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = append(b, p.holds[i].limiter.policy...)
	}
	marks[1] = len(b)
	for i := range p.holds {
		if i > 0 {
			b = append(b, ", "...)
		}
		b = p.holds[i].append(b)
	}
	marks[2] = len(b)
	b = itoa(b, tight.limit)
	marks[3] = len(b)
	b = itoa(b, tight.left)
	marks[4] = len(b)
	b = itoa(b, wholeSeconds(tight.in))
	marks[5] = len(b)
	p.text = b
	for i, name := range [...]string{"RateLimit-Policy", "RateLimit", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"} {
		fields = append(fields, http1.Field{Name: name, Value: view(b[marks[i]:marks[i+1]])})
	}
	return fields
}

// append adds the hold's part of RateLimit.
func (h *hold) append(b []byte) []byte {
	l, first := h.limiter, true
	part := func(suffix string, left int64) {
		if !first {
			b = append(b, ", "...)
		}
		first = false
		b = append(b, '"')
		b = append(b, l.Name...)
		b = append(b, suffix...)
		b = append(b, `";r=`...)
		b = itoa(b, left)
	}
	if l.Requests > 0 {
		part("", h.requests)
		b = itoa(append(b, ";t="...), wholeSeconds(h.requestsIn))
	}
	if l.InFlight > 0 {
		part("-in-flight", h.inFlight)
	}
	if l.Bytes > 0 {
		part("-bytes", h.bytes)
		b = itoa(append(b, ";t="...), wholeSeconds(h.bytesIn))
	}
	return b
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

// measure is one number of one limit.
type measure struct {
	limit, left int64
	in          time.Duration
}

// tightest is the measure of requests of which the smallest part is left, since
// clients take RateLimit-Limit for one of requests; where none counts these, of
// requests in flight, then of bytes.
func (p *Pass) tightest() measure {
	var best measure
	found := 0 // how well
	consider := func(rank int, m measure) {
		if rank > found || rank == found && m.left*best.limit < best.left*m.limit {
			best, found = m, rank
		}
	}
	for i := range p.holds {
		h := &p.holds[i]
		l := h.limiter
		if l.Requests > 0 {
			consider(3, measure{int64(l.burst()), h.requests, h.requestsIn})
		}
		if l.InFlight > 0 {
			consider(2, measure{int64(l.InFlight), h.inFlight, 0})
		}
		if l.Bytes > 0 {
			consider(1, measure{l.Bytes, h.bytes, h.bytesIn})
		}
	}
	return best
}

// view is p as a string, for as long as nobody writes to it.
func view(p []byte) string {
	return unsafe.String(unsafe.SliceData(p), len(p)) //nolint:gosec // G103: AppendFields says how long its fields are good
}
