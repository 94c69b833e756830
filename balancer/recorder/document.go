package recorder

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Exchange is what was recorded of one request and its answer, without
// secrets, for people and programs.
type Exchange struct {
	ID string `json:"id"`
	// Seq counts the exchanges of a master from 1; it stays when the next one
	// takes over what was recorded.
	Seq    uint64     `json:"seq"`
	Client string     `json:"client,omitempty"`
	Start  time.Time  `json:"start"`
	First  *time.Time `json:"first_byte,omitempty"`
	// End is nil while the exchange is in flight.
	End *time.Time `json:"end,omitempty"`

	Pool string `json:"pool,omitempty"`
	// Worker is the last one that had it.
	Worker   string    `json:"worker,omitempty"`
	Attempts []Attempt `json:"attempts,omitempty"`

	Request  Request   `json:"request"`
	Response *Response `json:"response,omitempty"`
	// Status as the client was told, 499 if it went away first, 0 before that is known.
	Status  int    `json:"status,omitempty"`
	Outcome string `json:"outcome,omitempty"`
	Error   string `json:"error,omitempty"`
}

// Attempt is one upstream's share.
type Attempt struct {
	Worker string     `json:"worker"`
	Start  time.Time  `json:"start"`
	End    *time.Time `json:"end,omitempty"`
	// Fault: the worker had something of the request and failed by itself.
	Fault bool   `json:"fault,omitempty"`
	Error string `json:"error,omitempty"`
}

// Request is the request as it was sent on.
type Request struct {
	Method    string  `json:"method"`
	Target    string  `json:"target"`
	Authority string  `json:"authority,omitempty"`
	Scheme    string  `json:"scheme,omitempty"`
	Proto     string  `json:"proto,omitempty"`
	Fields    []Field `json:"fields"`
	Body      Body    `json:"body"`
	// Unfinished: the client had not sent all of the body.
	Unfinished bool `json:"unfinished,omitempty"`
}

// Response is the answer as far as it had come.
type Response struct {
	Status int     `json:"status"`
	Fields []Field `json:"fields"`
	Body   Body    `json:"body"`
}

// Field is a header field.
type Field struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Body is what was kept of a body: all of it, or its head and tail.
type Body struct {
	// Size of the whole in bytes, as far as it had come.
	Size int64 `json:"size"`
	// Omitted is how many bytes between Head and Tail were not kept.
	Omitted int64 `json:"omitted,omitempty"`
	// Base64: Head and Tail are encoded, since they are no text.
	Base64 bool   `json:"base64,omitempty"`
	Head   string `json:"head,omitempty"`
	Tail   string `json:"tail,omitempty"`
	// Redacted is how many secrets were replaced.
	Redacted int `json:"redacted,omitempty"`
}

// Bytes is the body as it was kept, and whether that is all of it.
func (b *Body) Bytes() (content []byte, whole bool) {
	head, tail := []byte(b.Head), []byte(b.Tail)
	if b.Base64 {
		head, _ = base64.StdEncoding.DecodeString(b.Head) // our own
		tail, _ = base64.StdEncoding.DecodeString(b.Tail)
	}
	return append(head, tail...), b.Omitted == 0
}

// Filter chooses exchanges; the zero value all of them.
type Filter struct {
	// Worker had an attempt at it.
	Worker string
	// ID of the request.
	ID string
	// Bodies: with what was kept of them; else their sizes alone.
	Bodies bool
}

// Exchanges are copies of what is kept and matches, in the order of their
// beginnings, those that were told by another recorder among them.
func (r *Recorder) Exchanges(f Filter) []Exchange {
	return r.collect(f.Bodies, func(rec *Recording) bool {
		return (f.Worker == "" || rec.tried(f.Worker)) && (f.ID == "" || rec.id() == f.ID)
	})
}

// deathNotice is how long before an engine's exit its connections may have
// broken: a device that is slow to let go holds the process for seconds.
const deathNotice = 5 * time.Second

// Suspects are copies of the exchanges that a worker had when its engine ended
// at a time: those in flight on it, and those that it had just failed.
func (r *Recorder) Suspects(worker string, at time.Time) []Exchange {
	return r.collect(true, func(rec *Recording) bool {
		if rec.foreign {
			return false // whoever carried it tells of it
		}
		for i := range rec.attempts {
			if a := &rec.attempts[i]; a.worker == worker && a.suspect(at.Sub(rec.start)) {
				rec.suspected()
				return true
			}
		}
		return false
	})
}

// suspect says whether the engine that ended then may have died of it.
func (a *attempt) suspect(at time.Duration) bool {
	switch {
	case a.start > at:
		return false
	case a.end == 0:
		return true
	default:
		// Some engines answer 500 to all they have before they exit by themselves.
		return a.end > at-deathNotice && (a.fault || a.status >= 500)
	}
}

func (r *Recorder) collect(bodies bool, match func(*Recording) bool) []Exchange {
	if r == nil {
		return nil
	}
	var found []Exchange
	for _, h := range r.held() {
		if x, ok := h.read(bodies, match); ok {
			found = append(found, x.document(r))
		}
	}
	slices.SortFunc(found, func(a, b Exchange) int { return cmp.Or(a.Start.Compare(b.Start), cmp.Compare(a.Seq, b.Seq)) })
	return found
}

