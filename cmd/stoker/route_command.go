package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"stoker/balancer"
	"stoker/config"
	"stoker/internal/http1"
)

// routeQuery is what "stoker route" was asked for, and the document of POST /route:
// a request that is explained and not made.
type routeQuery struct {
	Method  string   `json:"method"`
	URL     string   `json:"url"`
	Headers []string `json:"headers,omitempty"` // "Name: value"
	Model   *string  `json:"model,omitempty"`
}

// errNoMatch: the exit code says so too.
var errNoMatch = errors.New("no route matches")

func newRouteCommand() *cobra.Command {
	var where adminAddress
	var q routeQuery
	var model string
	var running, asJSON bool
	cmd := &cobra.Command{
		Use:   "route METHOD URL",
		Short: "Say which route a request would take, and why not the ones before it",
		Long: `Say which route a request would take, and why not the ones before it. With -c by
that file, whether or not a master runs; without, or with --running, by what the
running master goes by. Nothing is sent to any engine. Exit code 1: no route matches.`,
		Example: `  stoker route -c stoker.toml POST https://llm.example.com/v1/chat/completions --model qwen3
  stoker route GET /v1/models --header "X-Tenant: acme" --json`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) != 2 {
				return usageError(errors.New("write: stoker route METHOD URL"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			q.Method, q.URL = words[0], words[1]
			if cmd.Flags().Changed("model") {
				q.Model = &model
			}
			question, err := q.question()
			if err != nil {
				return usageError(err)
			}
			var e balancer.Explanation
			if where.file != "" && !running {
				e, err = explainFile(where.file, question)
			} else {
				e, err = q.ask(cmd.Context(), &where)
			}
			if err != nil {
				return err
			}
			return printExplanation(cmd.OutOrStdout(), &e, asJSON)
		},
	}
	where.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&q.Headers, "header", nil, "a field of the request, as \"Name: value\"; repeatable")
	f.StringVar(&model, "model", "", "the model that its body names")
	f.BoolVar(&running, "running", false, "with -c: ask the master that runs with this file")
	f.BoolVar(&asJSON, "json", false, "print the explanation as JSON")
	return cmd
}

// question is the request as routes would see it.
func (q *routeQuery) question() (*balancer.Question, error) {
	where, err := url.Parse(q.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%q is no URL: write one such as http://HOST/PATH, or a path", q.URL)
	case where.Scheme != "" && where.Scheme != "http" && where.Scheme != "https", where.Opaque != "":
		return nil, fmt.Errorf("%q is no URL of HTTP: write one such as http://HOST/PATH, or a path", q.URL)
	}
	question := &balancer.Question{Model: q.Model, Request: http1.Request{
		Method: q.Method, Target: targetOf(q.URL, where), Authority: where.Host, Scheme: where.Scheme, Proto: 11,
	}}
	r := &question.Request
	for _, line := range q.Headers {
		name, value, found := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case !found, !http1.IsToken(name), !http1.IsValue(value):
			return nil, fmt.Errorf("%q is no field: write it as \"Name: value\"", line)
		case strings.EqualFold(name, "Host"):
			r.Authority = value
		default:
			r.Fields = append(r.Fields, http1.Field{Name: name, Value: value})
		}
	}
	if r.Authority == "" {
		r.Authority = "localhost"
	}
	if r.Scheme == "" {
		r.Scheme = "http"
	}
	return question, nil
}

// targetOf is what a client would send for the URL, byte for byte.
func targetOf(text string, where *url.URL) string {
	text, _, _ = strings.Cut(text, "#")
	if where.Host == "" {
		return text
	}
	_, rest, _ := strings.Cut(text, "//")
	if at := strings.IndexAny(rest, "/?"); at >= 0 {
		return "/" + strings.TrimPrefix(rest[at:], "/")
	}
	return "/"
}

