package recorder

import (
	"encoding/json"
	"time"
)

// What a generation of the master has recorded outlives it: it tells the next
// one, a Told for each exchange, through a Handover here and an Heir there. What
// is told holds no secret that the teller would not have shown, and is a contract
// between versions: the same document that operators get.

// Told is an exchange as one recorder tells it to another.
type Told struct {
	// Key names it among the teller's. A later one of the same key replaces one
	// that was in flight.
	Key uint64 `json:"key"`
	// Exchange is the document; its End is nil while it is in flight.
	Exchange json.RawMessage `json:"exchange"`
}

// maxTold is the longest document that is told with its bodies.
const maxTold = 4 << 20

// Handover tells what a recorder holds: each exchange when it is first seen,
// when another worker has been given it, and when it has ended. One goroutine at
// a time may use it; a nil one, as a nil Recorder gives, has nothing to tell.
type Handover struct {
	recorder *Recorder
	told     map[uint64]progress
}

// progress is how far an exchange had come.
type progress struct {
	attempts int
	ended    bool
}

// Handover begins to tell.
func (r *Recorder) Handover() *Handover {
	if r == nil {
		return nil
	}
	return &Handover{recorder: r, told: map[uint64]progress{}}
}

// Next is what has not been told yet, what has ended before what is in flight:
// about limit bytes of it, or what can be made ready in patience, but at least
// one. more: that was not all.
func (h *Handover) Next(limit int, patience time.Duration) (news []Told, more bool) {
	if h == nil {
		return nil, false
	}
	over := time.Now().Add(patience)
	size := 0
	present := map[uint64]progress{}
	for _, one := range h.recorder.held() {
		now, ok := one.progress()
		if !ok {
			continue
		}
		before, was := h.told[one.seq]
		if was {
			present[one.seq] = before
		}
		if was && before == now {
			continue
		}
		if len(news) > 0 && (size >= limit || time.Now().After(over)) {
			more = true
			continue
		}
		if told, ok := h.recorder.tell(one); ok {
			news = append(news, told)
			size += len(told.Exchange)
		}
		present[one.seq] = now
	}
	h.told = present // of those that are gone nobody asks again
	return news, more
}

// progress is how far it has come now; false: it is another's already.
func (h held) progress() (progress, bool) {
	h.rec.mu.Lock()
	defer h.rec.mu.Unlock()
	return progress{attempts: len(h.rec.attempts), ended: !h.rec.end.IsZero()}, h.rec.seq.Load() == h.seq && h.rec.begun
}

func (r *Recorder) tell(h held) (Told, bool) {
	x, ok := h.read(true, func(*Recording) bool { return true })
	if !ok {
		return Told{}, false
	}
	d := x.document(r)
	text, err := json.Marshal(&d)
	if err == nil && len(text) > maxTold {
		d.dropBodies()
		text, err = json.Marshal(&d)
	}
	return Told{Key: h.seq, Exchange: text}, err == nil && len(text) <= maxTold
}

// dropBodies leaves their sizes.
func (x *Exchange) dropBodies() {
	x.Request.Body.drop()
	if x.Response != nil {
		response := *x.Response // others may have the same
		response.Body.drop()
		x.Response = &response
	}
}

func (b *Body) drop() { *b = Body{Size: b.Size, Omitted: b.Size} }

// Heir takes what another recorder tells. One goroutine at a time may use it; a
// nil one, as a nil Recorder gives, takes nothing.
type Heir struct {
	recorder *Recorder
	flying   map[uint64]*Recording // by key
}

// Heir begins to take.
func (r *Recorder) Heir() *Heir {
	if r == nil {
		return nil
	}
	return &Heir{recorder: r, flying: map[uint64]*Recording{}}
}

// Take keeps what is told, by this recorder's own bounds. What it cannot read it
// leaves out.
func (h *Heir) Take(t Told) {
	if h == nil {
		return
	}
	var x Exchange
	if json.Unmarshal(t.Exchange, &x) != nil {
		return
	}
	h.keep(t.Key, &x, t.Exchange)
}

