package front

import (
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"

	"stoker/exchange"
)

// What net/http serves of HTTP/2 is bounded at any moment: streams that are open,
// a head with its CONTINUATIONs, answers to PING and SETTINGS that wait to be
// written. How often it can be had is not: a client that asks and cancels a
// thousand times a second has a thousand requests begin at the engines, though
// never more than a few at a time, and one that sends nothing but PINGs keeps
// us busy for ever. So each connection has two allowances; who has used up either
// is told ENHANCE_YOUR_CALM and closed:
//
//	             costs one each                            comes back
//	idleFrames   a frame that carries nothing of a         with time, and some with
//	             request: PING, SETTINGS, PRIORITY,        each frame of an answer,
//	             RST_STREAM, WINDOW_UPDATE, empty DATA,    which clients may answer
//	             CONTINUATION, of unknown kinds; and a     by PING and WINDOW_UPDATE
//	             RST_STREAM of ours
//	resets       a request that is reset within resetSoon  with time, and one with
//	             of its beginning, by the client or for    each request that is
//	             what it did wrong                         answered whole
const (
	idleFrames          = 2000
	idleFramesPerSecond = 100
	idleFramesPerFrame  = 4
	// idleFramesAhead is how much more than idleFrames may have come back: what we
	// write is ahead of what its client says to it, by the windows that it has.
	idleFramesAhead = 1 << 18

	// resets is at least maxStreams: a client may leave all of its requests at once.
	resets          = 2 * maxStreams
	resetsPerSecond = 20
	resetSoon       = time.Second
)

var errFlood = errors.New("too many frames that ask for nothing, or requests that are cancelled as soon as they are made")

// allowance is spent by one goroutine or several, and comes back with time.
type allowance struct {
	limit, perSecond int64
	ahead            int64        // how much more than limit may come back
	spent            atomic.Int64 // less than 0: that much is ahead
	since            atomic.Int64 // by when time has been credited, in nanoseconds of the clock below
}

// clock counts nanoseconds since the program began.
var clockBegan = time.Now()

func clock() int64 { return int64(time.Since(clockBegan)) }

// spend takes one, and says whether it was there.
func (a *allowance) spend() bool {
	if a.spent.Add(1) <= a.limit {
		return true
	}
	now := clock()
	since := a.since.Swap(now)
	a.giveBack((now - since) * a.perSecond / int64(time.Second))
	return a.within()
}

func (a *allowance) within() bool { return a.spent.Load() <= a.limit }

// giveBack makes up for what was spent, or will be.
func (a *allowance) giveBack(n int64) {
	if left := a.spent.Add(-n); left < -a.ahead {
		a.spent.Add(-a.ahead - left)
	}
}

// floodWatch follows the frames of one connection's client.
type floodWatch struct {
	frames, resets allowance
	told           atomic.Bool

	// Used by who reads alone.
	head [frameHead]byte
	got  int // of head
	left int // of the frame's rest, or of the preface
}

func (f *floodWatch) begin() {
	f.frames = allowance{limit: idleFrames, perSecond: idleFramesPerSecond, ahead: idleFramesAhead}
	f.resets = allowance{limit: resets, perSecond: resetsPerSecond}
	f.frames.since.Store(clock())
	f.resets.since.Store(clock())
	f.left = len(preface)
}

// follow takes what was read, and says whether it is still within the allowance.
func (f *floodWatch) follow(p []byte) bool {
	well := true
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			f.left -= n
			p = p[n:]
			continue
		}
		n := copy(f.head[f.got:], p)
		f.got += n
		p = p[n:]
		if f.got < frameHead {
			break
		}
		f.got = 0
		f.left = int(f.head[0])<<16 | int(f.head[1])<<8 | int(f.head[2])
		if isIdle(http2.FrameType(f.head[3]), http2.Flags(f.head[4]), f.left) {
			well = f.frames.spend() && well
		}
	}
	return well && f.frames.within()
}

// isIdle says whether a frame carries nothing of a request.
func isIdle(kind http2.FrameType, flags http2.Flags, length int) bool {
	if kind == http2.FrameData {
		return (length == 0 || flags.Has(http2.FlagDataPadded)) && !flags.Has(http2.FlagDataEndStream)
	}
	if kind == http2.FrameSettings {
		return !flags.Has(http2.FlagSettingsAck) // net/http takes no more of these than were asked for
	}
	return kind != http2.FrameHeaders // whose stream counts
}

// wrote is told of each frame that is written to the client.
func (f *floodWatch) wrote(kind http2.FrameType) {
	if kind == http2.FrameData || kind == http2.FrameHeaders {
		f.frames.giveBack(idleFramesPerFrame)
	}
	if kind == http2.FrameRSTStream { // most often of a stream that net/http has refused
		f.frames.spend()
	}
}

// judge notes how a request of HTTP/2 has ended, and ends the connection of a
// client that cancels too many.
func (q *stream) judge(whole bool) {
	c := q.conn
	switch {
	case whole:
		c.flood.resets.giveBack(1)
	case q.from.Context().Err() == nil && q.Record.Outcome != exchange.OutcomeClientGone, q.Record.End.Sub(q.Record.Start) >= resetSoon:
	case !c.flood.resets.spend():
		c.calm()
	}
}

// calm ends a connection whose client asks for too much. What it has in flight ends with it.
func (c *conn) calm() {
	if !c.flood.told.CompareAndSwap(false, true) {
		return
	}
	c.front.observeRefusal(c, errFlood, time.Now())
	if c.farewell.mu.TryLock() { // a client that does not read is not waited for
		if c.farewell.between() {
			c.farewell.said = true
			_, _ = c.wire.Write(beCalm) // it may have gone
		}
		c.farewell.mu.Unlock()
	}
	c.Abort()
}

// beCalm is GOAWAY with ENHANCE_YOUR_CALM, and the highest stream there can be:
// which one was the last to be begun, net/http alone knows.
var beCalm = []byte{0, 0, 8, byte(http2.FrameGoAway), 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, byte(http2.ErrCodeEnhanceYourCalm)}
