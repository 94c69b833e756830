package front

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// version says which versions of HTTP a connection may carry.
type version uint8

const (
	// anyHTTP: its first bytes tell.
	anyHTTP version = iota
	onlyHTTP1
	onlyHTTP2
)

// The names of HTTP's versions in the handshake of TLS.
const (
	alpnHTTP1 = "http/1.1"
	alpnHTTP2 = "h2"
)

var errPlainHTTP = errors.New("this port speaks HTTPS, and the request came in plain HTTP; ask for https:// instead")

// Handshake is what became of one handshake of TLS.
type Handshake struct {
	// Result is "ok" or why there was none: "timeout", "client_gone", "not_tls",
	// "plain_http", "version", "no_shared_cipher", "no_shared_protocol",
	// "client_certificate_missing", "client_certificate_bad", "refused_by_client" or "error".
	Result string
	// State is what was agreed upon; only ok has it all.
	State tls.ConnectionState
	// Err is what went wrong; nil: nothing.
	Err error
	// Took is how long it was, the waits for the client included.
	Took time.Duration
}

// shakeHands makes TLS of what the client begins with, and says whether it did.
// Nothing else waits for that: it is the session's own goroutine.
func (s *session) shakeHands() bool {
	c := s.conn
	began := time.Now()
	limit := c.front.limits.Load().Handshake
	if c.refused != nil {
		limit = min(limit, refusedTime)
	}
	c.readUntil(began.Add(limit), 0)
	state, err := c.handshake()
	if c.front.shaken != nil {
		c.front.shaken(Handshake{Result: resultOf(err), State: state, Err: err, Took: time.Since(began)})
	}
	if err != nil {
		c.torn.Store(true)
		s.explainTLS(err)
		return false
	}
	if !slices.Contains([]string{"", alpnHTTP1, alpnHTTP2}, state.NegotiatedProtocol) {
		return false // no HTTP: the handshake was all there is to it
	}
	c.by = onlyHTTP1
	if state.NegotiatedProtocol == alpnHTTP2 {
		c.by = onlyHTTP2
	}
	return c.refused != nil || c.front.move(c, idle) // from now on its first request may take its time
}

// explainTLS answers a client that speaks plain HTTP, as it would be understood.
// Nobody else that failed could read what we say, but for TLS's own alert.
func (s *session) explainTLS(err error) {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) || !looksLikeHTTP(header.RecordHeader) {
		return
	}
	c := s.conn
	c.front.observeRefusal(c, errPlainHTTP, time.Now())
	_, _ = c.raw.Write(refusalOf(errPlainHTTP).append(nil, errPlainHTTP.Error())) // it may have gone
	s.unwanted = true
}

// looksLikeHTTP says whether a connection began as plain HTTP does.
func looksLikeHTTP(head [5]byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "OPTIO", "DELET", "PATCH", "PRI *"}, string(head[:]))
}

// resultOf sorts what went wrong with a handshake, for who counts it. crypto/tls
// has types for few of its errors; the rest is told apart by its words, and is an
// "error" where these change.
func resultOf(err error) string {
	var header tls.RecordHeaderError
	var invalid *tls.CertificateVerificationError
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, net.ErrClosed):
		return "client_gone"
	case errors.As(err, &header):
		if looksLikeHTTP(header.RecordHeader) {
			return "plain_http"
		}
		return "not_tls"
	case errors.As(err, &invalid):
		return "client_certificate_bad"
	}
	for _, known := range []struct{ words, result string }{
		{"remote error: ", "refused_by_client"},
		{"client offered only unsupported versions", "version"},
		{"no cipher suite supported by both", "no_shared_cipher"},
		{"client requested unsupported application protocols", "no_shared_protocol"},
		{"client didn't provide a certificate", "client_certificate_missing"},
		{"client certificate", "client_certificate_bad"},
	} {
		if strings.Contains(err.Error(), known.words) {
			return known.result
		}
	}
	return "error"
}

// scheme is that of the URIs that are asked for on this connection.
func (c *conn) scheme() string {
	if c.tls != nil {
		return "https"
	}
	return "http"
}

// SetHSTS lets every answer over TLS say that browsers shall use nothing else
// for that long, from now on; 0: answers say nothing of it.
func (f *Front) SetHSTS(d time.Duration) {
	text := ""
	if d > 0 {
		text = fmt.Sprintf("max-age=%d", int64(d.Seconds()))
	}
	f.hsts.Store(&text)
}

const fieldHSTS = "Strict-Transport-Security"

// hstsFor is what an answer on c says; empty: nothing.
func (f *Front) hstsFor(c *conn) string {
	if c.tls == nil {
		return ""
	}
	if text := f.hsts.Load(); text != nil {
		return *text
	}
	return ""
}
