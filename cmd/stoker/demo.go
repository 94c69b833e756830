package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"stoker/config"
)

// demoWorkers is enough to see balancing, and one die.
const demoWorkers = 3

func newDemoCommand() *cobra.Command {
	var listen, runDir string
	var temporary, preflight, opened bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run three workers of a small engine that is built in, to try everything without a model",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flags := config.Flags{
				Listen:     []string{listen},
				RunDir:     runDir,
				Workers:    demoWorkers,
				HealthPath: "/health",
				Command:    []string{selfPath(), engineCommand, "--socket", "{socket}", "--name", "{name}"},
			}
			if runDir == "" {
				dir, err := os.MkdirTemp("", "stoker-demo-")
				if err != nil {
					return fmt.Errorf("make run directory: %w", err)
				}
				flags.RunDir, temporary = dir, true
				defer func() {
					if !opened { // once it was, engines may live there that a next master is to find
						_ = os.RemoveAll(dir)
					}
				}()
				// For the generation that follows an upgrade.
				os.Args = append(os.Args, "--run-dir", dir, "--"+temporaryFlag)
			}
			cfg, err := config.FromCommandLine("", flags)
			if err != nil {
				return err
			}
			if preflight {
				return reportPreflight(cmd.OutOrStdout())
			}
			return runMaster(cmd.Context(), cfg, runOptions{
				opened: func(m *master) {
					opened = true
					printDemo(cmd.OutOrStdout(), m)
				},
				ended: func() {
					if temporary {
						_ = os.RemoveAll(flags.RunDir)
					}
				},
			})
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8000", "address of the traffic door")
	cmd.Flags().StringVar(&runDir, "run-dir", "", "run directory (default: a new one, removed at the end)")
	cmd.Flags().BoolVar(&temporary, temporaryFlag, false, "remove the run directory at the end")
	_ = cmd.Flags().MarkHidden(temporaryFlag) // it is there
	addPreflight(cmd, &preflight)
	return cmd
}

// temporaryFlag passes on that the run directory is to be removed at the end.
const temporaryFlag = "temporary"

// printDemo says what to try. The engines still load for a second; a request
// waits for them.
func printDemo(w io.Writer, m *master) {
	url := "http://" + m.door.Listeners()[0].Addr().String()
	fmt.Fprintf(w, `
Three engines behind %[1]s. Stream an answer:

  curl -N %[1]s/v1/chat/completions -H 'Content-Type: application/json' -d '{"model":"stoker-demo","stream":true,"messages":[{"role":"user","content":"What does a stoker do?"}]}'

Look at the workers, from another terminal (kill -9 one of the PIDs and look again):

  %[2]s status --run-dir %[3]s

Ctrl-C stops everything.

`, url, selfPath(), m.cfg.RunDir)
}
