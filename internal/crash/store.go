package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	reportFile  = "report.json"
	outputFile  = "output.log"
	suspectsDir = "suspects"
	lockFile    = ".lock"
	unfinished  = ".unfinished-"
	idLayout    = "20060102T150405.000000Z"
	// partMark stands between a death's id and the generation of the master that
	// saw it from aside, in the name of its part of the report.
	partMark = ".g"
)

// Store is the directory of reports. Anybody may save and read at any time: who
// saves holds a lock, other masters' processes included.
type Store struct {
	// Dir is made by the first Save.
	Dir string
	// Keep is how many reports are kept, Size how many bytes they may have
	// together. The oldest goes first, and before it the oldest of an engine that had
	// died before and had no request: a crash loop must not push out how it began.
	// The newest stays, since its suspects' bodies are left out from half of Size on.
	// Zero of either: nothing is kept.
	Keep int
	Size int64

	mu sync.Mutex
	// known is what is known of reports by name, which do not change once they are
	// there. In a crash loop it is not worth while to ask the disk for all of them each
	// time: to read each for each death was half of what the deaths of busy engines took.
	known map[string]facts
}

// facts are what makeRoom wants to know of a report.
type facts struct {
	size int64
	// spare: it is of an engine that had died before and had no request.
	spare bool
}

// Save writes a report, for which the oldest ones past the bounds make room.
// Nothing is left of one that could not be written whole.
func (s *Store) Save(r *Report) error {
	if s.Keep <= 0 || s.Size <= 0 {
		return nil
	}
	r.ID = ID(&r.Death)
	if err := s.prepare(); err != nil {
		return fmt.Errorf("write crash report %s: %w", r.ID, err)
	}
	defer s.lock()()
	// A disk may be full of what was left.
	if err := s.clear(); err != nil {
		return fmt.Errorf("remove an unfinished crash report: %w", err)
	}
	if err := s.write(r); err != nil {
		return fmt.Errorf("write crash report %s: %w", r.ID, err)
	}
	return nil
}

// Check says why no report could be saved, and clears what a master that was
// killed has left.
func (s *Store) Check() error {
	if s.Keep <= 0 || s.Size <= 0 {
		return nil
	}
	if err := s.prepare(); err != nil {
		return err
	}
	if err := unix.Access(s.Dir, unix.W_OK); err != nil {
		return &fs.PathError{Op: "write to", Path: s.Dir, Err: err}
	}
	defer s.lock()()
	return s.clear()
}

// prepare makes the directory, for its owner alone whatever it was before.
func (s *Store) prepare() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(s.Dir, 0o700) //nolint:gosec // a directory is entered by x
}

// lock keeps other writers out, and returns what lets them in again. The kernel
// lets go for a process that is killed. A file system without locks has none.
func (s *Store) lock() (unlock func()) {
	f, err := os.OpenFile(filepath.Join(s.Dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return func() {} // the report's own error will say more
	}
	for errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX), unix.EINTR) {
		continue
	}
	return func() { _ = f.Close() }
}

// write makes the report appear at once and whole, when those are gone that it
// takes the place of: whoever looks at any time sees no more than are kept.
func (s *Store) write(r *Report) error {
	temp, err := os.MkdirTemp(s.Dir, unfinished) // 0700
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(temp) }() // where it still has that name; a disk that is full lets go of files
	if err := s.fill(temp, r); err != nil {
		return err
	}
	path := filepath.Join(s.Dir, r.name())
	if _, err := os.Lstat(path); err == nil {
		return nil // a master that was killed then had written it: it knew the requests
	}
	f := facts{sizeOf(temp), r.isSpare()}
	room, err := s.makeRoom(f.size), os.Rename(temp, path)
	if err == nil {
		s.note(r.name(), f)
	}
	return errors.Join(room, err)
}

func (s *Store) fill(dir string, r *Report) error {
	if err := os.Mkdir(filepath.Join(dir, suspectsDir), 0o700); err != nil {
		return err
	}
	r.Uptime = r.Death.Uptime().Seconds()
	r.rank()
	r.Summaries, r.Trimmed = make([]Summary, 0, len(r.Suspects)), 0
	room := s.Size / 2
	for i := range r.Suspects {
		x := r.Suspects[i]
		file := suspectFile(i)
		text, err := json.MarshalIndent(x, "", "  ")
		if err == nil && int64(len(text)) > room {
			r.Trimmed++
			text, err = json.MarshalIndent(withoutBodies(x), "", "  ")
		}
		if err != nil {
			return err
		}
		room -= int64(len(text))
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			return err
		}
		r.Summaries = append(r.Summaries, summary(&x, file))
	}
	if err := os.WriteFile(filepath.Join(dir, outputFile), r.Death.Output, 0o600); err != nil {
		return err
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, reportFile), text, 0o600)
}

// suspectFile is where a report has its suspect of that index, from 0.
func suspectFile(i int) string { return filepath.Join(suspectsDir, fmt.Sprintf("%03d.json", i+1)) }

// makeRoom removes reports past the bounds, for another one of that size.
func (s *Store) makeRoom(size int64) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	known, total := s.factsOf(names), size
	for _, f := range known {
		total += f.size
	}
	for len(names) > 0 && (len(names) >= s.Keep || total > s.Size) {
		victim := max(slices.IndexFunc(known, func(f facts) bool { return f.spare }), 0) // none: the oldest
		if err := s.remove(names[victim]); err != nil {
			return fmt.Errorf("remove old crash reports: %w", err)
		}
		total -= known[victim].size
		names, known = slices.Delete(names, victim, victim+1), slices.Delete(known, victim, victim+1)
	}
	return nil
}

// remove makes a report disappear at once, so that nobody finds half of it.
func (s *Store) remove(name string) error {
	gone := filepath.Join(s.Dir, unfinished+name)
	if err := os.Rename(filepath.Join(s.Dir, name), gone); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

// factsOf are the facts of reports, in the same order. Of one that cannot be read it
// is not known that it could be spared.
func (s *Store) factsOf(names []string) []facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, all := make(map[string]facts, len(names)), make([]facts, len(names))
	for i, name := range names {
		f, ok := s.known[name]
		if !ok {
			f.size = sizeOf(filepath.Join(s.Dir, name))
			r, err := s.peek(name)
			f.spare = err == nil && r.isSpare()
		}
		known[name], all[i] = f, f
	}
	s.known = known
	return all
}

// note keeps the facts of a report that is there now.
func (s *Store) note(name string, f facts) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[string]facts)
	}
	s.known[name] = f
}

// clear removes what a master that was killed has left unfinished, or half removed. The lock is
// held: nobody is at it any more.
func (s *Store) clear() error {
	left, err := filepath.Glob(filepath.Join(s.Dir, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

// sizeOf is the bytes in the files of a report; what cannot be read counts nothing.
func sizeOf(dir string) (total int64) {
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // see above
		}
		if info, err := e.Info(); err == nil {
			total += info.Size()
		}
		return nil
	})
	return total
}
