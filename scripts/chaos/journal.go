package main

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// shown bounds how many of the things that did not hold are kept: the first
// ones say what is wrong, a thousandth only fills the terminal.
const shown = 40

// journal is what was done, and what did not hold.
type journal struct {
	verbose bool
	began   time.Time

	mu         sync.Mutex
	lines      []string
	violations []string
	more       int
}

func newJournal(verbose bool) *journal { return &journal{verbose: verbose, began: time.Now()} }

func (j *journal) note(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.add(fmt.Sprintf(format, args...))
}

// add appends a line with the time. The lock is held.
func (j *journal) add(text string) {
	line := fmt.Sprintf("%8.3f %s", time.Since(j.began).Seconds(), text)
	j.lines = append(j.lines, line)
	if j.verbose {
		fmt.Println(line)
	}
}

// violated says that something that must hold did not.
func (j *journal) violated(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := fmt.Sprintf(format, args...)
	j.add("VIOLATION " + text)
	if len(j.violations) == shown {
		j.more++
		return
	}
	j.violations = append(j.violations, j.lines[len(j.lines)-1])
}

func (j *journal) fine() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.violations) == 0
}

func (j *journal) text() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n") + "\n"
}

func (j *journal) violationText() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	text := strings.Join(j.violations, "\n") + "\n"
	if j.more > 0 {
		text += fmt.Sprintf("… and %d more\n", j.more)
	}
	return text
}
