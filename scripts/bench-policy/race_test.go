//go:build race

package main

// raceEnabled: a simulation takes ten times as long.
const raceEnabled = true
