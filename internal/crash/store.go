package crash

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stoker/balancer/recorder"
)

// ErrNoReport means that there is none of that id.
var ErrNoReport = errors.New("no such crash report")

const (
	reportFile  = "report.json"
	outputFile  = "output.log"
	suspectsDir = "suspects"
	unfinished  = ".unfinished-"
	idLayout    = "20060102T150405.000000Z"
	// abandoned is how old an unfinished report is that nobody writes any more.
	abandoned = time.Hour
)

// Store is the directory of reports. One goroutine at a time may save; anybody may read.
type Store struct {
	// Dir is made by the first Save.
	Dir string
	// Keep is how many reports are kept, Size how many bytes they may have
	// together. The oldest goes first; the newest stays, since its suspects' bodies
	// are left out from half of Size on. Zero of either: nothing is kept.
	Keep int
	Size int64
}

// Save writes a report and removes the oldest ones past the bounds.
// Nothing is left of one that could not be written whole.
func (s *Store) Save(r *Report) error {
	if s.Keep <= 0 || s.Size <= 0 {
		return nil
	}
	r.ID = ID(&r.Death)
	if err := s.write(r); err != nil {
		return fmt.Errorf("write crash report %s: %w", r.ID, err)
	}
	if err := s.prune(time.Now()); err != nil {
		return fmt.Errorf("remove old crash reports: %w", err)
	}
	return nil
}

func (s *Store) write(r *Report) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(s.Dir, unfinished) // 0700
	if err != nil {
		return err
	}
	if err = s.fill(temp, r); err == nil {
		err = os.Rename(temp, filepath.Join(s.Dir, r.ID))
	}
	if err != nil {
		_ = os.RemoveAll(temp) // a disk that is full lets go of files
	}
	return err
}

func (s *Store) fill(dir string, r *Report) error {
	if err := os.Mkdir(filepath.Join(dir, suspectsDir), 0o700); err != nil {
		return err
	}
	r.Uptime = r.Death.Uptime().Seconds()
	r.Summaries, r.Trimmed = make([]Summary, 0, len(r.Suspects)), 0
	room := s.Size / 2
	for i := range r.Suspects {
		x := r.Suspects[i]
		file := filepath.Join(suspectsDir, fmt.Sprintf("%03d.json", i+1))
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

// IDs of all reports, the oldest first; none where there is no directory.
func (s *Store) IDs() ([]string, error) {
	entries, err := os.ReadDir(s.Dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list crash reports: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			ids = append(ids, e.Name())
		}
	}
	return ids, nil
}

// Load reads a whole report. It is ErrNoReport when there is none of that id.
func (s *Store) Load(id string) (*Report, error) {
	if id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return nil, fmt.Errorf("%w: %q", ErrNoReport, id)
	}
	dir, err := os.OpenRoot(filepath.Join(s.Dir, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNoReport, id)
	}
	if err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", id, err)
	}
	defer func() { _ = dir.Close() }()
	r := new(Report)
	if err := read(dir, reportFile, r); err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", id, err)
	}
	r.Suspects = make([]recorder.Exchange, len(r.Summaries))
	for i := range r.Suspects {
		file := fmt.Sprintf("%03d.json", i+1) // what a report says of files is not followed
		if err := read(dir, filepath.Join(suspectsDir, file), &r.Suspects[i]); err != nil {
			return nil, fmt.Errorf("read crash report %s: %w", id, err)
		}
	}
	if r.Death.Output, err = dir.ReadFile(outputFile); err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", id, err)
	}
	return r, nil
}

func read(dir *os.Root, name string, into any) error {
	text, err := dir.ReadFile(name)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// prune removes the oldest reports past the bounds, and what a master that was
// killed has left unfinished.
func (s *Store) prune(now time.Time) error {
	if err := s.clear(now); err != nil {
		return err
	}
	ids, err := s.IDs()
	if err != nil {
		return err
	}
	var total int64
	for i, id := range slices.Backward(ids) {
		dir := filepath.Join(s.Dir, id)
		total += sizeOf(dir)
		newest := i == len(ids)-1
		if newest || len(ids)-i <= s.Keep && total <= s.Size {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) clear(now time.Time) error {
	left, err := filepath.Glob(filepath.Join(s.Dir, unfinished+"*"))
	if err != nil {
		return err
	}
	for _, dir := range left {
		info, err := os.Stat(dir)
		if err != nil || now.Sub(info.ModTime()) < abandoned {
			continue
		}
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
