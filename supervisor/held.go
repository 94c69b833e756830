package supervisor

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// held is where the names stand that operators have stopped, so that a master
// that takes over, after an upgrade or a crash, keeps to what they wished. A
// graceful end forgets them: who starts stoker anew wants what the file says.
type held struct {
	path string
	mu   sync.Mutex
}

// load returns the names. What cannot be read is nobody's wish.
func (h *held) load() map[string]bool {
	text, err := os.ReadFile(h.path)
	var names []string
	if err != nil || json.Unmarshal(text, &names) != nil {
		return nil
	}
	set := make(map[string]bool, len(names))
	for _, name := range names {
		set[name] = true
	}
	return set
}

// save writes the names that find returns: the latest call has the latest ones.
func (h *held) save(find func() []string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	names := find()
	if len(names) == 0 {
		if err := os.Remove(h.path); !os.IsNotExist(err) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(names)
	if err != nil {
		return err
	}
	temp := h.path + ".tmp"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, h.path)
}

// heldFile is where a run directory has them.
func heldFile(runDir string) string { return filepath.Join(runDir, "held.json") }

// saveHeld writes down what operators have stopped.
func (s *Supervisor) saveHeld() {
	s.mu.Lock()
	ending := s.ending
	s.mu.Unlock()
	if ending {
		return // the end has forgotten them, or a successor has them
	}
	err := s.held.save(func() []string {
		s.mu.Lock()
		defer s.mu.Unlock()
		var names []string
		for _, p := range s.pools {
			for _, q := range p.posts {
				if q.held && !q.leaving {
					names = append(names, q.name)
				}
			}
			for _, r := range p.remote {
				if r.held {
					names = append(names, r.server.config.Name)
				}
			}
			for _, n := range p.names {
				if n.held {
					names = append(names, n.config.Name)
				}
				for _, name := range slices.Sorted(maps.Keys(n.away)) {
					if n.away[name] && !slices.Contains(names, name) {
						names = append(names, name)
					}
				}
			}
		}
		return names
	})
	if err != nil {
		s.log.Warn("what operators have stopped could not be written down; a master that takes over will start it", "error", err)
	}
}

// keepHeld lets what an earlier master's operators have stopped stay so. It is
// called before anything runs.
func (s *Supervisor) keepHeld() {
	names := s.held.load()
	for _, p := range s.pools {
		for _, q := range p.posts {
			if names[q.name] {
				q.held = true
				// It looks at its slot, ends what is there all the same, and stays down.
				q.worker.wish = wishStop
			}
		}
		for _, r := range p.remote {
			if names[r.server.config.Name] {
				r.holdBefore()
			}
		}
		for _, n := range p.names {
			n.held = names[n.config.Name]
			for name := range names {
				if strings.Contains(name, "/") {
					n.away[name] = true // if it is one of its addresses
				}
			}
		}
	}
}
