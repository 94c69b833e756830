package exchange

import "time"

// A small request passes within some microseconds, in which five want to know the
// time: the recorder as an attempt begins and ends, the transport as it takes a
// connection and puts it back, the front at the end. To look at the clock for each was
// a fiftieth of all that such a request cost. So what is known of the time holds until
// something is waited for:
//
//	known by                                      until
//	Start, as the head has come                   there is a wait for the body, a place, or an attempt before: see Departure
//	Hold, as the answer's head, then its end came  anything more is read, or the client is written to: see Now
//
// Both are what one goroutine knows, that which carries the request.

// Departure is the time as an attempt begins.
func (x *Exchange) Departure() time.Time {
	if r := &x.Record; x.Here && r.Queued == 0 && r.Attempts <= 1 && !r.Start.IsZero() {
		return r.Start
	}
	return time.Now()
}

// Hold says that it is now, until Waits.
func (r *Record) Hold(now time.Time) { r.now = now }

// Waits says that what follows may take time.
func (r *Record) Waits() { r.now = time.Time{} }

// Now is the time.
func (r *Record) Now() time.Time {
	if r.now.IsZero() {
		return time.Now()
	}
	return r.now
}
