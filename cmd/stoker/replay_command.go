package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"stoker/balancer/recorder"
	"stoker/internal/crash"
)

// replay sends a recorded request again.
type replay struct {
	place   crashPlace
	word    string
	suspect int
	to      string
	headers []string
	force   bool
	timeout time.Duration
	// apiKey stands in for a secret that was not kept.
	apiKey string
}

// errRefused: the answer came, and is no success. errBroke: it broke off.
var (
	errRefused = errors.New("answered with an error")
	errBroke   = errors.New("the answer broke off")
)

func newReplayCommand() *cobra.Command {
	var p replay
	cmd := &cobra.Command{
		Use:   "replay ID [--suspect N] [--to URL]",
		Short: "Send a recorded request again, and show the answer",
		Long: `Send a suspect of a crash, or a request that the flight recorder holds, again,
and show the answer: its head on standard error, its body on standard output.
ID is a crash as for stoker crashes, or a request's id.

It goes through the running master, or to --to: what has killed an engine may
kill the next one, so try it on one that serves nobody.

Secrets were not kept. Give them with --header; where an Authorization,
X-Api-Key or Api-Key was left out, $API_KEY is used.

Exit codes: 0 an answer below 400, whole; 1 no answer; 2 not sent, since the
command or what was kept is not enough; 4 an answer of 400 or above; 5 an answer
that broke off.`,
		Example: `  stoker replay latest --to http://127.0.0.1:9001
  API_KEY=sk-… stoker replay 20260102T150405 --suspect 2
  stoker replay 0195f3c2-77aa-7c11-8a53-5b1c1f0a9d1e > answer`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usageError(errors.New("write: stoker replay ID [--suspect N] [--to URL]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			p.word, p.apiKey = words[0], os.Getenv("API_KEY")
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return p.run(ctx, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	p.place.flags(cmd)
	f := cmd.Flags()
	f.IntVar(&p.suspect, "suspect", 0, "which suspect of a crash, by its number (default the only one)")
	f.StringVar(&p.to, "to", "", "server to send it to, as http://HOST:PORT or unix:/PATH (default the master)")
	f.StringArrayVarP(&p.headers, "header", "H", nil, "a field to add or replace, as 'Name: value'; repeatable")
	f.BoolVar(&p.force, "force", false, "send it although not all of it was kept")
	f.DurationVar(&p.timeout, "timeout", 0, "how long the whole answer may take (default for ever)")
	return cmd
}

func (p *replay) run(ctx context.Context, out, notes io.Writer) error {
	x, err := p.find(ctx)
	if err != nil {
		return err
	}
	if lacks := x.Request.Lacks(); lacks != "" {
		if !p.force {
			return usageError(fmt.Errorf("request %s cannot be sent as it was: %s; --force sends what there is", x.ID, lacks))
		}
		fmt.Fprintf(notes, "stoker: not the whole request: %s\n", lacks)
	}
	to, err := p.target(ctx)
	if err != nil {
		return err
	}
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.timeout)
		defer cancel()
	}
	request, err := p.request(ctx, x, to, notes)
	if err != nil {
		return err
	}
	fmt.Fprintf(notes, "stoker: request %s to %s: %s %s\n", x.ID, to.name, printable(request.Method), printable(request.URL.RequestURI()))
	return to.send(request, out, notes)
}

// find is the request that is meant: a crash's suspect, one that a running
// master has recorded, or a suspect by its own id.
func (p *replay) find(ctx context.Context) (*recorder.Exchange, error) {
	store, err := p.place.store()
	if err != nil {
		return nil, err
	}
	r, err := p.place.open(store, p.word)
	switch {
	case err == nil:
		return p.choose(r)
	case !errors.Is(err, crash.ErrNoReport):
		return nil, err
	}
	q := requestsQuery{where: p.place.where, id: p.word}
	all, _, asked := q.fetch(ctx)
	if len(all) > 0 {
		return &all[len(all)-1], nil
	}
	if x := suspectByID(store, p.word); x != nil {
		return x, nil
	}
	if asked != nil {
		return nil, usageError(fmt.Errorf("%w; and of requests: %w", err, asked))
	}
	return nil, usageError(fmt.Errorf("%w; and no request of that id is kept", err))
}

// choose is the suspect that was asked for.
func (p *replay) choose(r *crash.Report) (*recorder.Exchange, error) {
	switch {
	case p.suspect != 0:
		return suspectOf(r, p.suspect)
	case len(r.Suspects) == 1:
		return &r.Suspects[0], nil
	}
	return nil, usageError(fmt.Errorf("crash %s has %s: name one with --suspect N; stoker crashes %s shows them", r.ID, count(len(r.Suspects), "suspect"), r.ID))
}

// suspectByID looks through all reports, the latest first.
func suspectByID(store *crash.Store, id string) *recorder.Exchange {
	ids, err := store.IDs()
	if err != nil {
		return nil
	}
	for _, name := range slices.Backward(ids) {
		r, err := store.Load(name)
		if err != nil {
			continue
		}
		for i := range r.Suspects {
			if r.Suspects[i].ID == id {
				return &r.Suspects[i]
			}
		}
	}
	return nil
}

// receiver is where a request goes.
type receiver struct {
	name string
	base string // of the URL
	// socket is a unix socket's path; empty: what base says.
	socket string
	// master: it is stoker, whose routes may go by the host.
	master bool
}

// target is --to, or the first listener of the running master.
func (p *replay) target(ctx context.Context) (*receiver, error) {
	if path, ok := strings.CutPrefix(p.to, "unix:"); ok {
		return &receiver{name: p.to, base: "http://localhost", socket: path}, nil
	}
	if p.to != "" {
		u, err := url.Parse(p.to)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, usageError(fmt.Errorf("--to %q is no server: write http://HOST:PORT, https://HOST:PORT or unix:/PATH", p.to))
		}
		return &receiver{name: p.to, base: strings.TrimSuffix(p.to, "/")}, nil
	}
	raw, err := p.place.where.get(ctx, "/status")
	if err != nil {
		return nil, fmt.Errorf("%w; --to names a server to send it to", err)
	}
	var s status
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	if len(s.Listen) == 0 {
		return nil, errors.New("the master has no listener without TLS; --to names a server to send it to")
	}
	address := s.Listen[0]
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		return &receiver{name: "the master", base: "http://localhost", socket: path, master: true}, nil
	}
	if host, port, err := net.SplitHostPort(address); err == nil {
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			address = net.JoinHostPort("localhost", port)
		}
	}
	return &receiver{name: "the master", base: "http://" + address, master: true}, nil
}

