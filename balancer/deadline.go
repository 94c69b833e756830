package balancer

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"stoker/exchange"
	"stoker/internal/http1"
	"stoker/upstream"
)

// Fields by which a client says how long it will wait: seconds, with a fraction
// if it likes; and gRPC's, up to eight digits and a unit.
const (
	timeoutField     = "X-Request-Timeout"
	grpcTimeoutField = "Grpc-Timeout"
)

// longestTimeout is what longer ones are taken for.
const longestTimeout = 365 * 24 * time.Hour

var errTimeoutField = &requestError{http.StatusBadRequest, "bad_timeout", "X-Request-Timeout must be a number of seconds, grpc-timeout up to eight digits and one of H, M, S, m, u, n"}

// due is when a request must be answered.
type due struct {
	by  time.Time
	set bool
}

// dueOf reads a request's deadline; of several the earliest counts.
func dueOf(x *exchange.Exchange) (due, error) {
	var d due
	for _, f := range x.Request.Fields {
		var timeout time.Duration
		var ok bool
		switch {
		case isName(f.Name, timeoutField):
			timeout, ok = parseSeconds(f.Value)
		case isName(f.Name, grpcTimeoutField):
			timeout, ok = parseGRPC(f.Value)
		default:
			continue
		}
		if !ok {
			return due{}, errTimeoutField
		}
		if by := start(x).Add(timeout); !d.set || by.Before(d.by) {
			d = due{by, true}
		}
	}
	return d, nil
}

// start is when the request came: its client's clock has run since.
func start(x *exchange.Exchange) time.Time {
	if x.Record.Start.IsZero() {
		return time.Now()
	}
	return x.Record.Start
}

// limit derives the contexts of the exchange, and of the wait for a place,
// which must leave minRemaining for the answer.
func (d due) limit(ctx context.Context, minRemaining time.Duration) (whole, wait context.Context, cancel func()) {
	if !d.set {
		return ctx, ctx, func() {}
	}
	whole, cancelWhole := context.WithDeadlineCause(ctx, d.by, exchange.ErrDeadline)
	wait, cancelWait := context.WithDeadlineCause(whole, d.by.Add(-minRemaining), exchange.ErrDeadline)
	return whole, wait, func() {
		cancelWait()
		cancelWhole()
	}
}

// early is how much sooner than here a deadline may be over for an engine that
// was told what was left of it: what it is told is rounded down, and clocks differ.
const early = 25 * time.Millisecond

// inTime is how an attempt has failed, if it has. An engine that ends a request as
// its deadline comes has done what it was told; nobody is to take it for broken.
func inTime(ctx context.Context, err error) error {
	by, set := ctx.Deadline()
	failure, failed := errors.AsType[*upstream.Failure](err)
	if !set || !failed || time.Until(by) > early || !broke(failure) {
		return err
	}
	return &upstream.Failure{Op: upstream.OpCanceled, Sent: failure.Sent, Begun: failure.Begun, Err: exchange.ErrDeadline}
}

// passOn tells the next upstream what is left of the deadline.
func (d due) passOn(fields http1.Fields) {
	if !d.set {
		return
	}
	left := max(time.Until(d.by), time.Millisecond)
	for i, f := range fields {
		switch {
		case isName(f.Name, timeoutField):
			fields[i].Value = strconv.FormatFloat(left.Seconds(), 'f', 3, 64)
		case isName(f.Name, grpcTimeoutField):
			fields[i].Value = formatGRPC(left)
		}
	}
}

func parseSeconds(s string) (time.Duration, bool) {
	seconds, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
	if err != nil || math.IsNaN(seconds) || seconds < 0 || strings.ContainsAny(s, "xX_pP") {
		return 0, false
	}
	if seconds >= longestTimeout.Seconds() {
		return longestTimeout, true
	}
	return time.Duration(seconds * float64(time.Second)), true
}

var grpcUnits = map[byte]time.Duration{
	'H': time.Hour, 'M': time.Minute, 'S': time.Second, 'm': time.Millisecond, 'u': time.Microsecond, 'n': time.Nanosecond,
}

// maxGRPCTimeout is the largest number that a grpc-timeout can have.
const maxGRPCTimeout = 99999999

func parseGRPC(s string) (time.Duration, bool) {
	s = strings.TrimSpace(s)
	if len(s) < 2 {
		return 0, false
	}
	unit, known := grpcUnits[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !known || err != nil || n > maxGRPCTimeout {
		return 0, false
	}
	if n > uint64(longestTimeout/unit) {
		return longestTimeout, true
	}
	return time.Duration(n) * unit, true
}

// formatGRPC rounds down: what is told must not be more than there is.
func formatGRPC(d time.Duration) string {
	if ms := d.Milliseconds(); ms <= maxGRPCTimeout {
		return strconv.FormatInt(ms, 10) + "m"
	}
	return strconv.FormatInt(int64(d/time.Second), 10) + "S"
}
