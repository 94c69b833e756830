package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/config"
)

// lockOf is the lock file of a master that runs.
func lockOf(p *process) string { return (&config.Config{RunDir: p.runDir}).LockFile() }

// TestFindHolder: only who has the lock is its holder, whatever else has the
// file open or is named in it.
func TestFindHolder(t *testing.T) {
	p := start(t, append([]string{"run"}, builtIn()...)...)
	p.waitReady(t)
	// Another process of ours has the file open, and no lock on it.
	reader := exec.Command("sh", "-c", "exec 3<\"$0\"; echo open; exec sleep 60", lockOf(p))
	out, err := reader.StdoutPipe()
	if err == nil {
		err = reader.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Process.Kill(); _ = reader.Wait() })
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(lockOf(p), fmt.Appendln(nil, reader.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	found := findHolder(lockOf(p))
	if found == nil || found.pid != p.Process.Pid {
		t.Fatalf("found %+v, want process %d", found, p.Process.Pid)
	}
	defer found.close()
	if state := found.state(t.Context(), filepath.Join(p.runDir, "admin.sock")); state != stateReady {
		t.Errorf("it is %q", state)
	}
	if found.ended(0) {
		t.Error("it has ended")
	}
	if err := found.signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	<-p.ended
	if !found.ended(time.Second) {
		t.Error("it has not ended")
	}
	if again := findHolder(lockOf(p)); again != nil {
		t.Errorf("process %d holds what nobody holds", again.pid)
	}
	if none := findHolder(filepath.Join(t.TempDir(), "none")); none != nil {
		t.Errorf("process %d holds a file that is not there", none.pid)
	}
}

// TestStandIn: the service manager is told of the master that is there, and the
// process that it has started instead ends without a failure.
func TestStandIn(t *testing.T) {
	p := start(t, append([]string{"run"}, builtIn()...)...)
	p.waitReady(t)
	manager := newServiceManager(t)
	second := exec.Command(os.Args[0], append([]string{"run", "--run-dir", p.runDir, "--listen", freeAddress(t)}, builtIn()...)...)
	if out, err := second.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	want := fmt.Sprintf("MAINPID=%d\nREADY=1\nWATCHDOG=1", p.Process.Pid)
	if heard := manager.heard(); !slices.Contains(heard, want) {
		t.Errorf("the manager heard %q, want %q", heard, want)
	}
	if manager.count("BARRIER=1\n+fd") == 0 {
		t.Error("it has ended before the manager knew")
	}
}

// TestStandInTakesOver: it becomes the master when the one that holds the
// directory ends, and ends when it is told to while that one does not answer.
func TestStandInTakesOver(t *testing.T) {
	for _, c := range []struct {
		name string
		sig  syscall.Signal // to the holder, which hangs
	}{
		{"the holder dies", syscall.SIGKILL},
		{"told to end", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := start(t, append([]string{"run"}, builtIn()...)...)
			p.waitReady(t)
			if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			newServiceManager(t)
			second := &process{
				Cmd: exec.Command(os.Args[0], append([]string{"run", "--run-dir", p.runDir, "--listen", strings.TrimPrefix(p.url, "http://")}, builtIn()...)...),
				url: p.url, runDir: p.runDir, ended: make(chan struct{}),
			}
			second.Stdout, second.Stderr = second, second
			second.WaitDelay = 100 * time.Millisecond
			if err := second.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { defer close(second.ended); _ = second.Wait(); second.code = second.ProcessState.ExitCode() }()
			second.waitOutput(t, "another process of this service is the master")
			if c.sig != 0 {
				_ = p.Process.Signal(c.sig)
				second.waitOutput(t, "serving:")
				second.waitReady(t)
			}
			_ = second.Process.Signal(syscall.SIGTERM)
			<-second.ended
			if second.code != exitOK {
				t.Errorf("exit code %d: %s", second.code, second.output())
			}
			_ = p.Process.Signal(syscall.SIGCONT)
		})
	}
}

// waitOutput polls for a part of what the process prints.
func (p *process) waitOutput(t *testing.T, part string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(p.output(), part); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not printed in time: %q:\n%s", part, p.output())
		}
	}
}
