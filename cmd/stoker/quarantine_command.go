package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"stoker/balancer/quarantine"
)

// quarantineQuery is what "stoker quarantine" was asked.
type quarantineQuery struct {
	where  adminAddress
	asJSON bool
}

func newQuarantineCommand() *cobra.Command {
	var q quarantineQuery
	list := func(cmd *cobra.Command, _ []string) error {
		return q.ask(cmd.Context(), cmd.OutOrStdout(), http.MethodGet, "/quarantine", nil, "")
	}
	cmd := &cobra.Command{
		Use:   "quarantine",
		Short: "Show, lift and add what is refused because it kills engines",
		Long: `Show the requests, and the schemas of requests, that were in flight on two engines
when they died, and alone in that: they are answered 422 until their time is over.`,
		Example: `  stoker quarantine
  stoker quarantine lift 3f9a1c2e00b41d77
  stoker quarantine add --pool chat --path /v1/chat/completions --body killer.json`,
		Args: noArgs,
		RunE: list,
	}
	sub := &cobra.Command{Use: "list", Short: "Show what is refused", Args: noArgs, RunE: list}
	lift := &cobra.Command{
		Use: "lift ID", Short: "Accept it again, by its id or the beginning of it",
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) != 1 {
				return usageError(errors.New("write: stoker quarantine lift ID"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			return q.ask(cmd.Context(), cmd.OutOrStdout(), http.MethodPost, "/quarantine/lift", liftOrder{ID: words[0]}, "lifted")
		},
	}
	cmd.AddCommand(sub, lift, q.addCommand())
	for _, c := range []*cobra.Command{cmd, sub, lift} {
		q.flags(c)
	}
	return cmd
}

func (q *quarantineQuery) flags(cmd *cobra.Command) {
	q.where.flags(cmd)
	cmd.Flags().BoolVar(&q.asJSON, "json", false, "print the whole document")
}

func (q *quarantineQuery) addCommand() *cobra.Command {
	var o addOrder
	var file string
	cmd := &cobra.Command{
		Use: "add", Short: "Refuse a request before it kills any engine", Args: noArgs,
		Long: `Refuse a request from now on, whatever order its JSON is in; with --schema every request
with the same schema, grammar or tools.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Pool == "" || o.Target == "" && !o.Schema {
				return usageError(errors.New("write: stoker quarantine add --pool POOL --path PATH [--body FILE] [--schema]"))
			}
			body, err := readBody(cmd.InOrStdin(), file)
			if err != nil {
				return err
			}
			o.Body = string(body)
			return q.ask(cmd.Context(), cmd.OutOrStdout(), http.MethodPost, "/quarantine/add", o, "added")
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Pool, "pool", "", "the pool that it goes to")
	f.StringVar(&o.Method, "method", http.MethodPost, "its method")
	f.StringVar(&o.Target, "path", "", "its path, and query where it has one")
	f.StringVar(&file, "body", "", "file that holds its body; - is standard input")
	f.BoolVar(&o.Schema, "schema", false, "refuse all with the same schema fields")
	f.StringVar(&o.TTL, "ttl", "", "for how long (default quarantine.ttl)")
	q.flags(cmd)
	return cmd
}

func readBody(stdin io.Reader, file string) ([]byte, error) {
	switch file {
	case "":
		return nil, nil
	case "-":
		return io.ReadAll(stdin)
	}
	body, err := os.ReadFile(file) //nolint:gosec // the operator names it
	if err != nil {
		return nil, fmt.Errorf("read body: %w", err)
	}
	return body, nil
}

// ask asks the master and prints what it says.
func (q *quarantineQuery) ask(ctx context.Context, w io.Writer, method, path string, o any, verb string) error {
	var body io.Reader
	if o != nil {
		text, err := json.Marshal(o)
		if err != nil {
			return fmt.Errorf("ask master: %w", err)
		}
		body = bytes.NewReader(text)
	}
	code, raw, err := q.where.exchange(ctx, method, path, body, 10*time.Second)
	switch {
	case err != nil:
		return err
	case code == http.StatusBadRequest:
		return usageError(errors.New(errorOf(raw)))
	case code != http.StatusOK:
		return errors.New(errorOf(raw))
	case q.asJSON:
		_, err = w.Write(raw)
		return err
	}
	var doc quarantined
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("read the master's answer: %w", err)
	}
	if verb != "" {
		for i := range doc.Convictions {
			fmt.Fprintf(w, "%s %s: %s\n", verb, doc.Convictions[i].ID, doc.Convictions[i].Path)
		}
		return nil
	}
	return printQuarantine(w, &doc)
}

func printQuarantine(w io.Writer, doc *quarantined) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(doc.Convictions) > 0 {
		fmt.Fprintln(table, "ID\tKIND\tPOOL\tREQUEST\tSINCE\tUNTIL\tREFUSED\tCRASHES")
	}
	for i := range doc.Convictions {
		fmt.Fprintln(table, strings.Join(convictionCells(&doc.Convictions[i]), "\t"))
	}
	if err := table.Flush(); err != nil {
		return fmt.Errorf("print quarantine: %w", err)
	}
	if len(doc.Convictions) == 0 {
		fmt.Fprintln(w, "nothing is quarantined")
	}
	if doc.Suspicions > 0 {
		fmt.Fprintf(w, "deaths with suspects, whose like is tried one at a time, apart from others: %d\n", doc.Suspicions)
	}
	return nil
}

func convictionCells(c *quarantine.Conviction) []string {
	crashes := strings.Join(c.Crashes(), " ")
	if crashes == "" {
		crashes = "-"
	}
	const day = "2006-01-02 15:04:05"
	return []string{
		c.ID, string(c.Kind), c.Pool, printable(c.Method + " " + c.Path), c.Since.Local().Format(day), c.Expires.Local().Format(day),
		fmt.Sprint(c.Refused), crashes,
	}
}