// held is a recording as it was found in the lists; by the time it is read it
// may be another's.
type held struct {
	rec *Recording
	seq uint64
}

func (r *Recorder) held() []held {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []held
	for _, l := range []*list{&r.ended, &r.inFlight} {
		for rec := l.first; rec != nil; rec = rec.next {
			all = append(all, held{rec, rec.seq.Load()})
		}
	}
	return all
}

// raw is a copy of a recording, made under its lock; what takes time is done after.
type raw struct {
	Exchange
	head, answer         []byte
	request, response    [2][]byte
	told                 []byte // by another recorder; then it is all there is
	lostSent, lostBack   int64
	requestSize, gotSize int64
	answered             bool
}

func (h held) read(bodies bool, match func(*Recording) bool) (x raw, ok bool) {
	rec := h.rec
	rec.mu.Lock()
	defer rec.mu.Unlock()
	if rec.seq.Load() != h.seq || !rec.begun || !match(rec) {
		return x, false
	}
	if rec.foreign {
		x.told = rec.inherited(bodies)
		return x, len(x.told) > 0
	}
	l, arena := rec.recorder.bodies, &rec.recorder.arena
	x.head = rec.heads.append(arena, nil, 0, rec.split)
	x.answer = rec.heads.append(arena, nil, rec.split, rec.heads.size-rec.split)
	x.requestSize, x.gotSize, x.answered = rec.request.size, rec.response.size, rec.status != 0 && len(x.answer) > 0
	if bodies {
		x.request[0], x.request[1], x.lostSent = rec.request.parts(arena, l)
		x.response[0], x.response[1], x.lostBack = rec.response.parts(arena, l)
	} else {
		x.lostSent, x.lostBack = rec.request.size, rec.response.size
	}
	x.Seq, x.Start, x.First, x.End = h.seq, rec.start, stamp(rec.first), stamp(rec.end)
	x.Pool, x.Status, x.Outcome, x.Error = rec.pool, rec.status, string(rec.outcome), rec.failure
	x.Request.Unfinished = !rec.whole
	for _, a := range rec.attempts {
		tried := Attempt{Worker: a.worker, Start: rec.start.Add(a.start), Fault: a.fault, Error: a.failure}
		if a.end != 0 {
			tried.End = stamp(rec.start.Add(a.end))
		}
		x.Attempts = append(x.Attempts, tried)
		x.Worker = a.worker
	}
	return x, true
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// document gives a copy its form, and takes the secrets out.
func (x *raw) document(r *Recorder) Exchange {
	if x.told != nil {
		return r.inheritance(x.told)
	}
	lines := strings.SplitN(string(x.head), "\n", headLines+1)
	for len(lines) < headLines+1 {
		lines = append(lines, "") // cut
	}
	d := x.Exchange
	d.ID, d.Client = lines[0], lines[1]
	d.Request.Proto, d.Request.Scheme, d.Request.Authority = protoName(lines[2]), lines[3], lines[4]
	d.Request.Method, d.Request.Target = lines[5], r.redact.target(lines[6])
	d.Request.Fields = r.fields(lines[headLines])
	d.Request.Body = r.body(x.requestSize, x.request, x.lostSent)
	if x.answered {
		status, rest, _ := strings.Cut(string(x.answer), "\n")
		code, _ := strconv.Atoi(status)
		d.Response = &Response{Status: code, Fields: r.fields(rest), Body: r.body(x.gotSize, x.response, x.lostBack)}
	}
	return d
}

func protoName(number string) string {
	switch number {
	case "10":
		return "HTTP/1.0"
	case "20":
		return "HTTP/2.0"
	default:
		return "HTTP/1.1"
	}
}

func (r *Recorder) fields(text string) []Field {
	fields := []Field{}
	for line := range strings.Lines(text) {
		name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		if !ok {
			continue
		}
		redacted, _ := r.redact.Text([]byte(value))
		fields = append(fields, Field{Name: name, Value: string(redacted)})
	}
	return fields
}

func (r *Recorder) body(size int64, parts [2][]byte, omitted int64) Body {
	b := Body{Size: size, Omitted: omitted}
	head, tail := parts[0], parts[1]
	if omitted == 0 {
		// One piece: a secret may lie across the two.
		head, tail = append(head, tail...), nil
	} else {
		had := len(head) + len(tail)
		head, tail = trimCut(head, tail)
		b.Omitted += int64(had - len(head) - len(tail))
	}
	var n, m int
	head, n = r.redact.Text(head)
	tail, m = r.redact.Text(tail)
	b.Redacted = n + m
	if b.Base64 = !utf8.Valid(head) || !utf8.Valid(tail); b.Base64 {
		b.Head, b.Tail = encode(head), encode(tail)
	} else {
		b.Head, b.Tail = string(head), string(tail)
	}
	return b
}

func encode(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

// id is the request's: the head's first line, which fits into a block.
func (rec *Recording) id() string {
	if rec.split == 0 {
		return ""
	}
	line, _, _ := bytes.Cut(rec.recorder.arena.room(rec.heads.first)[:min(rec.split, blockRoom)], []byte{'\n'})
	return string(line)
}

// tried says whether a worker has had the exchange; "" means that none has.
func (rec *Recording) tried(worker string) bool {
	for i := range rec.attempts {
		if rec.attempts[i].worker == worker {
			return true
		}
	}
	return false
}
