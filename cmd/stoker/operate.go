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
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// operation is one command that gives a running master an order and waits for
// its report.
type operation struct {
	use, short, long string
	// args is how many words follow the command.
	args int
	// words writes them into the order, which flags have been written into.
	words func(words []string, o *order) error
	flags func(cmd *cobra.Command, o *order)
}

// operations by the path that they are posted to.
func operations() map[string]operation {
	named := func(words []string, o *order) error {
		o.Name = words[0]
		return nil
	}
	return map[string]operation{
		"drain": {
			use: "drain NAME", short: "Take a worker, server or pool out of service and wait for its requests", args: 1, words: named,
			long: `Take a worker, a server or all of a pool out of service: no new requests; those
there may finish for drain_timeout; then the engine is asked to end, and what is
left of it after stop.grace is killed. It stays out until stoker resume.
A remote server is left alone otherwise: out of the pool, its requests finish.`,
			flags: func(cmd *cobra.Command, o *order) {
				cmd.Flags().StringVar(&o.Timeout, "timeout", "", "how long requests may take to finish (default the pool's drain_timeout)")
				cmd.Flags().BoolVar(&o.Migrate, "migrate", false, "let streams of tokens go on elsewhere where they can, as drain = \"migrate\" does")
			},
		},
		"resume":  {use: "resume NAME", short: "Let a drained or stopped worker, server or pool serve again", args: 1, words: named},
		"restart": {use: "restart NAME", short: "Replace a worker's engine; a pool's one by one, ready before the next", args: 1, words: named},
		"stop":    {use: "stop NAME", short: "End a worker or all of a pool at once, without letting requests finish", args: 1, words: named},
		"scale": {
			use: "scale POOL N", short: "Give a pool another number of workers, until the next reload", args: 2,
			words: func(words []string, o *order) error {
				n, err := strconv.Atoi(words[1])
				if err != nil || n < 1 {
					return fmt.Errorf("%q is no number of workers: write 1 or more", words[1])
				}
				o.Name, o.Workers = words[0], n
				return nil
			},
		},
	}
}

// newOperationCommands are the commands of the table, and shutdown.
func newOperationCommands() []*cobra.Command {
	commands := []*cobra.Command{newShutdownCommand(), newReloadCommand()}
	for verb, op := range operations() {
		commands = append(commands, newOperationCommand(verb, op))
	}
	return commands
}

