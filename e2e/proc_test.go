//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// process is one that was found in /proc.
type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.command) }

// descendants are all living processes that came from this master, however
// they were re-parented.
func (m *master) descendants() []process {
	except := 0
	if m.running() {
		except = m.cmd.Process.Pid
	}
	return descendantsOf(m.mark, filepath.Dir(m.runDir)+"/", except)
}

// descendantsOf are the living processes that have the mark in their
// environment or the directory in their command line, but for one.
func descendantsOf(mark, dir string, except int) []process {
	entries, _ := filepath.Glob("/proc/[0-9]*")
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(filepath.Base(entry))
		if err != nil || pid == except || pid == os.Getpid() {
			continue
		}
		env, _ := os.ReadFile(entry + "/environ")
		command, _ := os.ReadFile(entry + "/cmdline")
		if len(command) == 0 { // a zombie or a kernel thread
			continue
		}
		if bytes.Contains(env, []byte(mark+"\x00")) || bytes.Contains(command, []byte(dir)) {
			found = append(found, process{pid, strings.TrimSpace(string(bytes.ReplaceAll(command, []byte{0}, []byte{' '})))})
		}
	}
	return found
}

// alive says whether a process exists and is no zombie.
func alive(pid int) bool {
	command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && len(command) > 0
}

// residentKiB is one kind of the master's resident memory as the kernel counts it:
// RssAnon, RssFile, RssShmem.
func (m *master) residentKiB(kind string) int {
	m.t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.cmd.Process.Pid))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, kind+":"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				m.t.Fatal(err)
			}
			return n
		}
	}
	m.t.Fatal("no " + kind)
	return 0
}

// descriptors counts the master's open descriptors by kind.
func (m *master) descriptors() (total int, kinds map[string]int) {
	m.t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", m.cmd.Process.Pid)
	names, err := os.ReadDir(dir)
	if err != nil {
		m.t.Fatal(err)
	}
	kinds = map[string]int{}
	for _, name := range names {
		target, err := os.Readlink(filepath.Join(dir, name.Name()))
		if err != nil {
			continue
		}
		kind, _, _ := strings.Cut(target, ":[")
		kinds[kind]++
		total++
	}
	return total, kinds
}
