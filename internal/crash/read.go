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

	"stoker/balancer/recorder"
)

// ErrNoReport means that there is none of that id.
var ErrNoReport = errors.New("no such crash report")

// ErrAmbiguous means that the beginning of an id is that of several.
var ErrAmbiguous = errors.New("several crash reports are called so")

// names are those of all reports and parts, the oldest first.
func (s *Store) names() ([]string, error) {
	entries, err := os.ReadDir(s.Dir) // sorted by name
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list crash reports: %w", err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// IDs of all reports, the oldest first; none where there is no directory.
func (s *Store) IDs() ([]string, error) {
	names, err := s.names()
	return slices.DeleteFunc(names, isPart), err
}

// isPart tells another generation's part of a report: its id has a fraction of a
// second, which is digits, and a worker's name, which has no dot.
func isPart(name string) bool { return strings.Contains(name, partMark) }

// Find is the id that is meant by a word: an id or the beginning of one,
// "latest", or a worker's name for its latest. It is ErrNoReport or ErrAmbiguous
// where that is none or several.
func (s *Store) Find(word string) (string, error) {
	ids, err := s.IDs()
	if err != nil {
		return "", err
	}
	var matches []string
	for _, id := range slices.Backward(ids) {
		_, worker, _ := strings.Cut(id, "-")
		switch {
		case word == id, word == "latest", word == worker:
			return id, nil
		case word != "" && strings.HasPrefix(id, word):
			matches = append(matches, id)
		}
	}
	switch len(matches) {
	case 0:
		return "", fmt.Errorf("%w: %q", ErrNoReport, word)
	case 1:
		return matches[0], nil
	}
	return "", fmt.Errorf("%w: %q begins %d, among them %s", ErrAmbiguous, word, len(matches), strings.Join(matches[:2], " and "))
}

// Peek reads a report without the engine's output and what was recorded of its suspects.
func (s *Store) Peek(id string) (*Report, error) {
	r, err := s.peek(id)
	if err != nil {
		return nil, err
	}
	for _, part := range s.parts(id) {
		if p, err := s.peek(part); err == nil {
			r.Summaries = append(r.Summaries, p.Summaries...)
		}
	}
	return r, nil
}

func (s *Store) peek(name string) (*Report, error) {
	dir, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	r := new(Report)
	if err := read(dir, reportFile, r); err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", name, err)
	}
	return r, nil
}

// parts are what other generations wrote of the same death.
func (s *Store) parts(id string) []string {
	names, err := s.names()
	if err != nil {
		return nil
	}
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, id+partMark) })
}

// readTries bounds how often Open follows a word to a report that is gone then.
const readTries = 100

// Open reads the report that is meant by a word, as Find has it. In a crash loop the
// latest may be removed in the moment between, and another be the latest.
func (s *Store) Open(word string) (*Report, error) {
	for try := 1; ; try++ {
		id, err := s.Find(word)
		if err != nil {
			return nil, err
		}
		if r, err := s.Load(id); !errors.Is(err, ErrNoReport) || try == readTries {
			return r, err
		}
	}
}

// Load reads a whole report, other generations' parts of it included. It is
// ErrNoReport when there is none of that id.
func (s *Store) Load(id string) (*Report, error) {
	r, err := s.load(id)
	if err != nil {
		return nil, err
	}
	for _, part := range s.parts(id) {
		p, err := s.load(part)
		if err != nil {
			continue // what is there is worth more than nothing
		}
		r.Summaries = append(r.Summaries, p.Summaries...)
		r.Suspects = append(r.Suspects, p.Suspects...)
		r.Trimmed += p.Trimmed
	}
	return r, nil
}

func (s *Store) load(name string) (*Report, error) {
	r, err := s.peek(name)
	if err != nil {
		return nil, err
	}
	dir, err := s.open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	r.Suspects = make([]recorder.Exchange, len(r.Summaries))
	for i := range r.Suspects {
		// What a report says of files is not followed.
		if err := read(dir, suspectFile(i), &r.Suspects[i]); err != nil {
			return nil, fmt.Errorf("read crash report %s: %w", name, err)
		}
	}
	if r.Death.Output, err = readFile(dir, outputFile); err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", name, err)
	}
	return r, nil
}

// open opens a report's directory, and nothing outside the store.
func (s *Store) open(name string) (*os.Root, error) {
	if name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return nil, fmt.Errorf("%w: %q", ErrNoReport, name)
	}
	dir, err := os.OpenRoot(filepath.Join(s.Dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %q", ErrNoReport, name)
	}
	if err != nil {
		return nil, fmt.Errorf("read crash report %s: %w", name, err)
	}
	return dir, nil
}

// read is ErrNoReport where the report has been removed since it was opened.
func read(dir *os.Root, name string, into any) error {
	text, err := readFile(dir, name)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func readFile(dir *os.Root, name string) ([]byte, error) {
	text, err := dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNoReport, err)
	}
	return text, err
}
