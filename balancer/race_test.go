//go:build race

package balancer

// raceEnabled: sync.Pool drops things at random, to find mistakes.
const raceEnabled = true