// ask has a running master explain.
func (q *routeQuery) ask(ctx context.Context, where *adminAddress) (balancer.Explanation, error) {
	var e balancer.Explanation
	body, err := json.Marshal(q)
	if err != nil {
		return e, fmt.Errorf("ask master: %w", err)
	}
	code, raw, err := where.exchange(ctx, http.MethodPost, "/route", bytes.NewReader(body), 10*time.Second)
	switch {
	case err != nil:
		return e, err
	case code != http.StatusOK:
		return e, errors.New(errorOf(raw))
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return e, fmt.Errorf("read explanation: %w", err)
	}
	return e, nil
}

// namedPool is a pool of which only the name counts.
type namedPool string

func (p namedPool) Name() string { return string(p) }

func (p namedPool) Acquire(context.Context, *balancer.Want) (balancer.Lease, error) {
	return nil, fmt.Errorf("pool %s is only a name", string(p))
}

// explainFile goes by a file alone.
func explainFile(file string, question *balancer.Question) (balancer.Explanation, error) {
	cfg, err := config.LoadText(file)
	if err != nil {
		return balancer.Explanation{}, err
	}
	o := balancer.Options{Routes: cfg.Routes}
	for i := range cfg.Pools {
		o.Pools = append(o.Pools, namedPool(cfg.Pools[i].Name))
	}
	b, err := balancer.New(o)
	if err != nil {
		return balancer.Explanation{}, err
	}
	return b.Explain(question), nil
}

// answerRoute is POST /route. Whoever may open the socket may know the routes;
// whoever reaches a port need not.
func (m *master) answerRoute(w http.ResponseWriter, r *http.Request) {
	if !fromSocket(r) {
		writeJSON(w, http.StatusForbidden, outcome{Error: "routes are explained on the admin socket in the run directory only"})
		return
	}
	var q routeQuery
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&q); err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Error: "no request to explain: " + err.Error()})
		return
	}
	question, err := q.question()
	if err != nil {
		writeJSON(w, http.StatusBadRequest, outcome{Error: err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, m.balancer.Explain(question))
}

// printExplanation writes one line for each route that was asked, and then what
// becomes of the request.
func printExplanation(w io.Writer, e *balancer.Explanation, asJSON bool) error {
	// The one that leads to the only pool where no route is written has neither name nor number.
	matched := slices.ContainsFunc(e.Routes, func(r balancer.Considered) bool { return r.Matches })
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		if err := enc.Encode(e); err != nil {
			return fmt.Errorf("print explanation: %w", err)
		}
	} else {
		var b strings.Builder
		for _, r := range e.Routes {
			title, why := fmt.Sprintf("#%d", r.Number), r.Why
			if r.Name != "" {
				title += " " + r.Name
			}
			if r.Matches {
				why = "matches"
			}
			if r.Matches && e.Route == "" {
				title, why = "no route is configured", "everything goes to the only pool"
			}
			fmt.Fprintf(&b, "%s: %s\n", title, why)
		}
		for _, line := range consequences(e) {
			fmt.Fprintf(&b, "→ %s\n", line)
		}
		if _, err := io.WriteString(w, printable(b.String())); err != nil {
			return fmt.Errorf("print explanation: %w", err)
		}
	}
	if !matched {
		return errNoMatch
	}
	return nil
}

// consequences say what becomes of the request.
func consequences(e *balancer.Explanation) []string {
	var lines []string
	add := func(when bool, format string, args ...any) {
		if when {
			lines = append(lines, fmt.Sprintf(format, args...))
		}
	}
	for _, p := range e.Pools {
		add(p.Percent == 100, "pool %s", p.Pool)
		add(p.Percent != 100, "pool %s, %.4g%% of such requests", p.Pool, p.Percent)
	}
	add(e.Target != "", "the engine is asked for %s", e.Target)
	add(e.Model != "", "the engine is told model %q", e.Model)
	add(e.Location != "", "%d, to %s", e.Status, e.Location)
	add(e.Status != 0 && e.Location == "" && e.Message == "", "%d, a fixed answer", e.Status)
	add(len(e.ListsModelsOf) > 0, "200, the models of %s", strings.Join(e.ListsModelsOf, ", "))
	add(e.Message != "", "%d %s: %s", e.Status, e.Code, e.Message)
	return lines
}
