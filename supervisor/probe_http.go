package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"

	"stoker/config"
)

// maxProbeBody is how much of a probe's answer is read: enough for the first
// words of a complaint.
const maxProbeBody = 4 << 10

// newProbeClient is a client whose every request has a connection of its own,
// so that it finds out what a new client would.
func newProbeClient(t peer) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!t.http2)
	protocols.SetUnencryptedHTTP2(t.http2) // over TLS too: dial has agreed upon it
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  nil, // the environment's proxy is for the world outside
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx) },
			Protocols:              protocols,
			DisableKeepAlives:      true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// wholeAnswer is all that came of a request.
type wholeAnswer struct {
	status         int
	text           string // of the status
	body           []byte
	head, trailers http.Header
}

// grpc is a field that gRPC has behind the body, or in the head where there is none.
func (a *wholeAnswer) grpc(name string) string {
	return cmp.Or(a.trailers.Get(name), a.head.Get(name))
}

// fetch sends one request and reads the answer's body up to limit bytes. The
// body too must come: an engine that sends a head and hangs is not well.
func fetch(client *http.Client, r *http.Request, limit int64) (status int, text string, body []byte, err error) {
	a, err := fetchWhole(client, r, limit)
	if a == nil {
		return 0, "", nil, err
	}
	return a.status, a.text, a.body, err
}

func fetchWhole(client *http.Client, r *http.Request, limit int64) (*wholeAnswer, error) {
	r.Header.Set("User-Agent", "stoker-probe")
	answer, err := client.Do(r)
	if err != nil {
		return nil, err //nolint:wrapcheck // probeFailure has the words
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(answer.Body, limit))
	return &wholeAnswer{answer.StatusCode, answer.Status, body, answer.Header, answer.Trailer}, err //nolint:wrapcheck // as above
}

func healthPath(h config.Health) string {
	if h.Path == "" {
		return "/health"
	}
	return h.Path
}

// newHTTPProbe asks by GET.
func newHTTPProbe(h config.Health, address string, how manner) probe {
	path, strict := healthPath(h), h.Path != ""
	t := newPeer(address, how)
	client := newProbeClient(t)
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+t.host+path, http.NoBody)
		if err != nil {
			return fmt.Errorf("probe %s: %w", path, err)
		}
		status, text, body, err := fetch(client, r, maxProbeBody)
		switch {
		case err != nil:
			return probeFailure("GET "+path, err)
		case status < 500 && !strict, status/100 == 2:
			return nil
		}
		return failed(failAnswered, "GET %s answered %s%s", path, text, quoted(body))
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
