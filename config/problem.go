package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a configuration, in words that say what
// would be right.
type Problem struct {
	// File is the file's name as it was given; empty when the key is a flag.
	File string
	// Line counts from 1; 0 when the file says nothing that could be pointed at.
	Line int
	// Column counts bytes from 1; 0 except for faulty TOML.
	Column int
	// Key is the path of the key ("pools[0].workers"), or a flag ("--workers");
	// empty when the whole file is meant.
	Key     string
	Message string
}

// String is the problem on one line: FILE:LINE:COLUMN: KEY: MESSAGE, without
// what is not known.
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		for _, n := range []int{p.Line, p.Column} {
			if n > 0 {
				fmt.Fprintf(&b, ":%d", n)
			}
		}
		b.WriteString(": ")
	}
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// Problems is everything wrong with a configuration, in the order of the file.
// It is never empty where it is returned as an error.
type Problems []Problem //nolint:errname // many at once; an operator reads them as a list

// Error has one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// err is ps as an error, sorted; nil when there is none.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return ps
}

// origin says where the keys of a configuration were written.
type origin struct {
	file  string
	lines lineIndex
	// flags names the flag that set a key, for keys that came from the command
	// line: {"listen": "--listen"}.
	flags map[string]string
}

// problem places a message at a key.
func (o origin) problem(path, message string) Problem {
	for key, flag := range o.flags {
		if path == key || strings.HasPrefix(path, key+"[") {
			return Problem{Key: flag, Message: message}
		}
	}
	return Problem{File: o.file, Line: o.lines.line(path), Key: path, Message: message}
}

// at is how a message refers to another key: with its line, or as its flag.
func (o origin) at(path string) string {
	p := o.problem(path, "")
	if p.Line > 0 {
		return fmt.Sprintf("%s (line %d)", p.Key, p.Line)
	}
	return p.Key
}
