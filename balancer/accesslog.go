package balancer

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"stoker/exchange"
)

// maxLogged is how much of a client's text (path, method) goes into a line.
const maxLogged = 2048

// AccessLog writes one line for each request, when it has ended:
//
//	time=2026-01-02T15:04:05.000Z id=… client=… method=POST path=/v1/chat/completions status=200 bytes=512 route=chat pool=chat worker=chat-0 attempts=1 ttfb=0.021000 duration=1.500000 outcome=ok error=-
//
// or the same as a JSON object, or what it has in common with other servers' in
// Apache's form (combined.go). Times are in seconds; ttfb, the time to the
// answer's head, is "-" (null) when none was sent. That of a WebSocket (status 101)
// also has bytes_in, behind bytes; that of a compressed answer encoding and bytes_plain, its
// length before. Of the target only the path is
// logged: queries may hold secrets. Requests with an API key have key=NAME behind client.
// A stream whose worker failed it has migrated=N behind attempts, how often it
// went on, and if it then did not, not_migrated=REASON.
//
// What was refused before it was a request has a line of its own, without
// method and path, up to maxRefusals in a second: anybody can send garbage as
// fast as he likes. The next line says how many had none.
type AccessLog struct {
	w        io.Writer
	line     func([]byte, *exchange.Exchange) []byte
	lines    sync.Pool // of *[]byte
	refusals refusals
}

// maxRefusals is how many lines a second say that something was refused.
const maxRefusals = 10

// refusals bounds the lines of one kind.
type refusals struct {
	mu      sync.Mutex
	second  int64
	lines   int
	skipped int // since the last line
}

// allow says whether there may be a line now, and if so, how many there were
// that might not be since the last.
func (r *refusals) allow(at time.Time) (ok bool, skipped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := at.Unix(); s != r.second {
		r.second, r.lines = s, 0
	}
	if r.lines == maxRefusals {
		r.skipped++
		return false, 0
	}
	r.lines++
	skipped, r.skipped = r.skipped, 0
	return true, skipped
}

// NewAccessLog returns a log in format "text", "json" or "combined" (for which a
// balancer has to note agents, see Options). Each line is one
// Write, from any goroutine: w must be safe for that, and must not block, since
// requests end in it.
func NewAccessLog(w io.Writer, format string) *AccessLog {
	l := &AccessLog{w: w, line: textForm.append, lines: sync.Pool{New: func() any { return new([]byte) }}}
	switch format {
	case "json":
		l.line = jsonForm.append
	case "combined":
		l.line = appendCombined
	}
	return l
}

// Observe writes x's line.
func (l *AccessLog) Observe(x *exchange.Exchange) {
	if x.Record.Refused != "" {
		ok, skipped := l.refusals.allow(x.Record.End)
		if !ok {
			return
		}
		if skipped > 0 {
			said := *x // the other observers' stays as it is
			said.Record.Err = fmt.Errorf("%w; %d more refused since the last such line", x.Record.Err, skipped)
			x = &said
		}
	}
	buf := l.lines.Get().(*[]byte)
	defer l.lines.Put(buf)
	*buf = l.line((*buf)[:0], x)
	_, _ = l.w.Write(*buf) // a log that cannot be written must not end requests
}

// form is how a line looks.
type form struct {
	open, between, equals, end, none string
	text                             func([]byte, string) []byte
	name                             func([]byte, string) []byte
}

var (
	textForm = form{between: " ", equals: "=", end: "\n", none: "-", text: appendText, name: func(b []byte, s string) []byte { return append(b, s...) }}
	jsonForm = form{open: "{", between: ",", equals: ":", end: "}\n", none: "null", text: appendJSON, name: appendJSON}
)