// End says that nothing more will be told: how what was in flight ended is not known.
func (h *Heir) End() {
	if h == nil {
		return
	}
	now := time.Now()
	for key, rec := range h.flying {
		var x Exchange
		rec.mu.Lock()
		text := rec.inherited(true)
		rec.mu.Unlock()
		if json.Unmarshal(text, &x) != nil {
			continue
		}
		x.End, x.Outcome = &now, "unknown"
		x.Error = "the generation of the master that carried it has gone and did not say how it ended"
		if text, err := json.Marshal(&x); err == nil {
			h.keep(key, &x, text)
		}
	}
}

// keep writes a document into a recording, in the place of what was told of it before.
func (h *Heir) keep(key uint64, x *Exchange, text []byte) {
	r := h.recorder
	rec := h.flying[key]
	if rec == nil {
		r.mu.Lock()
		rec = r.newLocked()
		r.inFlight.add(rec)
		r.mu.Unlock()
		h.flying[key] = rec
	}
	rec.inherit(x, text)
	if x.End != nil {
		delete(h.flying, key)
		r.conclude(rec, x.Worker, time.Now())
	}
}

// inherit fills a recording with another recorder's document: its id, then
// what is asked for without bodies, then all of it.
func (rec *Recording) inherit(x *Exchange, text []byte) {
	brief := *x
	brief.dropBodies()
	short, err := json.Marshal(&brief)
	if err != nil {
		return
	}
	rec.mu.Lock()
	defer rec.mu.Unlock()
	a := &rec.recorder.arena
	rec.release(func(c *chain) { rec.reserve.prepend(a, c) })
	rec.begun, rec.foreign, rec.start = true, true, x.Start
	if x.End != nil {
		rec.end = *x.End
	}
	for i := range x.Attempts {
		rec.attempts = append(rec.attempts, attempt{worker: x.Attempts[i].Worker, fault: x.Attempts[i].Fault})
	}
	head := append([]byte(x.ID), '\n')
	rec.split = int64(len(head))
	rec.keepWhole(&rec.heads, append(head, short...))
	rec.keepWhole(&rec.request.head, text)
}

// keepWhole keeps all of a text, or nothing.
func (rec *Recording) keepWhole(c *chain, text []byte) {
	if rec.extend(c, text, int64(len(text))) < len(text) {
		rec.reserve.prepend(&rec.recorder.arena, c)
	}
}

// inherited is the document that was told; empty where there was no room for it.
func (rec *Recording) inherited(bodies bool) []byte {
	a := &rec.recorder.arena
	if bodies && rec.request.head.size > 0 {
		return rec.request.head.bytes(a)
	}
	return rec.heads.append(a, nil, rec.split, rec.heads.size-rec.split)
}

// inheritance gives such a document its form, and takes out what is secret here.
func (r *Recorder) inheritance(text []byte) Exchange {
	var x Exchange
	if err := json.Unmarshal(text, &x); err != nil {
		x.Error = "what the generation before told cannot be read: " + err.Error() // it could when it came
	}
	x.Request.Target = r.redact.target(x.Request.Target)
	r.redactMessage(x.Request.Fields, &x.Request.Body)
	if x.Response != nil {
		r.redactMessage(x.Response.Fields, &x.Response.Body)
	}
	return x
}

func (r *Recorder) redactMessage(fields []Field, b *Body) {
	for i := range fields {
		if f := &fields[i]; r.redact.secretField(f.Name) {
			f.Value = Redacted
		} else {
			f.Value = r.redact.string(f.Value, nil)
		}
	}
	if !b.Base64 {
		b.Head, b.Tail = r.redact.string(b.Head, &b.Redacted), r.redact.string(b.Tail, &b.Redacted)
	}
}