func newOperationCommand(verb string, op operation) *cobra.Command {
	var where adminAddress
	var asJSON bool
	var given order
	cmd := &cobra.Command{
		Use: op.use, Short: op.short, Long: op.long,
		Args: func(_ *cobra.Command, words []string) error {
			if len(words) != op.args {
				return usageError(fmt.Errorf("write: stoker %s", op.use))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, words []string) error {
			o := given
			if err := op.words(words, &o); err != nil {
				return usageError(err)
			}
			return where.command(cmd.Context(), cmd.OutOrStdout(), verb, o, asJSON)
		},
	}
	where.flags(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the whole report")
	if op.flags != nil {
		op.flags(cmd, &given)
	}
	return cmd
}

// command gives an order, waits, and prints how it went.
func (a *adminAddress) command(ctx context.Context, w io.Writer, verb string, o order, asJSON bool) error {
	done, raw, err := a.post(ctx, "/"+verb, o)
	if err != nil {
		return err
	}
	if asJSON {
		if _, err := w.Write(raw); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	} else {
		printOutcome(w, done)
	}
	switch {
	case done.Error == "":
		return nil
	case done.refused:
		return usageError(errors.New(done.Error))
	default:
		return errors.New(done.Error)
	}
}

// printOutcome is the one line, and one for each member where there are several.
func printOutcome(w io.Writer, done *outcome) {
	if done.Message != "" {
		fmt.Fprintln(w, done.Message)
	}
	if done.Plan != nil && !done.Plan.Empty() {
		_ = done.Plan.Print(w) // as all that is printed here
	}
	if done.Report == nil || done.Plan == nil && len(done.Report.Members) < 2 {
		return
	}
	for _, m := range done.Report.Members {
		text := m.Text
		if m.Error != "" {
			text += ": " + m.Error
		}
		fmt.Fprintf(w, "  %s: %s\n", m.Name, text)
	}
}

// post gives the master an order. It waits for as long as that takes: drains
// and loads have limits of their own.
func (a *adminAddress) post(ctx context.Context, path string, o order) (*outcome, []byte, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return nil, nil, fmt.Errorf("ask master: %w", err)
	}
	for {
		status, raw, err := a.exchange(ctx, http.MethodPost, path, bytes.NewReader(body), 0)
		if err != nil {
			return nil, nil, err
		}
		var done outcome
		if err := json.Unmarshal(raw, &done); err != nil {
			return nil, nil, fmt.Errorf("master answered %d: %s", status, bytes.TrimSpace(raw))
		}
		if !done.HandedOver {
			done.refused = status == http.StatusBadRequest
			return &done, raw, nil
		}
		// Within upgrade_timeout it leaves the socket to its successor.
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// askAgain paces an order that a master in an upgrade does not take any more.
const askAgain = 50 * time.Millisecond

func newReloadCommand() *cobra.Command {
	var where adminAddress
	var dryRun, asJSON bool
	cmd := &cobra.Command{
		Use: "reload", Short: "Have a running master read its file anew, and go by it", Args: noArgs,
		Long: `Have a running master read its file anew. What has not changed is not touched;
workers whose engine is started differently are replaced one by one, each ready
before the next is drained. A file with problems changes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return where.command(cmd.Context(), cmd.OutOrStdout(), "reload", order{DryRun: dryRun}, asJSON)
		},
	}
	where.flags(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be done")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the whole report")
	return cmd
}

func newShutdownCommand() *cobra.Command {
	var where adminAddress
	cmd := &cobra.Command{
		Use: "shutdown", Short: "End a running master gracefully, and wait until it has ended", Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			began := time.Now()
			s, err := where.shutDown(cmd.Context())
			for err == nil {
				if !where.hasSuccessor(cmd.Context(), s) {
					fmt.Fprintf(cmd.OutOrStdout(), "stoker (pid %d) has ended after %s\n", s.PID, since(began))
					return nil
				}
				s, err = where.shutDown(cmd.Context())
			}
			return err
		},
	}
	where.flags(cmd)
	return cmd
}

// status asks the master for its own.
func (a *adminAddress) status(ctx context.Context) (*status, error) {
	raw, err := a.get(ctx, "/status")
	if err != nil {
		return nil, err
	}
	var s status
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("read status: %w", err)
	}
	return &s, nil
}

// hasSuccessor: a master that was handing over when it was told to end has one,
// which has been told as well. One that somebody has started since is none.
func (a *adminAddress) hasSuccessor(ctx context.Context, ended *status) bool {
	next, err := a.status(ctx)
	return err == nil && next.Generation > ended.Generation
}

// shutDown has the master that answers now end, unless it does so already, and
// waits until it has ended.
func (a *adminAddress) shutDown(ctx context.Context) (*status, error) {
	s, err := a.status(ctx)
	if err != nil {
		return nil, err
	}
	// Opened before the order: afterwards the number may be another's.
	process, visible, err := a.watch(s.PID)
	if err != nil {
		return s, fmt.Errorf("watch master %d: %w", s.PID, err)
	}
	defer func() { _ = unix.Close(process) }()
	if s.State != draining.String() && s.State != stopping.String() {
		if err := a.command(ctx, io.Discard, "shutdown", order{}, false); err != nil {
			return s, err
		}
	}
	if !visible {
		return s, a.awaitSilence(ctx, s)
	}
	if err := awaitProcess(process); err != nil {
		return s, fmt.Errorf("watch master %d: %w", s.PID, err)
	}
	return s, nil
}

// watch opens the master's process. It is not visible from here where the
// number is one of another pid namespace, a container's: then nobody has it, or
// a stranger does, who does not hold the run directory's lock.
func (a *adminAddress) watch(pid int) (process int, visible bool, err error) {
	cfg, err := a.config()
	if err != nil {
		return -1, false, err
	}
	lock, err := os.Stat(cfg.LockFile())
	if err != nil {
		return -1, false, err
	}
	process, err = unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return -1, false, nil
	}
	return process, err == nil && holdsLock(pid, lock), err
}

// awaitSilence blocks until nobody answers, or another than s said to be.
func (a *adminAddress) awaitSilence(ctx context.Context, s *status) error {
	for {
		now, err := a.status(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil || now.PID != s.PID || now.Generation != s.Generation {
			return nil //nolint:nilerr // that is what is waited for
		}
		time.Sleep(askAgain)
	}
}

// awaitProcess blocks until the process behind a pidfd has ended.
func awaitProcess(fd int) error {
	for {
		_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
