package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"stoker/balancer/recorder"
	"stoker/config"
	"stoker/internal/crash"
	"stoker/supervisor"
)

// crashPlace is where a command looks for crash reports; it needs no master.
type crashPlace struct {
	where    adminAddress
	stateDir string
}

func (p *crashPlace) flags(cmd *cobra.Command) {
	p.where.flags(cmd)
	cmd.Flags().StringVar(&p.stateDir, "state-dir", "", "the master's state directory (default what its run directory or file says)")
}

// store is what the last master in the run directory wrote to, or the next one would.
func (p *crashPlace) store() (*crash.Store, error) {
	cfg, err := p.where.config()
	if err != nil {
		return nil, err
	}
	dir := cfg.StateDir
	if target, err := os.Readlink(cfg.StateLink()); err == nil {
		dir = target
	}
	if p.stateDir != "" {
		dir = p.stateDir
	}
	return &crash.Store{Dir: config.CrashDirIn(dir)}, nil
}

// open reads the report that a word means.
func (p *crashPlace) open(s *crash.Store, word string) (*crash.Report, error) {
	r, err := s.Open(word)
	switch {
	case errors.Is(err, fs.ErrPermission):
		err = fmt.Errorf("%w; reports are for the master's user alone", err)
	case errors.Is(err, crash.ErrNoReport):
		err = fmt.Errorf("%w in %s; stoker crashes lists them, and --run-dir or -c name another master", err, s.Dir)
	case errors.Is(err, crash.ErrAmbiguous):
		err = usageError(err)
	}
	return r, err
}

// crashQuery is what "stoker crashes" was asked for.
type crashQuery struct {
	place   crashPlace
	id      string
	suspect int
	to      string
	asJSON  bool
	output  bool
}

