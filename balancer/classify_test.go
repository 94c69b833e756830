package balancer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"stoker/exchange"
	"stoker/upstream"
)

func TestClassify(t *testing.T) {
	refused := fmt.Errorf("dial: %w", syscall.ECONNREFUSED)
	fail := func(op upstream.Op, err error, marks ...string) error {
		f := &upstream.Failure{Op: op, Err: err}
		for _, m := range marks {
			switch m {
			case "sent":
				f.Sent = true
			case "begun":
				f.Sent, f.Begun = true, true
			case "replayable":
				f.Replayable = true
			}
		}
		return fmt.Errorf("attempt: %w", f)
	}
	gone := fmt.Errorf("%w: %w", exchange.ErrClientGone, io.ErrUnexpectedEOF)
	type want struct {
		outcome exchange.Outcome
		status  int
		kind    string
		does    string // retry, refused, blame
	}
	for _, tc := range []struct {
		name string
		err  error
		want want
	}{
		{"nothing wrong", nil, want{exchange.OutcomeOK, 0, "", ""}},
		{"no route", errNoRoute, want{exchange.OutcomeNoRoute, 404, "not_found", ""}},
		{"method", errMethod, want{exchange.OutcomeClientError, 501, "bad_request", ""}},
		{"target", errTarget, want{exchange.OutcomeClientError, 400, "bad_request", ""}},
		{"queue full", upstream.ErrQueueFull, want{exchange.OutcomeQueueFull, 429, "overloaded", ""}},
		{"queue time-out", upstream.ErrQueueTimeout, want{exchange.OutcomeQueueTimeout, 429, "overloaded", ""}},
		{"nobody ready", upstream.ErrNoneReady, want{exchange.OutcomeUnavailable, 503, "server_unavailable", ""}},
		{"nobody ready, full", fmt.Errorf("%w: %w", upstream.ErrNoneReady, upstream.ErrQueueFull), want{exchange.OutcomeUnavailable, 503, "server_unavailable", ""}},
		{"nobody ready in time", fmt.Errorf("%w: %w", upstream.ErrNoneReady, upstream.ErrQueueTimeout), want{exchange.OutcomeUnavailable, 503, "server_unavailable", ""}},
		{"deadline near", exchange.ErrDeadline, want{exchange.OutcomeDeadline, 504, "timeout", ""}},
		{"deadline over", fail(upstream.OpCanceled, exchange.ErrDeadline, "sent"), want{exchange.OutcomeDeadline, 504, "timeout", ""}},
		{"deadline over, begun", fail(upstream.OpCanceled, exchange.ErrDeadline, "begun"), want{exchange.OutcomeDeadline, 504, "timeout", ""}},
		{"cut by a drain", fail(upstream.OpCanceled, exchange.ErrDrained, "sent"), want{exchange.OutcomeDrained, 503, "server_unavailable", ""}},
		{"no number of seconds", errTimeoutField, want{exchange.OutcomeClientError, 400, "bad_request", ""}},
		{"pool closed", upstream.ErrPoolClosed, want{exchange.OutcomeShutdown, 503, "server_unavailable", ""}},
		{"client left the queue", exchange.ErrClientGone, want{exchange.OutcomeClientGone, 499, "", ""}},
		{"cut in the queue", exchange.ErrShutdown, want{exchange.OutcomeShutdown, 503, "server_unavailable", ""}},
		{"context without a cause", context.Canceled, want{exchange.OutcomeClientGone, 499, "", ""}},
		{"unheard of", errors.New("?"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "blame"}},

		{"dial refused", fail(upstream.OpDial, refused, "replayable"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "retry refused blame"}},
		{"no such socket", fail(upstream.OpDial, syscall.ENOENT, "replayable"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "retry refused blame"}},
		{"dial timed out", fail(upstream.OpDial, syscall.ETIMEDOUT, "replayable"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "retry blame"}},
		{"dial, body gone", fail(upstream.OpDial, refused), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "refused blame"}},
		{"dial after an attempt that sent", fail(upstream.OpDial, refused, "replayable", "sent"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "refused blame"}},
		{"stale", fail(upstream.OpStale, io.EOF, "replayable"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "retry"}},
		{"stale, sent", fail(upstream.OpStale, io.EOF, "replayable", "sent"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", ""}},
		{"write", fail(upstream.OpWrite, syscall.EPIPE, "replayable", "sent"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "blame"}},
		{"read", fail(upstream.OpRead, io.ErrUnexpectedEOF, "replayable", "sent"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "blame"}},
		{"read, begun", fail(upstream.OpRead, io.ErrUnexpectedEOF, "begun"), want{exchange.OutcomeUpstreamBroke, 502, "upstream_error", "blame"}},
		{"no HTTP", fail(upstream.OpMalformed, errors.New("x"), "sent"), want{exchange.OutcomeUpstreamError, 502, "upstream_error", "blame"}},
		{"no HTTP, begun", fail(upstream.OpMalformed, errors.New("x"), "begun"), want{exchange.OutcomeUpstreamBroke, 502, "upstream_error", "blame"}},
		{"time-out", fail(upstream.OpTimeout, errors.New("x"), "sent"), want{exchange.OutcomeUpstreamTimeout, 504, "timeout", "blame"}},
		{"bad chunk", fail(upstream.OpClientBody, errors.New("x"), "sent"), want{exchange.OutcomeClientError, 400, "bad_request", ""}},
		{"bad chunk, begun", fail(upstream.OpClientBody, errors.New("x"), "begun"), want{exchange.OutcomeClientError, 400, "bad_request", ""}},
		{"upload broke off", fail(upstream.OpClientBody, gone, "sent"), want{exchange.OutcomeClientGone, 499, "", ""}},
		{"client does not read", fail(upstream.OpClientWrite, syscall.EPIPE, "begun"), want{exchange.OutcomeClientGone, 499, "", ""}},
		{"hang-up", fail(upstream.OpCanceled, exchange.ErrClientGone, "sent"), want{exchange.OutcomeClientGone, 499, "", ""}},
		{"hang-up, begun", fail(upstream.OpCanceled, exchange.ErrClientGone, "begun"), want{exchange.OutcomeClientGone, 499, "", ""}},
		{"cut", fail(upstream.OpCanceled, exchange.ErrShutdown, "begun"), want{exchange.OutcomeShutdown, 503, "server_unavailable", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := classify(tc.err)
			does := ""
			for _, d := range []struct {
				is   bool
				name string
			}{{v.retry, " retry"}, {v.refused, " refused"}, {v.blame, " blame"}} {
				if d.is {
					does += d.name
				}
			}
			if does != "" {
				does = does[1:]
			}
			if got := (want{v.outcome, v.status, v.kind, does}); got != tc.want {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if !errors.Is(v.err, tc.err) {
				t.Errorf("error %v was lost", tc.err)
			}
			if unavailable := v.status == 503 || v.status == 429; unavailable != (v.retryAfter > 0) {
				t.Errorf("status %d with Retry-After %d", v.status, v.retryAfter)
			}
			if told := v.status >= 400 && v.status != statusClientGone; told && (v.code == "" || v.message == "") {
				t.Errorf("nothing to tell the client: %+v", v)
			}
		})
	}
}
