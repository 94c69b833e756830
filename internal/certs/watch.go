package certs

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// pollEvery is how often the files are looked at. A poll needs no descriptor, and
// sees also what comes by a symbolic link's turn, as in Kubernetes' volumes.
const pollEvery = 10 * time.Second

// Watch reads files again when they have changed, and renews the keys of session
// tickets once a day, until ctx ends. Files that are bad, or that do not fit each
// other yet, change nothing.
func (s *Store) Watch(ctx context.Context) {
	every := time.NewTicker(pollEvery)
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			s.Look()
			s.rotate()
		}
	}
}

// Look reads the files if they have changed since. Bad ones are left alone until
// they have been so twice: whoever writes them may be half-way.
func (s *Store) Look() {
	s.mu.Lock()
	shown, bad, said := s.shown, s.bad, s.said
	s.mu.Unlock()
	if shown == nil {
		return
	}
	found := printOf(&shown.settings)
	if found == shown.print || found == bad && said {
		return
	}
	staged, err := Stage(shown.settings)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.shown != shown: // somebody else has been quicker
		return
	case err != nil && found != bad:
		s.bad, s.said = found, false
		return
	case err != nil:
		s.said = true
		s.log.Error("changed certificates cannot be used: those from before are shown on", "error", err)
	default:
		s.adopt(staged)
		s.log.Info("certificates read anew: their files have changed", "certificates", describe(staged.pairs))
	}
	if s.loaded != nil {
		s.loaded(err == nil)
	}
}

func (s *Store) rotate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	tickets, yes := s.tickets.rotated(s.now())
	if yes {
		s.tickets = tickets
		s.show()
	}
}

// printOf tells one state of the files from another.
func printOf(s *Settings) string {
	var b strings.Builder
	add := func(path string) {
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%s: %v\n", path, err)
			return
		}
		fmt.Fprintf(&b, "%s: %d %d %d\n", path, info.ModTime().UnixNano(), info.Size(), inode(info))
	}
	for _, f := range s.Certificates {
		add(f.Cert)
		add(f.Key)
	}
	if s.ClientCA != "" {
		add(s.ClientCA)
	}
	return b.String()
}

// describe is certificates in a line of a log.
func describe(pairs []*Pair) []string {
	said := make([]string, len(pairs))
	for i, p := range pairs {
		said[i] = p.Name() + " until " + p.Leaf.NotAfter.UTC().Format(time.DateOnly)
	}
	return said
}