func newCrashesCommand() *cobra.Command {
	var q crashQuery
	cmd := &cobra.Command{
		Use:   "crashes [ID]",
		Short: "Show how engines died, and what they were asked then",
		Long: `Show the reports of engines that died, or one of them: the exact exit, the last
output, and the suspects, which are the requests that the engine had when it
died. ID is an id, the beginning of one, a worker (its latest), or "latest".
No master needs to run.`,
		Example: `  stoker crashes
  stoker crashes latest
  stoker crashes chat-0 --suspect 1
  stoker replay latest --to http://127.0.0.1:9001`,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) > 1 {
				return usageError(errors.New("write: stoker crashes [ID]"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			if len(words) == 1 {
				q.id = words[0]
			}
			if q.id == "" && (q.suspect != 0 || q.output) {
				return usageError(errors.New("--suspect and --output need an ID: stoker crashes latest"))
			}
			return q.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	q.place.flags(cmd)
	f := cmd.Flags()
	f.BoolVar(&q.asJSON, "json", false, "print the whole document")
	f.IntVar(&q.suspect, "suspect", 0, "print all of the suspect of that number, with its answer as far as it had come")
	f.BoolVar(&q.output, "output", false, "print the engine's last output alone, as it was written")
	f.StringVar(&q.to, "to", "", "where the curl commands send to, as http://HOST:PORT (default where the requests were sent)")
	cmd.MarkFlagsMutuallyExclusive("json", "suspect", "output")
	return cmd
}

func (q *crashQuery) run(_ context.Context, w io.Writer) error {
	store, err := q.place.store()
	if err != nil {
		return err
	}
	if q.id == "" {
		return q.list(w, store)
	}
	r, err := q.place.open(store, q.id)
	if err != nil {
		return err
	}
	switch {
	case q.output:
		_, err = w.Write(r.Death.Output)
	case q.asJSON:
		err = printDocument(w, wholeReport{Report: r, Output: string(r.Death.Output), Exchanges: r.Suspects})
	case q.suspect != 0:
		var x *recorder.Exchange
		if x, err = suspectOf(r, q.suspect); err != nil {
			return err
		}
		if err = printRequests(w, []recorder.Exchange{*x}); err == nil {
			_, err = fmt.Fprintf(w, "\n%s\n", x.Request.Curl(baseOf(x, q.to)))
		}
	default:
		_, err = io.WriteString(w, printable(crashText(r, store.Dir, q.to, time.Now())))
	}
	if err != nil {
		return fmt.Errorf("print crash report: %w", err)
	}
	return nil
}

// wholeReport is a report as one document, which on disk is several files.
type wholeReport struct {
	*crash.Report

	Output    string              `json:"output"`
	Exchanges []recorder.Exchange `json:"recorded_suspects"`
}

func printDocument(w io.Writer, document any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(document)
}

// suspectOf is the suspect of a number, from 1.
func suspectOf(r *crash.Report, number int) (*recorder.Exchange, error) {
	if number < 1 || number > len(r.Suspects) {
		return nil, usageError(fmt.Errorf("crash %s has %s, and none of number %d", r.ID, count(len(r.Suspects), "suspect"), number))
	}
	return &r.Suspects[number-1], nil
}

func count(n int, what string) string {
	switch n {
	case 0:
		return "no " + what
	case 1:
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// list prints the table, the latest last, where a terminal shows it.
func (q *crashQuery) list(w io.Writer, store *crash.Store) error {
	ids, err := store.IDs()
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w; reports are for the master's user alone", err)
	}
	if err != nil {
		return err
	}
	reports := make([]*crash.Report, 0, len(ids))
	for _, id := range ids {
		r, err := store.Peek(id)
		if errors.Is(err, crash.ErrNoReport) {
			continue // it has just made room for another
		}
		if err != nil {
			r = &crash.Report{ID: id, Death: supervisor.Death{Exit: supervisor.ExitStatus{Text: err.Error()}}}
		}
		reports = append(reports, r)
	}
	if q.asJSON {
		return printDocument(w, map[string]any{"dir": store.Dir, "crashes": reports})
	}
	if len(reports) == 0 {
		fmt.Fprintf(w, "no crash reports in %s\n", store.Dir)
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tWHEN\tAGO\tWORKER\tEXIT\tUPTIME\tSUSPECTS")
	for _, r := range reports {
		d := &r.Death
		when, ago := "-", "-"
		if !d.Ended.IsZero() {
			when, ago = d.Ended.Local().Format("01-02 15:04:05"), age(time.Since(d.Ended))
		}
		fmt.Fprintln(t, printable(fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%d", r.ID, when, ago, orDash(d.Worker), exitWords(d), shortly(d.Uptime()), len(r.Summaries))))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print crash reports: %w", err)
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// age is how long ago, as coarse as it is worth reading.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours())/24)
	}
}

// exitWords say how it ended, and why it was ended where somebody had to.
func exitWords(d *supervisor.Death) string {
	if d.Cause == "" || strings.HasPrefix(d.Cause, d.Exit.Text) {
		return d.Exit.Text
	}
	return d.Exit.Text + "; " + d.Cause
}

// Bounds of what is shown at once.
const (
	shownLines    = 20
	shownSuspects = 20
	shownCurl     = 4 << 10
)

// crashText is a report for people.
func crashText(r *crash.Report, dir, to string, now time.Time) string {
	var b strings.Builder
	d := &r.Death
	fmt.Fprintf(&b, "crash %s\n\n", r.ID)
	fmt.Fprintf(&b, "worker   %s of pool %s, pid %d\n", d.Worker, d.Pool, d.PID)
	fmt.Fprintf(&b, "ended    %s, %s ago, after %s\n", d.Ended.Local().Format("2006-01-02 15:04:05.000 MST"), age(now.Sub(d.Ended)), shortly(d.Uptime()))
	fmt.Fprintf(&b, "exit     %s\n", d.Exit.Text)
	if words := exitWords(d); words != d.Exit.Text {
		fmt.Fprintf(&b, "cause    %s\n", d.Cause)
	}
	if d.Failures > 0 {
		fmt.Fprintf(&b, "in a row %s before it\n", count(d.Failures, "failure"))
	}
	if text := poolText(r.Pool); text != "" {
		fmt.Fprintf(&b, "pool     %s\n", text)
	}
	fmt.Fprintf(&b, "files    %s\n", filepath.Join(dir, r.ID))
	outputText(&b, r)
	suspectsText(&b, r, to)
	return b.String()
}

// poolText says how the pool was then.
func poolText(raw json.RawMessage) string {
	var pool supervisor.PoolStatus
	if len(raw) == 0 || json.Unmarshal(raw, &pool) != nil {
		return ""
	}
	var all []string
	for i := range pool.Workers {
		w := &pool.Workers[i]
		text := w.Name + " " + string(w.State)
		if w.InFlight > 0 {
			text += fmt.Sprintf(" (%d in flight)", w.InFlight)
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

func outputText(b *strings.Builder, r *crash.Report) {
	text := strings.TrimRight(string(r.Death.Output), "\n")
	if text == "" {
		b.WriteString("\nThe engine's last output is not known.\n")
		return
	}
	lines := strings.Split(text, "\n")
	if left := len(lines) - shownLines; left > 0 {
		fmt.Fprintf(b, "\nLast output (%s before: stoker crashes %s --output)\n", count(left, "line"), r.ID)
		lines = lines[left:]
	} else {
		b.WriteString("\nLast output\n")
	}
	for _, line := range lines {
		fmt.Fprintf(b, "  %s\n", strings.TrimRight(line, "\r"))
	}
}

func suspectsText(b *strings.Builder, r *crash.Report, to string) {
	switch {
	case len(r.Suspects) > 0:
		fmt.Fprintf(b, "\n%s: what the engine had when it died, the likeliest first\n", count(len(r.Suspects), "suspect"))
	case !r.Recorded:
		b.WriteString("\nSuspects are not known: the recorder is off (recorder.enabled).\n")
	default:
		b.WriteString("\nNo suspects: the engine had no request of this master's.\n")
	}
	if r.Trimmed > 0 {
		fmt.Fprintf(b, "%s without bodies, for want of room (crashes.size_mib)\n", count(r.Trimmed, "suspect"))
	}
	for i := range r.Suspects {
		if i == shownSuspects {
			fmt.Fprintf(b, "\n%s more: --suspect N shows one, --json all\n", count(len(r.Suspects)-i, "suspect"))
			return
		}
		suspectText(b, r, i, to)
	}
}

func suspectText(b *strings.Builder, r *crash.Report, i int, to string) {
	x := &r.Suspects[i]
	state := "no answer yet"
	switch {
	case r.Answered(x):
		state = fmt.Sprintf("status %d, %d bytes of its answer", x.Response.Status, x.Response.Body.Size)
	case x.Status != 0:
		state += fmt.Sprintf("; its client was told %d", x.Status)
	}
	fmt.Fprintf(b, "\n%d. %s %s\n   id %s, %s before the end, %d bytes, %s\n", i+1, x.Request.Method, x.Request.Target,
		x.ID, shortly(max(r.Death.Ended.Sub(x.Start), 0)), x.Request.Body.Size, state)
	curl := x.Request.Curl(baseOf(x, to))
	if len(curl) > shownCurl {
		fmt.Fprintf(b, "   the curl command has %d KiB: stoker crashes %s --suspect %d\n", len(curl)>>10, r.ID, i+1)
		return
	}
	for line := range strings.Lines(curl + "\n") {
		b.WriteString("   " + line)
	}
}

// baseOf is where a request is sent to again by hand.
func baseOf(x *recorder.Exchange, to string) string {
	if to == "" {
		to = x.Request.Scheme + "://" + x.Request.Authority
	}
	return strings.TrimSuffix(to, "/")
}
