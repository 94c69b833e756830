//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// misbehave adds what an engine does when nobody watches it.
func misbehave(mux *http.ServeMux) {
	// become replaces the engine by a shell, whose end is then exact: a Go
	// program can neither die of SIGSEGV nor hide its deferred exits.
	mux.HandleFunc("/become", func(_ http.ResponseWriter, r *http.Request) {
		_ = syscall.Exec("/bin/sh", []string{"sh", "-c", r.FormValue("script")}, os.Environ())
	})
	// flood prints for so long, and answers how long the longest write took.
	mux.HandleFunc("/flood", func(w http.ResponseWriter, r *http.Request) {
		limit, _ := time.ParseDuration(r.FormValue("for"))
		line := []byte(strings.Repeat("flood ", 170) + "\n")
		var longest time.Duration
		var bytes int
		for began := time.Now(); time.Since(began) < limit; {
			before := time.Now()
			n, err := os.Stdout.Write(line)
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			bytes += n
			longest = max(longest, time.Since(before))
		}
		fmt.Fprintf(w, "%d %d", bytes, longest.Milliseconds())
	})
}

// unixTransport leads to one engine's socket.
func unixTransport(address string) *http.Transport {
	return &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(address, "unix:"))
	}}
}

// askEngine asks an engine itself, past any master.
func askEngine(address, path string) (string, error) {
	response, err := (&http.Client{Transport: unixTransport(address), Timeout: 2 * time.Minute}).Get("http://engine" + path)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %d: %s", response.StatusCode, text)
	}
	return string(text), err
}

// died counts the lines that report a worker's death, of all masters so far.
func (m *master) died(worker string) (causes []string) {
	m.t.Helper()
	for _, line := range m.logLines("worker") {
		if line["worker"] == worker && line["@message"] == "worker died" {
			causes = append(causes, fmt.Sprint(line["cause"]))
		}
	}
	return causes
}

// TestExitsWithoutMaster: engines end while no master lives. The next one
// reports each exactly, and the one after that does not report it again.
func TestExitsWithoutMaster(t *testing.T) {
	ends := []struct {
		script, signal, cause string
		code                  int
	}{
		{script: "exit+0", code: 0, cause: "exited with code 0 while"},
		{script: "exit+37", code: 37, cause: "exited with code 37 while"},
		{script: "kill+-SEGV+$$", code: -1, signal: "SIGSEGV", cause: "killed by SIGSEGV"},
		{script: "kill+-KILL+$$", code: -1, signal: "SIGKILL", cause: "killed by SIGKILL"},
	}
	m := start(t, fakePool(len(ends))).allReady()
	first := m.workers()
	m.signal(syscall.SIGKILL)
	m.exit(patience)
	for i, end := range ends {
		_, _ = askEngine(first[i].Address, "/become?script="+end.script)
	}
	for _, w := range first {
		m.eventually("the engine of "+w.Name+" has ended", func() bool { return !alive(w.PID) })
	}
	next := m.again()
	for i, end := range ends {
		var w workerStatus
		next.eventually(first[i].Name+" is back", func() bool {
			if code, _, err := next.admin("/readyz"); err != nil || code != http.StatusOK {
				return false
			}
			w = next.worker(first[i].Name)
			return w.State == "ready"
		})
		var last struct {
			Code   int    `json:"code"`
			Signal string `json:"signal"`
		}
		if err := json.Unmarshal(w.LastExit, &last); err != nil {
			t.Errorf("%s: last exit %s: %v", w.Name, w.LastExit, err)
		}
		if last.Code != end.code || last.Signal != end.signal || w.Restarts != 1 {
			t.Errorf("%s after %s: %d restarts, last exit %s", w.Name, end.script, w.Restarts, w.LastExit)
		}
	}
	next.signal(syscall.SIGKILL)
	next.exit(patience)
	last := next.again().allReady()
	for i, end := range ends {
		causes := last.died(first[i].Name)
		if len(causes) != 1 || !strings.Contains(causes[0], end.cause) || !strings.Contains(causes[0], "while no master ran") {
			t.Errorf("%s after %s was reported as %q", first[i].Name, end.script, causes)
		}
	}
	last.stop()
}

