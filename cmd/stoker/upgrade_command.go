package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
)

func newUpgradeCommand() *cobra.Command {
	var where adminAddress
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Replace a running master by the binary that is on disk now, without touching engines or requests",
		Long: `Replace a running master by the binary that is on disk now: engines go on, no
request fails and no connection is refused. It waits until the new master serves
and says what it adopted, or why the upgrade failed; then the old one goes on as
if nothing had been tried. The signal USR2 does the same without an answer.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			done, _, err := where.post(ctx, "/upgrade", order{})
			switch {
			case errors.Is(err, context.DeadlineExceeded):
				return fmt.Errorf("no answer within %s; the upgrade may still be going on, see stoker status", timeout)
			case err != nil:
				return err
			case done.Error != "" || done.Upgrade == nil:
				return fmt.Errorf("not upgraded: %s", done.Error)
			}
			printUpgrade(cmd.OutOrStdout(), done.Upgrade)
			return nil
		},
	}
	where.flags(cmd)
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for the answer, an older generation's drain included")
	return cmd
}

func printUpgrade(w io.Writer, r *upgradeResult) {
	fmt.Fprintf(w, "upgraded to version %s: pid %d, generation %d, after %.2f s\n", r.Version, r.PID, r.Generation, r.Seconds)
	for _, o := range r.Adopted {
		fmt.Fprintf(w, "adopted %s (pid %d)\n", o.Worker, o.PID)
	}
	if len(r.Adopted) == 0 {
		fmt.Fprintln(w, "no engine was running")
	}
}

// upgradeOrder answers when the upgrade has succeeded or failed.
func (m *master) upgradeOrder(_ context.Context, _ order) (*outcome, error) {
	a := m.upgrades.ask()
	<-a.done
	if a.err != nil {
		return nil, a.err
	}
	return &outcome{Message: fmt.Sprintf("upgraded: generation %d, pid %d", a.result.Generation, a.result.PID), Upgrade: a.result}, nil
}
