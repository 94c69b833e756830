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
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"stoker/balancer/tokens"
	"stoker/config"
	"stoker/supervisor"
	"stoker/upstream"
)

func newStatusCommand() *cobra.Command {
	var where adminAddress
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the workers and servers of a running master",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			raw, err := where.get(cmd.Context(), "/status")
			if err != nil {
				return err
			}
			if asJSON {
				_, err := cmd.OutOrStdout().Write(raw)
				return err
			}
			var s status
			if err := json.Unmarshal(raw, &s); err != nil {
				return fmt.Errorf("read status: %w", err)
			}
			return printStatus(cmd.OutOrStdout(), &s, time.Now())
		},
	}
	where.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the whole document")
	return cmd
}

// adminAddress is how a command finds the master it speaks to.
type adminAddress struct{ file, runDir string }

func (a *adminAddress) flags(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&a.file, "config", "c", "", "the master's configuration file")
	cmd.Flags().StringVar(&a.runDir, "run-dir", "", "the master's run directory (default that of the file, or of stoker run)")
}

// config is the master's, as far as it can be known from here.
func (a *adminAddress) config() (*config.Config, error) {
	cfg := config.Default()
	if a.file != "" {
		var err error
		if cfg, err = config.LoadPlaces(a.file); err != nil {
			return nil, err
		}
	}
	if a.runDir != "" {
		cfg.MoveRunDir(a.runDir)
	}
	return cfg, nil
}

// socket is the path of the master's admin socket.
func (a *adminAddress) socket() (string, error) {
	cfg, err := a.config()
	if err != nil {
		return "", err
	}
	return cfg.AdminSocket(), nil
}

// get asks the master's admin socket.
func (a *adminAddress) get(ctx context.Context, path string) ([]byte, error) {
	code, body, err := a.exchange(ctx, http.MethodGet, path, nil, 10*time.Second)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("master answered %d: %s", code, body)
	}
	return body, err
}

// exchange has the master answer one request; limit 0: however long it takes.
func (a *adminAddress) exchange(ctx context.Context, method, path string, content io.Reader, limit time.Duration) (int, []byte, error) {
	socket, err := a.socket()
	if err != nil {
		return 0, nil, err
	}
	client := http.Client{
		Timeout: limit,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}},
	}
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, method, "http://stoker"+path, content)
	if err != nil {
		return 0, nil, fmt.Errorf("ask master: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		if asked := (*url.Error)(nil); errors.As(err, &asked) {
			err = asked.Err // the URL means nothing to who asks: it is made up
		}
		return 0, nil, fmt.Errorf("no master answers at %s (is it running? name its directory with --run-dir or its file with -c): %w", socket, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, nil, fmt.Errorf("read answer of %s: %w", socket, err)
	}
	return resp.StatusCode, body, nil
}

// printStatus writes the table: one line per worker and server.
func printStatus(w io.Writer, s *status, now time.Time) error {
	fmt.Fprintf(w, "stoker %s, pid %d, generation %d: %s\n\n", s.Version, s.PID, s.Generation, s.State)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tNAME\tSTATE\tFOR\tHEALTH\tLOAD\tBREAKER\tIN FLIGHT\tRESTARTS\tPID\tADDRESS\tLAST EXIT")
	for _, pool := range s.Pools {
		for _, worker := range pool.Workers {
			printWorker(t, pool.Name, &worker, now)
		}
		for _, server := range pool.Servers {
			fmt.Fprintf(t, "%s\t%s\t%s\t-\t%s\t%s\t%s\t%d\t-\t-\t%s\t-\n", pool.Name, server.Name+tierMark(server.Tier), string(server.State)+wishMark(server.Wish, string(server.State)),
				healthText(server.Health), loadText(server.Load), breakerText(server.Breaker), server.InFlight, server.Address)
		}
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	return printTokens(w, s.Tokens)
}

// printTokens writes the table of models, if there is anything to say.
func printTokens(w io.Writer, all []tokens.Summary) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POOL\tMODEL\tANSWERS\tPROMPT TOKENS\tCACHED\tTOKENS\tFIRST TOKEN P50\tP90\tBETWEEN TOKENS P50\tP90\tSTREAMS MOVED\tBROKEN\tTOKENS REPLAYED")
	ms := func(n float64) string {
		if n == 0 {
			return "-"
		}
		return fmt.Sprintf("%.3g ms", n)
	}
	for _, one := range all {
		cached := "-"
		if one.CachedShare != nil {
			cached = fmt.Sprintf("%.0f %%", 100**one.CachedShare)
		}
		fmt.Fprintf(t, "%s\t%s\t%d\t%d\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%d\n", one.Pool, one.Model, one.Answers, one.PromptTokens, cached, one.CompletionTokens,
			ms(one.FirstTokenP50), ms(one.FirstTokenP90), ms(one.BetweenTokensP50), ms(one.BetweenTokensP90), one.Migrated, one.MigrationsFailed, one.ReplayedTokens)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("print status: %w", err)
	}
	return nil
}

// tierMark shows who serves only while others cannot.
func tierMark(tier int) string {
	if tier > 0 {
		return " (backup)"
	}
	return ""
}

// wishMark shows a wish that the state does not show yet.
func wishMark(wish, state string) string {
	if wish == "stop" && state != string(supervisor.Stopped) && state != string(supervisor.ServerDrained) {
		return " (stop wished)"
	}
	return ""
}

// healthText is how an upstream is judged, and why if it is not well.
func healthText(h *supervisor.Health) string {
	switch {
	case h == nil:
		return "-"
	case h.Reason == "":
		return h.State
	default:
		return h.State + " (" + h.Reason + ")"
	}
}

// loadText is what an engine says of its own load.
func loadText(l *supervisor.Load) string {
	if l == nil {
		return "-"
	}
	var said []string
	if l.Waiting != nil {
		said = append(said, fmt.Sprintf("%.0f waiting", *l.Waiting))
	}
	if l.CacheUsage != nil {
		said = append(said, fmt.Sprintf("cache %.0f %%", 100**l.CacheUsage))
	}
	return l.Pressure + " (" + strings.Join(said, ", ") + ")"
}

// breakerText is the word that people use for the state of a breaker.
func breakerText(b upstream.BreakerState) string {
	if b == upstream.BreakerHalfOpen {
		return "trial"
	}
	return string(b)
}

func printWorker(t io.Writer, pool string, w *supervisor.WorkerStatus, now time.Time) {
	pid, exit := "-", "-"
	if w.PID > 0 {
		pid = strconv.Itoa(w.PID)
	}
	if w.LastExit != nil {
		exit = w.LastExit.Text
	}
	fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", pool, w.Name, string(w.State)+wishMark(w.Wish, string(w.State)),
		now.Sub(w.Since).Round(time.Second), healthText(w.Health), loadText(w.Load), breakerText(w.Breaker), w.InFlight, w.Restarts, pid, w.Address, exit)
}
