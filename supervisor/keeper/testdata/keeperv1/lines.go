//go:build keeperv1

package main

import "bytes"

// maxLine is how long a line of output may be before it is split, in bytes and
// without its prefix.
const maxLine = 32 << 10

// lines cuts one stream of an engine's output into whole lines, each with the
// worker's name in front. A carriage return ends a line too: progress bars use
// nothing else, and would otherwise show nothing until they are done.
type lines struct {
	prefix string
	emit   func(line []byte) // whole line with its newline; not kept
	line   []byte
	// soft: the line was ended by flush or by its length, so that a terminator which
	// comes right after ends nothing more.
	soft bool
	// cr: the last byte was a carriage return; a newline belongs to it.
	cr bool
}

func newLines(name string, emit func([]byte)) *lines {
	return &lines{prefix: "[" + name + "] ", emit: emit}
}

// write takes bytes as they come.
func (l *lines) write(p []byte) {
	for len(p) > 0 {
		if l.cr && p[0] == '\n' {
			l.cr, p = false, p[1:]
			continue
		}
		l.cr = false
		i := bytes.IndexAny(p, "\r\n")
		n := i
		if i < 0 {
			n = len(p)
		}
		if room := maxLine - l.pending(); n > room {
			l.add(p[:room])
			l.flush()
			p = p[room:]
			continue
		}
		l.add(p[:n])
		if i < 0 {
			return
		}
		l.terminate(p[i])
		p = p[i+1:]
	}
}

// pending is how many bytes of a line wait for its end.
func (l *lines) pending() int { return max(0, len(l.line)-len(l.prefix)) }

func (l *lines) add(p []byte) {
	if len(p) == 0 {
		return
	}
	if len(l.line) == 0 {
		l.line = append(l.line, l.prefix...)
	}
	l.line = append(l.line, p...)
	l.soft = false
}

func (l *lines) terminate(end byte) {
	l.cr = end == '\r'
	if l.pending() == 0 && (l.soft || l.cr) {
		l.soft = false
		return
	}
	if len(l.line) == 0 {
		l.line = append(l.line, l.prefix...)
	}
	l.flush()
	l.soft = false
}

// flush ends a line that was begun, whether or not its terminator came.
func (l *lines) flush() {
	if len(l.line) == 0 {
		return
	}
	l.emit(append(l.line, '\n'))
	l.line = l.line[:0]
	l.soft = true
}