func (f *form) append(b []byte, x *exchange.Exchange) []byte {
	r := &x.Record
	b = append(b, f.open...)
	b = f.name(b, "time")
	b = append(b, f.equals...)
	b = f.appendTime(b, r.End)
	b = f.appendString(b, "id", r.ID)
	b = f.appendString(b, "client", r.ClientIP)
	if r.Key != "" {
		b = f.appendString(b, "key", r.Key)
	}
	b = f.appendString(b, "method", cut(x.Request.Method))
	path, _, _ := strings.Cut(x.Request.Target, "?")
	b = f.appendString(b, "path", cut(path))
	b = f.appendInt(b, "status", int64(r.Status))
	b = f.appendInt(b, "bytes", r.BytesOut)
	if r.Encoding != "" {
		b = f.appendString(b, "encoding", r.Encoding)
		b = f.appendInt(b, "bytes_plain", r.BytesPlain)
	}
	if r.Status == http.StatusSwitchingProtocols {
		b = f.appendInt(b, "bytes_in", r.BytesIn)
	}
	b = f.appendString(b, "route", r.Route)
	b = f.appendString(b, "pool", r.Pool)
	b = f.appendString(b, "worker", r.Worker)
	b = f.appendInt(b, "attempts", int64(r.Attempts))
	if len(r.Moves) > 0 || r.NotMoved != "" {
		b = f.appendInt(b, "migrated", int64(len(r.Moves)))
	}
	if r.NotMoved != "" {
		b = f.appendString(b, "not_migrated", r.NotMoved)
	}
	if r.FirstByte.IsZero() {
		b = append(f.appendKey(b, "ttfb"), f.none...)
	} else {
		b = f.appendSeconds(b, "ttfb", r.FirstByte.Sub(r.Start))
	}
	b = f.appendSeconds(b, "duration", r.End.Sub(r.Start))
	b = f.appendString(b, "outcome", string(r.Outcome))
	if r.Err != nil {
		b = f.appendString(b, "error", cut(r.Err.Error()))
	} else {
		b = append(f.appendKey(b, "error"), f.none...)
	}
	return append(b, f.end...)
}

func cut(s string) string { return s[:min(len(s), maxLogged)] }

func (f *form) appendKey(b []byte, key string) []byte {
	b = append(b, f.between...)
	b = f.name(b, key)
	return append(b, f.equals...)
}

func (f *form) appendString(b []byte, key, value string) []byte {
	return f.text(f.appendKey(b, key), value)
}

func (f *form) appendInt(b []byte, key string, n int64) []byte {
	return strconv.AppendInt(f.appendKey(b, key), n, 10)
}

func (f *form) appendSeconds(b []byte, key string, d time.Duration) []byte {
	return appendMicros(f.appendKey(b, key), d)
}

// appendMicros writes seconds with six decimals, as strconv.AppendFloat would in four
// times the time.
func appendMicros(b []byte, d time.Duration) []byte {
	micros := (max(d, 0) + time.Microsecond/2) / time.Microsecond
	b = strconv.AppendInt(b, int64(micros/1e6), 10)
	b = append(b, '.')
	return appendPadded(b, int(micros%1e6), 6)
}

// appendPadded writes n with so many digits.
func appendPadded(b []byte, n, digits int) []byte {
	at := len(b)
	b = append(b, "000000"[:digits]...)
	for i := at + digits - 1; n > 0; i-- {
		b[i] = byte('0' + n%10)
		n /= 10
	}
	return b
}

// appendTime quotes where the form quotes; the time itself needs no escapes.
func (f *form) appendTime(b []byte, t time.Time) []byte {
	if f.open == "" {
		return appendMillis(b, t)
	}
	b = append(b, '"')
	b = appendMillis(b, t)
	return append(b, '"')
}

// writtenSecond is one second as it is written.
type writtenSecond struct {
	unix int64
	text []byte
}

var lastSecond atomic.Pointer[writtenSecond]

// appendMillis writes t in UTC with three decimals. All but these is made once a second.
func appendMillis(b []byte, t time.Time) []byte {
	s := lastSecond.Load()
	if s == nil || s.unix != t.Unix() {
		s = &writtenSecond{t.Unix(), t.UTC().AppendFormat(nil, "2006-01-02T15:04:05.")}
		lastSecond.Store(s)
	}
	b = append(b, s.text...)
	b = appendPadded(b, t.Nanosecond()/1e6, 3)
	return append(b, 'Z')
}
