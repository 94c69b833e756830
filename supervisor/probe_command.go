package supervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"stoker/config"
)

// program is something of the operator's that is run beside an engine.
type program struct {
	argv, env []string
	dir       string
	account   *account // nil: the master's own
}

// maxProgramOutput is how much of its output is kept: its end.
const maxProgramOutput = 8 << 10

// run runs it to its end, or kills its whole process group when ctx ends. The
// output is the last that it wrote.
func (p *program) run(ctx context.Context) (output []byte, err error) {
	out := &tailWriter{limit: maxProgramOutput}
	command := exec.CommandContext(ctx, p.argv[0], p.argv[1:]...)
	command.Env, command.Dir = p.env, p.dir
	command.Stdout, command.Stderr = out, out
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is the master's
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = time.Second // a grandchild may hold the pipe
	if p.account != nil {
		c := p.account.credential
		command.SysProcAttr.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
	}
	err = command.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		// It has ended well, and left somebody of its group behind, who keeps the number taken.
		_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL)
		err = nil
	}
	return out.kept, err
}

// tailWriter keeps the end of what is written. exec gives both streams to one goroutine.
type tailWriter struct {
	limit int
	kept  []byte
}

func (w *tailWriter) Write(p []byte) (int, error) {
	w.kept = append(w.kept, p...)
	if surplus := len(w.kept) - w.limit; surplus > 0 {
		w.kept = append(w.kept[:0], w.kept[surplus:]...)
	}
	return len(p), nil
}

// newCommandProbe runs a program of the operator's; exit code 0 is well.
func newCommandProbe(p *program) probe {
	return func(ctx context.Context) error {
		out, err := p.run(ctx)
		words := quoted([]byte(lastLines(string(out), 1, 200)))
		var exit *exec.ExitError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return noAnswer(p.argv[0] + words)
		case errors.As(err, &exit):
			return failed(failAnswered, "%s: %w%s", p.argv[0], err, words)
		default:
			return failed(failBroken, "run %s: %w", p.argv[0], err)
		}
	}
}

// commandProbe is a worker's: with the engine's environment and user, as its
// settings are now.
func (s *slot) commandProbe(argv []string, address string) probe {
	words := s.expandAll(argv)
	_, port, err := net.SplitHostPort(address)
	for i := range words {
		words[i] = strings.ReplaceAll(words[i], "{address}", address)
		if err == nil { // an engine that is only looked at has no port reserved
			words[i] = strings.ReplaceAll(words[i], "{port}", port)
		}
	}
	env := append(s.environment(), "STOKER_ADDRESS="+address)
	return newCommandProbe(&program{argv: words, env: env, dir: s.pool.Dir, account: s.account})
}

// newChecks are a worker's.
func (s *slot) newChecks(h config.Health, address string) *checks {
	return newChecks(h, address, mannerOf(s.pool, nil), s.commandProbe)
}

// newServerChecks are a remote server's.
func newServerChecks(p *config.Pool, c config.Server) *checks {
	return newChecks(p.Health, c.Address, mannerOf(p, serverTLS(p, c)), func(argv []string, address string) probe {
		replace := strings.NewReplacer("{address}", address, "{name}", c.Name)
		words := make([]string, len(argv))
		for i, word := range argv {
			words[i] = replace.Replace(word)
		}
		env := environment(os.Environ(), map[string]string{"STOKER_ADDRESS": address, "STOKER_NAME": c.Name})
		return newCommandProbe(&program{argv: words, env: env})
	})
}

// isStopped says whether a process is stopped by a signal, as by SIGSTOP: its
// sockets take connections for as long as the kernel's queues have room. One
// that a debugger holds is not.
func isStopped(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	text := string(raw)
	_, rest, ok := strings.Cut(text[strings.LastIndexByte(text, ')')+1:], " ")
	return ok && strings.HasPrefix(rest, "T")
}
