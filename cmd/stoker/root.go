package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"stoker/config"
)

// version is set by the linker: -ldflags "-X main.version=…".
var version = "dev"

// execute runs the command line and returns the exit code.
func execute(args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.Execute()
	complain(os.Stderr, err)
	return exitCode(err)
}

// complain says what a command's error is. Problems of a file stand as
// FILE:LINE at the start of their lines, where editors look for them; a forced
// end has been logged.
func complain(w io.Writer, err error) {
	var problems config.Problems
	switch {
	case err == nil, errors.Is(err, errForced):
	case errors.As(err, &problems) && problems[0].File != "":
		fmt.Fprintln(w, err)
	default:
		fmt.Fprintf(w, "stoker: %v\n", err)
	}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "stoker",
		Short: "Load balancer and process supervisor for LLM engines",
		Long: `stoker spawns inference engines, balances HTTP and SSE over them, starts again
those that die, and ends all of them in the right order.`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return usageError(fmt.Errorf("unknown command %q; see stoker --help", args[0]))
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError(fmt.Errorf("%w; see %s --help", faultyFlag(err), cmd.CommandPath()))
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newRunCommand(), newCheckCommand(), newStatusCommand(), newDemoCommand(), newUpgradeCommand())
	root.AddCommand(newOperationCommands()...)
	root.AddCommand(newReapCommand(), newRequestsCommand(), newCrashesCommand(), newReplayCommand(), newQuarantineCommand(), newKeyCommand(), newSystemdCommand(), newRouteCommand())
	return root
}

// faultyFlag says what a flag's value must be, where the library says in which
// function of Go it failed.
func faultyFlag(err error) error {
	var invalid *pflag.InvalidValueError
	if !errors.As(err, &invalid) {
		return err
	}
	wanted := map[string]string{
		"int":      "must be a whole number, such as 4",
		"bool":     "is true or false",
		"duration": "must be a duration with its unit, such as 45s",
	}[invalid.GetFlag().Value.Type()]
	if wanted == "" {
		return err
	}
	return fmt.Errorf("--%s: %s, not %q", invalid.GetFlag().Name, wanted, invalid.GetValue())
}

// versionText is the version and the commit that the binary was built from,
// where the build knows it.
func versionText() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return fmt.Sprintf("%s (%.12s, %s)", version, s.Value, info.GoVersion)
		}
	}
	return fmt.Sprintf("%s (%s)", version, info.GoVersion)
}

// noArgs refuses positional arguments with a usage error.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError(fmt.Errorf("%s takes no argument %q; see --help", cmd.CommandPath(), args[0]))
	}
	return nil
}
