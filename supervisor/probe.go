package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"stoker/config"
)

// Pauses between the probes of an engine that loads: a small app answers at
// once and is used at once; a large model is not pestered for minutes.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Second
)

// longer is the pause after the given one.
func longer(pause, limit time.Duration) time.Duration { return min(pause*3/2, limit) }

// maxProbeBody is how much of a probe's answer is read: enough for the first
// words of a complaint.
const maxProbeBody = 4 << 10

// newHTTPProbe asks by GET on a connection of its own, so that it finds out what a new
// client would. address is "unix:/PATH" or "HOST:PORT".
func newHTTPProbe(h config.Health, address string) probe {
	path, strict := h.Path, h.Path != ""
	if !strict {
		path = "/health"
	}
	network, target, host := "tcp", address, address
	if socket, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		network, target, host = "unix", socket, "localhost"
	}
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: nil, // the environment's proxy is for the world outside
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				var d net.Dialer
				return d.DialContext(ctx, network, target)
			},
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+path, http.NoBody)
		if err != nil {
			return fmt.Errorf("probe %s: %w", path, err)
		}
		r.Header.Set("User-Agent", "stoker-probe")
		answer, err := client.Do(r)
		if err != nil {
			return probeFailure(path, err)
		}
		defer func() { _ = answer.Body.Close() }()
		// The body too must come: an engine that sends a head and hangs is not well.
		body, err := io.ReadAll(io.LimitReader(answer.Body, maxProbeBody))
		if err != nil {
			return probeFailure(path, err)
		}
		if answer.StatusCode < 500 && !strict || answer.StatusCode/100 == 2 {
			return nil
		}
		return fmt.Errorf("GET %s answered %s%s", path, answer.Status, quoted(body))
	}
}

// quoted is the beginning of a complaint, for a log line.
func quoted(body []byte) string {
	text := printable(string(body))
	if text == "" {
		return ""
	}
	return ": " + shorten(text, 80)
}

// probeFailure says in few words what was tried and what came of it.
func probeFailure(path string, err error) error {
	switch {
	case refused(err):
		return fmt.Errorf("GET %s: nobody listens there: %w", path, errRefused)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("GET %s: no answer in time (health.timeout): %w", path, context.DeadlineExceeded)
	default:
		return fmt.Errorf("GET %s: %w", path, err)
	}
}

// errRefused: there is no listener. Unlike a time-out that is never the sign
// of a busy one: a full backlog answers with EAGAIN, or not at all.
var errRefused = errors.New("connection refused")

func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// verdict is what the probes so far amount to.
type verdict int

const (
	unclear verdict = iota
	well            // enough good probes in a row
	sick            // enough bad ones
)

// judge turns the results of probes into verdicts. A failure does not count
// while bytes came from the upstream since the probe before: a saturated
// engine answers late, and is alive. Where nobody listens there is nothing to
// wait for.
type judge struct {
	successes, failures int
	progress            func() uint64

	seen      uint64
	good, bad int
	last      error // of the last failed probe
}

func newJudge(h config.Health, m member) *judge {
	return &judge{
		successes: max(h.Successes, 1),
		failures:  max(h.Failures, 1),
		progress:  m.Progress,
		seen:      m.Progress(),
	}
}

// hear takes the result of one more probe.
func (j *judge) hear(err error) verdict {
	before := j.seen
	j.seen = j.progress()
	switch {
	case err == nil:
		j.good, j.bad, j.last = j.good+1, 0, nil
	case errors.Is(err, errRefused):
		j.good, j.bad, j.last = 0, j.failures, err
	case j.seen != before:
		j.last = err
		return unclear
	default:
		j.good, j.bad, j.last = 0, j.bad+1, err
	}
	switch {
	case j.good >= j.successes:
		return well
	case j.bad >= j.failures:
		return sick
	default:
		return unclear
	}
}

// complaint explains sick.
func (j *judge) complaint() string {
	if errors.Is(j.last, errRefused) {
		return j.last.Error()
	}
	return fmt.Sprintf("%d probes in a row failed and nothing came from it meanwhile; the last: %v", j.bad, j.last)
}
