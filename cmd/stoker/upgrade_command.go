package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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
			raw, err := where.do(ctx, http.MethodPost, "/upgrade")
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("no answer within %s; the upgrade may still be going on, see stoker status", timeout)
			}
			if err != nil {
				return err
			}
			var r upgradeResult
			if err := json.Unmarshal(raw, &r); err != nil {
				return fmt.Errorf("read answer: %w", err)
			}
			printUpgrade(cmd.OutOrStdout(), &r)
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

// answerUpgrade is POST /upgrade: it answers when the upgrade has succeeded or failed.
func (m *master) answerUpgrade(w http.ResponseWriter, r *http.Request) {
	a := m.upgrades.ask()
	select {
	case <-a.done:
	case <-r.Context().Done():
		return // nobody waits for the answer; the upgrade goes on
	}
	if a.err != nil {
		writeJSON(w, http.StatusConflict, map[string]any{"error": a.err.Error()})
		return
	}
	writeJSON(w, http.StatusOK, a.result)
}
