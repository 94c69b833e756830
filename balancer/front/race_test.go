//go:build race

package front_test

// raceEnabled: frames are larger, and sync.Pool drops things at random.
const raceEnabled = true
