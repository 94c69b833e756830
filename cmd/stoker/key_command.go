package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stoker/balancer/guard"
)

func newKeyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make API keys for access.keys_file",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newKeyAddCommand())
	return cmd
}

func newKeyAddCommand() *cobra.Command {
	var file string
	var fromStdin bool
	cmd := &cobra.Command{
		Use:   "add NAME [--file FILE]",
		Short: "Make a new API key, or take one that exists, and its line for the file of keys",
		Long: `Make a new API key for NAME. The key is printed once and kept nowhere; its line
for the file of keys, which has only the key's hash, is appended to FILE, or
printed behind it.

A name may have several keys: add the next one, give it out, and take the line
of the old one out when nobody uses it any more. A running master reads the file
by itself when it has changed.`,
		Example: `  stoker key add alice --file /etc/stoker/keys
  stoker key add bob
  stoker key add carol --stdin --file keys < carols-key`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError(errors.New("key add needs one name: stoker key add NAME"))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			key := guard.NewKey()
			if fromStdin {
				var err error
				if key, err = readKey(cmd.InOrStdin()); err != nil {
					return err
				}
			}
			line, err := guard.KeyLine(args[0], key)
			if err != nil {
				return usageError(err)
			}
			return giveOut(cmd, key, line, file, fromStdin)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file of keys that the line is appended to; made, for its owner alone, if it is not there")
	cmd.Flags().BoolVar(&fromStdin, "stdin", false, "take the key from standard input instead of making one")
	return cmd
}

// giveOut shows a key to the one person who shall see it. The line is in the file
// before, so that no key is given out that opens nothing.
func giveOut(cmd *cobra.Command, key, line, file string, known bool) error {
	out, told := cmd.OutOrStdout(), cmd.ErrOrStderr()
	if file != "" {
		if err := appendLine(file, line); err != nil {
			return err
		}
		fmt.Fprintf(told, "appended to %s\n", file)
	}
	if !known {
		fmt.Fprintln(out, key)
		fmt.Fprintln(told, "this is the key; it is not kept anywhere and will not be shown again")
	}
	if file == "" {
		fmt.Fprintln(told, "this is its line for the file of keys:")
		fmt.Fprintln(out, line)
	}
	return nil
}

// readKey reads a key that exists from its one line.
func readKey(r io.Reader) (string, error) {
	line, err := bufio.NewReader(io.LimitReader(r, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the key from standard input: %w", err)
	}
	return strings.TrimSpace(line), nil
}

// appendLine adds a line to a file by one write, behind whatever its last line is.
func appendLine(file, line string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return fmt.Errorf("append to the file of keys: %w", err)
	}
	text := line + "\n"
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			text = "\n" + text
		}
	}
	if _, err = f.WriteString(text); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("append to the file of keys: %w", err)
	}
	return nil
}
