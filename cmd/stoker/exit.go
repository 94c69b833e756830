package main

import (
	"errors"

	"stoker/config"
)

// Exit codes; README and docs/signals.md promise them.
const (
	exitOK = 0
	// exitFailed: could not start, or broke while running.
	exitFailed = 1
	// exitUsage: the command line or the configuration is wrong.
	exitUsage = 2
	// exitForced: the shutdown was not graceful for everybody: requests were
	// cut, or an engine, or something that it had started, had to be killed.
	exitForced = 3
	// exitRefused and exitBroke are stoker replay's: an answer of 400 or above, and
	// one that broke off.
	exitRefused = 4
	exitBroke   = 5
)

// errUsage marks an error of the command line.
var errUsage = errors.New("usage")

// usageError makes err one that is answered with exitUsage; its text stays.
func usageError(err error) error { return misuseError{err} }

type misuseError struct{ error }

func (e misuseError) Unwrap() []error { return []error{errUsage, e.error} }

// errForced: the shutdown cut requests or killed engines. It has been logged.
var errForced = errors.New("shutdown was not graceful")

// exitCode decides what a command's error means to who called it.
func exitCode(err error) int {
	var problems config.Problems
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errForced):
		return exitForced
	case errors.Is(err, errRefused):
		return exitRefused
	case errors.Is(err, errBroke):
		return exitBroke
	case errors.Is(err, errUsage), errors.As(err, &problems):
		return exitUsage
	default:
		return exitFailed
	}
}
