package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"stoker/balancer/recorder"
)

// followEvery is how often --follow looks for what has ended since.
const followEvery = 200 * time.Millisecond

// requestsQuery is what "stoker requests" was asked for.
type requestsQuery struct {
	where              adminAddress
	worker, id, to     string
	follow             bool
	asJSON, har, curls bool
}

func newRequestsCommand() *cobra.Command {
	var q requestsQuery
	cmd := &cobra.Command{
		Use:   "requests [ID]",
		Short: "Show the last requests of each worker and those in flight, as they were recorded",
		Long: `Show what the flight recorder of a running master holds: the requests in flight
and the last that have ended on each worker. With an ID (X-Request-Id), all that
was kept of that one. Secrets are not in it.`,
		Example: `  stoker requests --worker chat-0
  stoker requests --curl 0195f3c2-77aa-7c11-8a53-5b1c1f0a9d1e
  stoker requests --har > requests.har`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) > 1 {
				return usageError(errors.New("write: stoker requests [ID]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) == 1 {
				q.id = words[0]
			}
			if q.follow && (q.id != "" || q.asJSON || q.har || q.curls) {
				return usageError(errors.New("--follow writes the table: it goes with --worker alone"))
			}
			return q.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	q.where.flags(cmd)
	f := cmd.Flags()
	f.StringVarP(&q.worker, "worker", "w", "", "only what this worker or server had an attempt at")
	f.BoolVarP(&q.follow, "follow", "f", false, "go on, with a line for each request that ends")
	f.BoolVar(&q.asJSON, "json", false, "print the whole document")
	f.BoolVar(&q.har, "har", false, "print an HTTP archive (HAR 1.2)")
	f.BoolVar(&q.curls, "curl", false, "print each as a curl command")
	f.StringVar(&q.to, "to", "", "where --curl sends them, as http://HOST:PORT (default where they were sent)")
	cmd.MarkFlagsMutuallyExclusive("json", "har", "curl")
	return cmd
}

func (q *requestsQuery) run(ctx context.Context, w io.Writer) error {
	if q.follow {
		return q.followThem(ctx, w)
	}
	all, raw, err := q.fetch(ctx)
	switch {
	case err != nil:
		return err
	case q.id != "" && !q.har && len(all) == 0:
		return fmt.Errorf("no request %s is kept: the last of each worker are (recorder.keep)", q.id)
	case q.asJSON || q.har:
		_, err = w.Write(raw)
	case q.curls:
		err = printCurls(w, all, q.to)
	case q.id != "":
		err = printRequests(w, all)
	default:
		err = printRequestTable(w, all, time.Now())
	}
	if err != nil {
		return fmt.Errorf("print requests: %w", err)
	}
	return nil
}

// fetch asks the master; what a HAR holds comes as bytes alone.
func (q *requestsQuery) fetch(ctx context.Context) ([]recorder.Exchange, []byte, error) {
	v := url.Values{}
	set := func(key, value string, when bool) {
		if when {
			v.Set(key, value)
		}
	}
	set("worker", q.worker, q.worker != "")
	set("id", q.id, q.id != "")
	set("format", "har", q.har)
	set("bodies", "no", q.id == "" && !q.asJSON && !q.har && !q.curls)
	code, raw, err := q.where.exchange(ctx, http.MethodGet, "/requests?"+v.Encode(), nil, 30*time.Second)
	switch {
	case err != nil:
		return nil, nil, err
	case code != http.StatusOK:
		return nil, nil, errors.New(errorOf(raw))
	case q.har:
		return nil, raw, nil
	}
	var doc recorded
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, nil, fmt.Errorf("read requests: %w", err)
	}
	return doc.Requests, raw, nil
}

// followThem prints what ends until it is interrupted, or the master has gone.
func (q *requestsQuery) followThem(ctx context.Context, w io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	var seen followed
	fmt.Fprintln(w, strings.Join(requestColumns, "  "))
	for {
		all, _, err := q.fetch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, x := range seen.news(all, time.Now()) {
			if _, err := fmt.Fprintln(w, strings.Join(requestCells(x, time.Now()), "  ")); err != nil {
				return fmt.Errorf("print requests: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followEvery):
		}
	}
}

// followed is what has been printed, and when it was last there.
type followed map[followedID]time.Time

type followedID struct {
	id  string
	seq uint64
}

// followedTime is how long it is known of what is not there any more that it was
// printed: after an upgrade what was recorded before comes again, bit by bit.
const followedTime = time.Minute

// news is what has ended and was not there before.
func (f *followed) news(all []recorder.Exchange, now time.Time) (news []*recorder.Exchange) {
	if *f == nil {
		*f = followed{}
	}
	for i := range all {
		x := &all[i]
		if x.End == nil {
			continue
		}
		id := followedID{x.ID, x.Seq}
		if _, known := (*f)[id]; !known {
			news = append(news, x)
		}
		(*f)[id] = now
	}
	for id, last := range *f {
		if now.Sub(last) > followedTime {
			delete(*f, id)
		}
	}
	return news
}

var requestColumns = []string{"BEGAN", "ID", "WORKER", "REQUEST", "IN", "STATUS", "OUT", "FIRST BYTE", "TOOK", "OUTCOME"}

// requestCells is one line of the table.
func requestCells(x *recorder.Exchange, now time.Time) []string {
	first, took, status, result, worker := "-", now.Sub(x.Start), "-", "in flight", x.Worker
	if x.First != nil {
		first = shortly(x.First.Sub(x.Start))
	}
	var out int64
	if x.Response != nil {
		out = x.Response.Body.Size
		status = fmt.Sprint(x.Response.Status)
	}
	if x.Status != 0 {
		status = fmt.Sprint(x.Status)
	}
	if x.End != nil {
		took, result = x.End.Sub(x.Start), x.Outcome
	}
	if worker == "" {
		worker = "-"
	}
	if n := len(x.Attempts); n > 1 {
		worker += fmt.Sprintf(" (attempt %d)", n)
	}
	cells := []string{
		x.Start.Local().Format("15:04:05.000"), x.ID, worker, x.Request.Method + " " + x.Request.Target,
		fmt.Sprint(x.Request.Body.Size), status, fmt.Sprint(out), first, shortly(took), result,
	}
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	return cells
}

// printable takes out what a terminal would obey: the text is clients' and engines'.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// shortly rounds to what is worth reading.
func shortly(d time.Duration) string {
	if d < time.Second {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(10 * time.Millisecond).String()
}

func printRequestTable(w io.Writer, all []recorder.Exchange, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(requestColumns, "\t"))
	for i := range all {
		fmt.Fprintln(t, strings.Join(requestCells(&all[i], now), "\t"))
	}
	return t.Flush()
}

func printCurls(w io.Writer, all []recorder.Exchange, to string) error {
	for i := range all {
		x := &all[i]
		base := to
		if base == "" {
			base = x.Request.Scheme + "://" + x.Request.Authority
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s\n", x.ID, x.Request.Curl(strings.TrimSuffix(base, "/"))); err != nil {
			return err
		}
	}
	return nil
}

// printRequests writes requests and answers as they were on the wire, but for
// what was left out.
func printRequests(w io.Writer, all []recorder.Exchange) error {
	var b strings.Builder
	for i := range all {
		x := &all[i]
		fmt.Fprintf(&b, "request %s of %s: %s\n", x.ID, x.Client, strings.Join(requestCells(x, time.Now())[2:], "  "))
		for _, a := range x.Attempts {
			how := "no fault"
			switch {
			case a.End == nil:
				how = "in flight"
			case a.Error != "":
				how = a.Error
			}
			fmt.Fprintf(&b, "  attempt at %s on %s: %s\n", a.Start.Local().Format("15:04:05.000"), a.Worker, how)
		}
		if x.Error != "" {
			fmt.Fprintf(&b, "  error: %s\n", x.Error)
		}
		fmt.Fprintf(&b, "\n%s %s %s\nHost: %s\n", x.Request.Method, x.Request.Target, x.Request.Proto, x.Request.Authority)
		printMessage(&b, x.Request.Fields, &x.Request.Body)
		if x.Response != nil {
			fmt.Fprintf(&b, "\nHTTP/1.1 %d\n", x.Response.Status)
			printMessage(&b, x.Response.Fields, &x.Response.Body)
		}
	}
	_, err := io.WriteString(w, printable(b.String()))
	return err
}

func printMessage(b *strings.Builder, fields []recorder.Field, body *recorder.Body) {
	for _, f := range fields {
		fmt.Fprintf(b, "%s: %s\n", f.Name, f.Value)
	}
	b.WriteString("\n" + body.Head)
	if body.Omitted > 0 {
		fmt.Fprintf(b, "\n… %d of %d bytes were not kept …\n", body.Omitted, body.Size)
	}
	b.WriteString(body.Tail)
	if body.Size > 0 && !strings.HasSuffix(body.Head+body.Tail, "\n") {
		b.WriteString("\n")
	}
}