// TestKeeperKilled: a killed keeper is noticed within a second. Its engine's
// whole tree, deaf to TERM, holds a lock on a file: were another engine to
// start before all of it is gone, that one would find the lock taken.
func TestKeeperKilled(t *testing.T) {
	alone := shortDir(t) + "/alone"
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\nstop.grace = \"200ms\"\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\nrestart.max_failures = 0\ncommand = "+
		list(engine("--family", "--alone", alone, "--socket", "{socket}")...)+"\n").allReady()
	for round := 1; round <= 3; round++ {
		before := m.workers()[0]
		tree := m.sleepers(2 * round)
		if err := syscall.Kill(before.KeeperPID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		m.eventuallyWithin(time.Second, "noticed", func() bool {
			now := m.workers()[0]
			return now.State != "ready" || now.KeeperPID != before.KeeperPID
		})
		m.eventually("the worker is back", func() bool {
			now := m.workers()[0]
			return now.State == "ready" && now.KeeperPID != before.KeeperPID && now.Restarts == round
		})
		for _, pid := range append(tree, before.PID) {
			if alive(pid) {
				t.Errorf("process %d of the tree lives after the restart", pid)
			}
		}
	}
	if events := m.engineEvents(); slices.Contains(events, "not alone") || !slices.Contains(events, "alone") {
		t.Errorf("two engines were on one slot: %v", events)
	}
	m.sleepers(8)
	m.signal(syscall.SIGTERM)
	m.exit(patience)
	m.nothingLeft()
}

// holdAlone locks a file for as long as this process or a descendant lives,
// which inherit the descriptor, and notes whether it was free.
func holdAlone(path string) {
	fd, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o600) // without O_CLOEXEC
	if err == nil {
		err = syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB)
	}
	if err != nil {
		note("not alone")
		return
	}
	note("alone")
}

// TestOutputFollowsTheMaster: a master that is started in another terminal
// adopts the engines, and their output goes there from then on.
func TestOutputFollowsTheMaster(t *testing.T) {
	m := start(t, fakePool(1)).allReady()
	address := m.workers()[0].Address
	m.signal(syscall.SIGKILL)
	m.exit(patience)
	elsewhere := *m
	elsewhere.stderr += ".2"
	next := elsewhere.again().allReady()
	if _, err := askEngine(address, "/flood?for=1ms"); err != nil {
		t.Fatal(err)
	}
	says := func(file string) bool {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(text), "[p-0] flood")
	}
	next.eventually("the engine's output", func() bool { return says(next.stderr) })
	if says(m.stderr) {
		t.Error("output went to where the dead master's log went")
	}
	next.stop()
}

// floodTime is how long an engine floods; STOKER_E2E_FLOOD changes it. By
// default it is longer than any limit that a keeper has for who reads or asks
// (5 s); CI takes the whole 20 s.
func floodTime(t *testing.T) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(cmp.Or(os.Getenv("STOKER_E2E_FLOOD"), "8s"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestFloodWithoutMaster: an engine floods its output while no master lives,
// and whoever took the log has stopped reading or has gone. It is neither
// blocked nor killed, and the next master adopts it.
func TestFloodWithoutMaster(t *testing.T) {
	for _, c := range []struct {
		name string
		gone bool
	}{{name: "nobody reads"}, {name: "the reader has gone", gone: true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // beside the other alone: each keeps a processor busy
			fifo := shortDir(t) + "/log"
			if err := syscall.Mkfifo(fifo, 0o600); err != nil {
				t.Fatal(err)
			}
			log := openLog(t, fifo)
			m := startAs(t, fakePool(1), setup{
				args:  []string{"run", "-c", "{config}"},
				below: []string{"sh", "-c", `exec "$0" "$@" 2>"$STOKER_E2E_LOG"`}, env: []string{"STOKER_E2E_LOG=" + fifo},
			}).allReady()
			before := m.workers()[0]
			m.signal(syscall.SIGKILL)
			m.exit(patience)
			if c.gone {
				_ = log.Close()
			}
			text, err := askEngine(before.Address, "/flood?for="+floodTime(t).String())
			var bytes, longest int
			if _, scanned := fmt.Sscan(text, &bytes, &longest); err != nil || scanned != nil {
				t.Fatalf("the flood ended with %q: %v", text, err)
			}
			t.Logf("%d MB, longest write %d ms", bytes/1e6, longest)
			if longest > 1000 || bytes < 1<<20 {
				t.Errorf("blocked: %d bytes, longest write %d ms", bytes, longest)
			}
			if c.gone {
				log = openLog(t, fifo)
			}
			go func() { _, _ = io.Copy(io.Discard, log) }() // ends when the log is closed
			next := m.again().allReady()
			if now := next.workers()[0]; now.PID != before.PID || now.KeeperPID != before.KeeperPID || now.Restarts != 0 {
				t.Errorf("after the flood %+v, before %+v", now, before)
			}
			next.stop()
		})
	}
}

// openLog opens a pipe so that it has a reader, which as yet does not read.
func openLog(t *testing.T, fifo string) *os.File {
	t.Helper()
	log, err := os.OpenFile(fifo, os.O_RDWR|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log
}
