package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"stoker/internal/systemd"
	"stoker/supervisor"
)

func newReapCommand() *cobra.Command {
	var where adminAddress
	cmd := &cobra.Command{
		Use:   "reap",
		Short: "End the engines that a dead master left behind",
		Long: `End every engine that runs under no master, for a run directory that shall not
be used any more: keepers end them by themselves, but only after orphan_timeout.
It refuses while a master holds the directory.

As ExecStopPost= of a systemd unit it does nothing when the master has crashed
and is about to be started again: that one adopts the engines, with their
models loaded. After a stop it ends a master of the service that systemd did not
know of as well.`,
		Example: `  stoker reap --run-dir /run/stoker
  ExecStopPost=/usr/local/bin/stoker reap --run-dir /run/stoker`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := where.config()
			if err != nil {
				return err
			}
			stopQueued := func() bool { return systemd.StopQueued(cmd.Context()) }
			if why := comesBack(os.Getenv, cfg.StopMark(), stopQueued); why != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "engines are left to the next master: %s\n", why)
				return nil
			}
			// A signal ends the grace, not the work.
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
			defer stop()
			if os.Getenv("SERVICE_RESULT") != "" {
				endUnknownMaster(ctx, cmd.OutOrStdout(), cfg.LockFile())
			}
			return reap(ctx, cmd.OutOrStdout(), cfg.RunDir, cfg.LockFile())
		},
	}
	where.flags(cmd)
	return cmd
}

// comesBack says why a master is to be expected that adopts the engines, and
// nothing when none is. The service manager tells an ExecStopPost command how
// the service ended; by hand nobody tells, and whoever calls has decided.
//
// A master that died in its shutdown had been told to stop, whatever killed it
// then: the mark tells. One that hung, or had just crashed, when the service was
// told to stop has set none: the manager's queue tells.
func comesBack(getenv func(string) string, stopMark string, stopQueued func() bool) string {
	result := getenv("SERVICE_RESULT")
	switch result {
	case "", "success", "timeout":
		// timeout: of a stop, since a master that starts has nothing to wait for.
		return ""
	}
	if _, err := os.Stat(stopMark); err == nil || stopQueued() {
		return ""
	}
	// exit-code, signal, core-dump, watchdog, oom-kill, protocol, resources: it
	// was not asked to end. Where the service manager has given up starting it, the
	// keepers' orphan_timeout ends the engines, unless somebody mends it before.
	return fmt.Sprintf("the master was not asked to stop (%s: %s %s)", result, getenv("EXIT_CODE"), getenv("EXIT_STATUS"))
}

// endUnknownMaster ends the master of this service that is there after its stop:
// the successor of one that died while it handed over, which the service manager
// has not come to know. It is asked once, and killed when ctx ends, which is the
// manager's time limit: while it drains it asks the manager for more.
func endUnknownMaster(ctx context.Context, out io.Writer, lockFile string) {
	for {
		master := findHolder(lockFile)
		if master == nil {
			return
		}
		fmt.Fprintf(out, "ending the master (pid %d), which the service manager did not know\n", master.pid)
		_ = master.signal(unix.SIGTERM) // it may have just ended
		for !master.ended(100 * time.Millisecond) {
			if ctx.Err() != nil {
				_ = master.signal(unix.SIGKILL)
			}
		}
		master.close()
	}
}

// reap ends what is left in a run directory, and says what it ended.
func reap(ctx context.Context, out io.Writer, runDir, lockFile string) error {
	held, err := holdRunDir(runDir, lockFile)
	if errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(out, "nothing is left in %s\n", runDir)
		return nil
	}
	if err != nil {
		return err
	}
	defer held.release()
	found, err := supervisor.Reap(ctx, runDir)
	if len(found) == 0 && err == nil {
		fmt.Fprintf(out, "nothing is left in %s\n", runDir)
	}
	for i := range found {
		printReaped(out, &found[i])
	}
	if err != nil {
		return fmt.Errorf("not everything could be ended: %w", err)
	}
	return nil
}

func printReaped(out io.Writer, l *supervisor.Leftover) {
	switch {
	case !l.Ran:
		fmt.Fprintf(out, "%s: cleared; nothing was running any more\n", l.Worker)
	case l.PID == 0:
		fmt.Fprintf(out, "%s: ended what was left of its engine\n", l.Worker)
	default:
		fmt.Fprintf(out, "%s: ended its engine (pid %d): %s\n", l.Worker, l.PID, l.Exit())
	}
}
