package main

import (
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"stoker/config"
	"stoker/exchange"
	"stoker/internal/http1"
)

// redirector sends clients of plain HTTP to the TLS listeners, where the
// configuration wants that. It is asked behind the porter: outside balancers ask
// for readiness as they always did.
type redirector struct{ m *master }

func (r redirector) answers(x *exchange.Exchange) bool {
	cfg := r.m.current.Load()
	if !cfg.TLS.RedirectHTTPS || isSecure(cfg, x) {
		return false
	}
	sendAway(cfg, x)
	return true
}

// sendAway names the same target by https.
func sendAway(cfg *config.Config, x *exchange.Exchange) {
	x.Record.ClientIP = x.Client.Addr().String()
	status, fields, body := redirect(&x.Request, cfg.HTTPSPort())
	x.Record.Status, x.Record.Outcome = status, exchange.OutcomeOK
	if status >= http.StatusBadRequest {
		x.Record.Outcome = exchange.OutcomeClientError
	}
	x.Record.BytesOut = int64(len(body))
	if err := send(x, status, fields, body); err != nil {
		x.Record.Outcome, x.Record.Err = exchange.OutcomeClientGone, err
		x.Sink.Break(err)
	}
}

// isSecure says whether a request came in safety: over TLS, over a unix socket of
// this host, or over TLS to a proxy that is trusted.
func isSecure(cfg *config.Config, x *exchange.Exchange) bool {
	if x.Request.Scheme == "https" || !x.Client.IsValid() {
		return true
	}
	return strings.EqualFold(x.Request.Fields.Get("X-Forwarded-Proto"), "https") && trusts(cfg.TrustedProxies, x.Client.Addr())
}

func trusts(networks []netip.Prefix, client netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(client) {
			return true
		}
	}
	return false
}

const defaultHTTPSPort = 443

// redirect is the answer that names the same target by https. 308 and not 301:
// clients make a GET of a POST that is moved by 301.
func redirect(r *http1.Request, port int) (status int, fields http1.Fields, body []byte) {
	host := withoutPort(r.Authority)
	if host == "" || !strings.HasPrefix(r.Target, "/") {
		return http.StatusBadRequest, http1.Fields{{Name: "Content-Type", Value: "application/json"}},
			[]byte(`{"error":{"message":"this server speaks HTTPS; ask for https:// instead","type":"bad_request","code":"https_required"}}` + "\n")
	}
	if port != defaultHTTPSPort {
		host += ":" + strconv.Itoa(port)
	}
	return http.StatusPermanentRedirect, http1.Fields{{Name: "Location", Value: "https://" + host + r.Target}}, nil
}

// withoutPort is an authority's host, an IPv6 address in its brackets.
func withoutPort(authority string) string {
	if end := strings.LastIndexByte(authority, ':'); end > strings.LastIndexByte(authority, ']') {
		return authority[:end]
	}
	return authority
}
