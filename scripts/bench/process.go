package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores, as taskset takes them.
const (
	proxyCore = "0"
	loadCore  = "1"
)

// pinned is a process with its children, on one core.
type pinned struct {
	cmd    *exec.Cmd
	output bytes.Buffer
}

func startPinned(ctx context.Context, core string, command ...string) (*pinned, error) {
	p := &pinned{cmd: exec.CommandContext(ctx, "taskset", append([]string{"-c", core}, command...)...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	// If the bench is killed, nothing stays behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	return p, nil
}

// stop asks the process to end, and insists after five seconds.
func (p *pinned) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_ = p.cmd.Wait()
}

// cpu is what all threads of the process and of its children have used.
func (p *pinned) cpu() time.Duration {
	var sum time.Duration
	proc := os.DirFS("/proc")
	for _, pid := range append([]string{strconv.Itoa(p.cmd.Process.Pid)}, children(p.cmd.Process.Pid)...) {
		threads, _ := fs.Glob(proc, pid+"/task/*/schedstat")
		for _, thread := range threads {
			text, _ := fs.ReadFile(proc, thread)
			used, _, _ := strings.Cut(string(text), " ")
			nanoseconds, err := strconv.ParseInt(used, 10, 64)
			if err == nil {
				sum += time.Duration(nanoseconds)
			}
		}
	}
	return sum
}

// resident is the memory of the process and its children, in bytes; what they
// share is counted once.
func (p *pinned) resident() int64 {
	var sum int64
	proc := os.DirFS("/proc")
	for _, pid := range append([]string{strconv.Itoa(p.cmd.Process.Pid)}, children(p.cmd.Process.Pid)...) {
		text, _ := fs.ReadFile(proc, pid+"/smaps_rollup")
		for line := range strings.Lines(string(text)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				sum += kib << 10
			}
		}
	}
	return sum
}

func children(parent int) []string {
	proc := os.DirFS("/proc")
	lists, _ := fs.Glob(proc, fmt.Sprintf("%d/task/*/children", parent))
	var pids []string
	for _, list := range lists {
		text, _ := fs.ReadFile(proc, list)
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}
