package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"stoker/supervisor"
	"stoker/supervisor/keeper"
)

// preflightFlag, given to the command that runs a master, makes it load its
// configuration, say what it is and exit. A binary that does not know the flag
// refuses it, and so cannot be upgraded to.
const preflightFlag = "preflight"

// preflightReport is what a preflight prints.
type preflightReport struct {
	Version string `json:"version"`
	// KeeperProtocol is the lowest and the highest version that it speaks.
	KeeperProtocol [2]int `json:"keeper_protocol"`
}

// addPreflight gives a command the flag, unseen.
func addPreflight(cmd *cobra.Command, preflight *bool) {
	cmd.Flags().BoolVar(preflight, preflightFlag, false, "load the configuration, say what this binary is, and exit")
	_ = cmd.Flags().MarkHidden(preflightFlag) // it is there
}

// reportPreflight is the whole of a preflight, once the configuration is loaded.
func reportPreflight(w io.Writer) error {
	low, high := keeper.Versions()
	return json.NewEncoder(w).Encode(preflightReport{Version: version, KeeperProtocol: [2]int{low, high}})
}

// preflight tries whether the binary that our command line names by now would
// run with our arguments, and could speak with the keepers that live. It
// changes nothing. limit is what a new process may take for far more.
func preflight(ctx context.Context, limit time.Duration, living []supervisor.KeeperProtocol) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	args := append([]string{os.Args[1], "--" + preflightFlag}, os.Args[2:]...)
	cmd := exec.CommandContext(ctx, os.Args[0], args...) //nolint:gosec // our own command line, which an upgrade runs again
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // not that it was killed, which was our doing
		}
		said := strings.TrimSpace(strings.TrimPrefix(problems.String(), "stoker: "))
		return fmt.Errorf("the new binary %s %w", os.Args[0], refusal(err, said, limit))
	}
	var r preflightReport
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		return fmt.Errorf("the new binary %s is no stoker that can be upgraded to: it said %.60q when it was tried", os.Args[0], out.String())
	}
	if err := r.speaksWith(living); err != nil {
		return fmt.Errorf("the new binary %s (version %s) %w", os.Args[0], r.Version, err)
	}
	return nil
}

// refusal is why a binary that was tried did not say what it is, and what to do.
func refusal(err error, said string, limit time.Duration) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("had not said what it is after %s (upgrade_timeout), when it was tried: is it a stoker?", limit)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("cannot be executed: %w; make it executable (chmod +x)", err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("is not there: %w; put it where this master's was", err)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("is no program for this machine: %w", err)
	case !errors.As(err, new(*exec.ExitError)):
		return fmt.Errorf("cannot be tried: %w", err)
	case said == "":
		return fmt.Errorf("ended without a word when it was tried (%w): is it a stoker?", err)
	}
	return fmt.Errorf("would not start: %s", said)
}

// speaksWith says whether the binary that made the report can take over the
// keepers that live, of which some may be older than this program, and those
// that this program may yet start.
func (r *preflightReport) speaksWith(living []supervisor.KeeperProtocol) error {
	low, high := r.KeeperProtocol[0], r.KeeperProtocol[1]
	var foreign []string
	for _, k := range living {
		if k.Lowest > high || k.Highest < low {
			foreign = append(foreign, fmt.Sprintf("%s's %s", k.Worker, versionRange(k.Lowest, k.Highest)))
		}
	}
	ownLow, ownHigh := keeper.Versions()
	apart := ownLow > high || ownHigh < low
	switch {
	case apart:
		foreign = append(foreign, "this master's "+versionRange(ownLow, ownHigh))
		return fmt.Errorf("cannot speak with keepers of %s: it speaks %s of their protocol; stop this master and start that one instead",
			strings.Join(foreign, ", "), versionRange(low, high))
	case len(foreign) > 0:
		return fmt.Errorf("cannot speak with keepers that run: it speaks %s of their protocol, that of %s; restart these workers first (stoker restart WORKER): their new keepers speak %s",
			versionRange(low, high), strings.Join(foreign, ", of "), versionRange(ownLow, ownHigh))
	default:
		return nil
	}
}

func versionRange(low, high int) string {
	if low == high {
		return fmt.Sprintf("version %d", low)
	}
	return fmt.Sprintf("versions %d to %d", low, high)
}
