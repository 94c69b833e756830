package certs

import (
	"crypto/rand"
	"slices"
	"time"
)

const (
	// ticketTime is how long tickets are issued under one key.
	ticketTime = 24 * time.Hour
	// ticketKeys is how many keys are known: the one in use and the one before,
	// so that a ticket is good for a day at least. Whoever gets hold of them can
	// read what was recorded of TLS 1.2 connections of that time; so they are few,
	// and never written down.
	ticketKeys = 2
)

// Tickets are the keys of session tickets, with which clients that come again
// shorten the handshake.
type Tickets struct {
	// Keys, the one in use first.
	Keys [][32]byte `json:"keys"`
	// Since is when the first came into use.
	Since time.Time `json:"since"`
}

func newTickets(now time.Time) Tickets {
	return Tickets{Keys: [][32]byte{newKey()}, Since: now}
}

func newKey() (key [32]byte) {
	_, _ = rand.Read(key[:]) // never fails, as it says
	return key
}

// good says whether t can be used: it may come from another version.
func (t Tickets) good(now time.Time) bool {
	return len(t.Keys) > 0 && !t.Since.IsZero() && !t.Since.After(now.Add(time.Minute))
}

// rotated is t with a new key in front, if it is time.
func (t Tickets) rotated(now time.Time) (Tickets, bool) {
	if now.Sub(t.Since) < ticketTime {
		return t, false
	}
	keys := append([][32]byte{newKey()}, t.Keys...)
	if now.Sub(t.Since) >= 2*ticketTime { // the clock stood still, as in a suspended machine
		keys = keys[:1]
	}
	return Tickets{Keys: slices.Clip(keys[:min(len(keys), ticketKeys)]), Since: now}, true
}
