package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
)

// scaled are the numbers of workers that operators have given pools, on disk,
// so that a master that takes over, after an upgrade or a crash, keeps to them
// and to the engines that run. A reload goes back to the file's numbers, and a
// graceful end forgets them: who starts stoker anew wants what the file says.
type scaled struct {
	path string
	log  hclog.Logger

	mu    sync.Mutex
	pools map[string]scaling
}

// scaling is one pool's.
type scaling struct {
	Workers int `json:"workers"`
	// Instead of the number that the configuration says. Where it says another
	// one by now, somebody has thought again.
	Instead int `json:"instead"`
}

// readScaled reads what operators have asked masters before for. What cannot be
// read is nobody's wish.
func readScaled(runDir string, log hclog.Logger) *scaled {
	s := &scaled{path: filepath.Join(runDir, "scaled.json"), log: log, pools: map[string]scaling{}}
	text, err := os.ReadFile(s.path)
	if err == nil {
		err = json.Unmarshal(text, &s.pools)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("pools have the configuration's numbers of workers: those that operators gave them cannot be read", "error", err)
	}
	if s.pools == nil {
		s.pools = map[string]scaling{}
	}
	return s
}

// apply is the configuration with these numbers.
func (s *scaled) apply(c *config.Config) *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, to := range s.pools {
		p := c.Pool(name)
		if p == nil || p.Remote() || p.Workers != to.Instead {
			delete(s.pools, name)
			continue
		}
		changed, err := c.WithWorkers(name, to.Workers)
		if err != nil {
			s.log.Warn("a pool has the configuration's number of workers: the one that an operator gave it does not fit any more",
				"pool", name, "workers", to.Workers, "error", err)
			delete(s.pools, name)
			continue
		}
		c = changed
		s.log.Info("a pool keeps the number of workers that an operator gave it, until a reload", "pool", name, "workers", to.Workers, "configured", to.Instead)
	}
	return c
}

// set notes that a pool which had before workers is to have so many.
func (s *scaled) set(pool string, before, workers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	to, again := s.pools[pool]
	if !again {
		to.Instead = before
	}
	to.Workers = workers
	s.pools[pool] = to
	if workers == to.Instead {
		delete(s.pools, pool)
	}
	s.save()
}

// forget goes back to the configuration's numbers.
func (s *scaled) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.pools)
	s.save()
}

// save writes them down. The lock is held.
func (s *scaled) save() {
	if err := s.write(); err != nil {
		s.log.Warn("the numbers of workers that operators gave could not be written down; a master that takes over may go by others", "error", err)
	}
}

func (s *scaled) write() error {
	if len(s.pools) == 0 {
		if err := os.Remove(s.path); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(s.pools)
	if err != nil {
		return err
	}
	temp := s.path + ".tmp"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write scaled.json: %w", err)
	}
	return os.Rename(temp, s.path)
}
