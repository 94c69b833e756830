package supervisor

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
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

// Kinds of probes.
const (
	kindHTTP    = "http"
	kindTCP     = "tcp"
	kindCommand = "command"
	kindCanary  = "canary"
	kindGRPC    = "grpc"
)

// Reasons why probes fail, which label a metric.
const (
	failTimeout  = "timeout"  // no answer in time
	failRefused  = "refused"  // nobody listens
	failAnswered = "answered" // an answer, and a bad one
	failBroken   = "broken"   // the connection broke, or the program could not be run
	failStopped  = "stopped"  // the process is stopped by a signal
)

// probeError is a probe that has failed.
type probeError struct {
	reason string
	err    error
}

func (e *probeError) Error() string { return e.err.Error() }
func (e *probeError) Unwrap() error { return e.err }

// failed says why a probe failed.
func failed(reason, format string, args ...any) error {
	return &probeError{reason, fmt.Errorf(format, args...)}
}

// reasonOf is one of the reasons above.
func reasonOf(err error) string {
	var e *probeError
	switch {
	case errors.As(err, &e):
		return e.reason
	case errors.Is(err, context.DeadlineExceeded):
		return failTimeout
	case errors.Is(err, errRefused):
		return failRefused
	default:
		return failAnswered
	}
}

// answered says whether somebody was there to fail the probe.
func answered(err error) bool {
	reason := reasonOf(err)
	return reason == failAnswered || reason == failBroken
}

var (
	// errRefused: there is no listener. Unlike a time-out that is never the sign
	// of a busy one: a full backlog answers with EAGAIN, or not at all.
	errRefused = errors.New("connection refused")
	// errNoProof: a canary was refused, which an engine does that is well.
	errNoProof = errors.New("which says nothing of its health")
)

func refused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
}

// peer is where an upstream is reached: "unix:/PATH" or "HOST:PORT".
type peer struct {
	network, address, host string
	manner
}

// manner is how an upstream is asked.
type manner struct {
	secure *tls.Config // nil: plain
	http2  bool
}

// mannerOf is how those of a pool are asked.
func mannerOf(p *config.Pool, secure *tls.Config) manner {
	return manner{secure: secure, http2: p.Protocol == config.HTTP2}
}

// newPeer is an upstream that is asked so.
func newPeer(address string, how manner) peer {
	p := plainPeer(address)
	p.http2 = how.http2
	if secure := how.secure; secure != nil {
		p.secure = secure
		if _, err := netip.ParseAddr(secure.ServerName); err != nil && secure.ServerName != "" {
			p.host = secure.ServerName
		}
	}
	return p
}

func plainPeer(address string) peer {
	if socket, isUnix := strings.CutPrefix(address, "unix:"); isUnix {
		return peer{network: "unix", address: socket, host: "localhost"}
	}
	return peer{network: "tcp", address: address, host: address}
}

func (t peer) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, t.network, t.address)
	if err != nil || t.secure == nil {
		return c, err
	}
	secured := tls.Client(c, t.secure)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secured, nil
}

// newTCPProbe connects, and says nothing.
func newTCPProbe(address string, how manner) probe {
	t := newPeer(address, how)
	return func(ctx context.Context) error {
		c, err := t.dial(ctx)
		if err != nil {
			return probeFailure("connect", err)
		}
		_ = c.Close() // nothing was sent
		return nil
	}
}

// probeFailure says in few words what was tried and what came of it.
func probeFailure(what string, err error) error {
	switch {
	case refused(err):
		return failed(failRefused, "%s: nobody listens there: %w", what, errRefused)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN): // the latter: the backlog of a unix socket is full
		return noAnswer(what)
	default:
		return failed(failBroken, "%s: %w", what, err)
	}
}

func noAnswer(what string) error {
	return failed(failTimeout, "%s: no answer in time", what)
}

// checks are the ways to ask one upstream how it is.
type checks struct {
	kind    string
	name    string // of the usual one, for people
	usual   probe
	timeout time.Duration // of the usual one
	// patience is how long the usual probe's answer is still listened for: what
	// comes too late to be good is a sign of life all the same. 0: it is not.
	patience time.Duration
	canary   probe  // nil: none is to be sent
	page     *page  // nil: there is none
	gauge    *gauge // of the engine's load; nil: nobody wants to know
}

// newChecks makes them. command makes the probe of a command.
func newChecks(h config.Health, address string, how manner, command func(argv []string, address string) probe) *checks {
	c := &checks{kind: h.Kind, timeout: h.Timeout.Std()}
	if h.Kind == kindCanary || h.Canary.Path != "" || h.Canary.Body != "" {
		c.canary = newCanary(h.Canary, address, how)
	}
	if h.MetricsPath != "" {
		c.page = newPage(h, address, how)
		c.gauge = newGauge(h, address, how)
	}
	switch h.Kind {
	case kindTCP:
		c.usual = newTCPProbe(address, how)
	case kindCommand:
		c.usual = command(h.Command, address)
	case kindGRPC:
		c.usual = newGRPCProbe(h, address, how)
	case kindCanary:
		c.usual, c.timeout = c.canary, h.Canary.Timeout.Std()
	default:
		c.usual, c.name = newHTTPProbe(h, address, how), "GET "+healthPath(h)
		c.patience = time.Duration(max(h.Failures, 1)) * (h.Timeout.Std() + h.Interval.Std())
	}
	return c
}

// signs are what shows that an engine lives besides the bytes of its answers.
type signs struct {
	count atomic.Uint64 // grows with each
	busy  atomic.Int64  // what the engine says that it has to do
}

// ears listen for answers to probes, also when these are late.
type ears struct {
	signs *signs
	ctx   context.Context
	close func()
	open  sync.WaitGroup
}

func newEars(s *signs) *ears {
	e := &ears{signs: s}
	e.ctx, e.close = context.WithCancel(context.Background())
	return e
}

// end stops listening.
func (e *ears) end() {
	e.close()
	e.open.Wait()
}

// ask asks once and waits for the time-out at most.
func (e *ears) ask(ctx context.Context, c *checks) error {
	if c.patience == 0 {
		ctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		return c.usual(ctx)
	}
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	answer := make(chan error, 1)
	var settled atomic.Bool
	e.open.Go(func() {
		own, cancel := context.WithTimeout(e.ctx, c.patience)
		defer cancel()
		err := c.usual(own)
		if settled.CompareAndSwap(false, true) {
			answer <- err
		} else if err == nil {
			e.signs.count.Add(1)
		}
	})
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	case <-timer.C:
	}
	if !settled.CompareAndSwap(false, true) {
		return <-answer
	}
	return noAnswer(c.name)
}
