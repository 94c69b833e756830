// Command stoker keeps inference engines fired and their clients served: it
// spawns engines, balances requests over them, starts again those that die and
// ends all in the right order. This package composes the pieces; it is the
// only one that knows signals, and the command line.
package main

import (
	"fmt"
	"os"

	"stoker/internal/engine"
	"stoker/supervisor/keeper"
)

func main() {
	os.Exit(dispatch(os.Args[1:]))
}

// dispatch takes the two hidden commands first: a keeper and the demo's engine
// are small processes, many of them, and need nothing of what the rest sets up.
func dispatch(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case keeperCommand:
			return runKeeper(args[1:])
		case engineCommand:
			return engine.Main(args[1:])
		}
	}
	if needsInit(args) {
		return runInit()
	}
	return execute(args)
}

// The hidden commands.
const (
	keeperCommand = "keeper"
	engineCommand = "engine"
)

// runKeeper is "stoker keeper --dir DIR".
func runKeeper(args []string) int {
	if len(args) != 2 || args[0] != "--dir" {
		fmt.Fprintln(os.Stderr, "stoker: keeper --dir DIR is started by stoker itself")
		return exitUsage
	}
	return keeper.Main(args[1])
}
