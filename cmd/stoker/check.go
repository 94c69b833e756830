package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"stoker/config"
)

func newCheckCommand() *cobra.Command {
	var file string
	var effective bool
	cmd := &cobra.Command{
		Use:   "check -c FILE",
		Short: "Say everything that is wrong with a configuration file",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return usageError(fmt.Errorf("check needs a file: stoker check -c stoker.toml"))
			}
			cfg, err := config.Load(file)
			if err != nil {
				return err
			}
			if _, err := readKeys(cfg); err != nil {
				return err
			}
			for _, w := range cfg.Warnings() {
				fmt.Fprintf(cmd.ErrOrStderr(), "warning: %s\n", w)
			}
			if effective {
				return cfg.Print(cmd.OutOrStdout())
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: ok: %s\n", file, summary(cfg))
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "config", "c", "", "configuration file")
	cmd.Flags().BoolVar(&effective, "print", false, "print the effective configuration, defaults included")
	return cmd
}

// summary is what a configuration will run, in a few words.
func summary(cfg *config.Config) string {
	workers, servers := 0, 0
	for i := range cfg.Pools {
		if len(cfg.Pools[i].Servers) > 0 {
			servers += len(cfg.Pools[i].Servers)
			continue
		}
		workers += cfg.Pools[i].Workers
	}
	return fmt.Sprintf("%d pool(s), %d worker(s), %d remote server(s)", len(cfg.Pools), workers, servers)
}
