package main

import (
	"errors"

	"github.com/spf13/cobra"

	"stoker/config"
)

func newRunCommand() *cobra.Command {
	var file string
	var flags config.Flags
	var preflight bool
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]\n  stoker run -c stoker.toml",
		Short: "Run engines and balance requests over them",
		Long: `Run workers of COMMAND and balance HTTP over them, or run what a file says.

In COMMAND, {socket}, {port}, {index}, {name} and {gpus} are replaced for each
worker; the same values are in its environment as STOKER_SOCKET, STOKER_PORT, ….
With {socket} a worker listens on a unix socket, else on a TCP port of 127.0.0.1.`,
		Example: `  stoker run --workers 4 -- python3 -m uvicorn app:app --uds {socket}
  stoker run --listen :8000 --gpus-per-worker 1 --workers 8 -- vllm serve MODEL --uds {socket}
  stoker run -c /etc/stoker/stoker.toml`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" && len(args) == 0 {
				return usageError(errors.New("nothing to run: give a command (stoker run -- COMMAND) or a file (stoker run -c stoker.toml)"))
			}
			flags.Command, flags.Given = args, cmd.Flags().Changed
			cfg, err := config.FromCommandLine(file, flags)
			if err != nil {
				return err
			}
			if preflight {
				return reportPreflight(cmd.OutOrStdout())
			}
			return runMaster(cmd.Context(), cfg, runOptions{reload: reloader(file, flags)})
		},
	}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&file, "config", "c", "", "configuration file; with it only --listen, --admin, --run-dir, --state-dir and --log-format may be given too")
	f.StringArrayVar(&flags.Listen, "listen", nil, "address of the traffic door: HOST:PORT or unix:/PATH; repeatable (default 127.0.0.1:8000)")
	f.IntVar(&flags.Workers, "workers", 0, "number of workers (default 1)")
	f.StringVar(&flags.Admin, "admin", "", "HOST:PORT of the admin listener, besides the socket in the run directory")
	f.StringVar(&flags.RunDir, "run-dir", "", "directory of sockets and locks, one per master")
	f.StringVar(&flags.StateDir, "state-dir", "", "directory of crash reports (default /var/lib/stoker with /run/stoker; see docs)")
	f.StringVar(&flags.HealthPath, "health-path", "", "path that must answer 2xx for a worker to be ready (default: /health, any answer but 5xx)")
	f.StringVar(&flags.StartTimeout, "start-timeout", "", "how long an engine may load (default 20m)")
	f.IntVar(&flags.GPUsPerWorker, "gpus-per-worker", 0, "devices that each worker gets in CUDA_VISIBLE_DEVICES")
	f.StringVar(&flags.LogFormat, "log-format", "", "text or json (default text)")
	addPreflight(cmd, &preflight)
	return cmd
}

// reloader reads the same file, under the same flags, again; nil without a file.
func reloader(file string, flags config.Flags) func() (*config.Config, error) {
	if file == "" {
		return nil
	}
	return func() (*config.Config, error) { return config.FromCommandLine(file, flags) }
}