// standIns are the fields whose place $API_KEY can take, and how.
var standIns = map[string]string{"authorization": "Bearer ", "x-api-key": "", "api-key": ""}

// request is x anew.
func (p *replay) request(ctx context.Context, x *recorder.Exchange, to *receiver, notes io.Writer) (*http.Request, error) {
	body, _ := x.Request.Body.Bytes()
	r, err := http.NewRequestWithContext(ctx, x.Request.Method, to.base+x.Request.Target, strings.NewReader(string(body)))
	if err != nil {
		return nil, usageError(fmt.Errorf("request %s cannot be sent again: %w", x.ID, err))
	}
	if to.master && x.Request.Authority != "" {
		r.Host = x.Request.Authority
	}
	fields, redacted := x.Request.Resendable()
	r.Header["User-Agent"] = nil // or net/http names itself
	for _, f := range fields {
		r.Header[f.Name] = append(r.Header[f.Name], f.Value) // spelled as the client did
	}
	given := map[string]bool{}
	for _, text := range p.headers {
		name, value, ok := strings.Cut(text, ":")
		if !ok || name == "" {
			return nil, usageError(fmt.Errorf("--header %q is no field: write 'Name: value'", text))
		}
		given[strings.ToLower(name)] = true
		setField(r.Header, name, strings.TrimSpace(value))
	}
	for _, name := range redacted {
		how, known := standIns[strings.ToLower(name)]
		switch {
		case given[strings.ToLower(name)]:
		case known && p.apiKey != "":
			setField(r.Header, name, how+p.apiKey)
		default:
			fmt.Fprintf(notes, "stoker: sent without %s, which was not kept: give it with --header '%s: …'%s\n", name, name, orKey(known))
		}
	}
	if x.Request.Body.Redacted > 0 {
		fmt.Fprintf(notes, "stoker: secrets in its body are replaced by %s: it is not quite what was sent\n", recorder.Redacted)
	}
	return r, nil
}

func orKey(known bool) string {
	if known {
		return " or in $API_KEY"
	}
	return ""
}

// setField replaces a field, however it is spelled.
func setField(h http.Header, name, value string) {
	for other := range h {
		if strings.EqualFold(other, name) {
			delete(h, other)
		}
	}
	h[name] = []string{value}
}

// send shows the answer as it comes.
func (to *receiver) send(r *http.Request, out, notes io.Writer) error {
	transport := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	if to.socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", to.socket)
		}
	}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer func() { _ = answer.Body.Close() }()
	var head strings.Builder
	fmt.Fprintf(&head, "%s %s\n", answer.Proto, answer.Status)
	names := make([]string, 0, len(answer.Header))
	for name := range answer.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range answer.Header[name] {
			fmt.Fprintf(&head, "%s: %s\n", name, value)
		}
	}
	fmt.Fprintln(notes, printable(head.String()))
	n, err := io.Copy(out, answer.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%w after %d bytes: %w", errBroke, n, err)
	case answer.StatusCode >= http.StatusBadRequest:
		return fmt.Errorf("%w: %s", errRefused, answer.Status)
	}
	return nil
}
