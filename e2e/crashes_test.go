//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashReport is what "stoker crashes ID --json" promises.
type crashReport struct {
	ID    string
	Death struct {
		Worker, Reason, Cause string
		Exit                  struct {
			Code   int
			Signal string
		}
	}
	Uptime    float64 `json:"uptime_seconds"`
	Output    string
	Suspects  []struct{ ID, Target string } `json:"suspects"`
	Exchanges []struct {
		ID      string
		Request struct{ Body struct{ Head string } }
	} `json:"recorded_suspects"`
}

// crashIDs are those of all reports, the oldest first.
func (m *master) crashIDs() []string {
	m.t.Helper()
	var list struct{ Crashes []struct{ ID string } }
	if err := json.Unmarshal([]byte(m.mustCommand("crashes", "--json")), &list); err != nil {
		m.t.Fatal(err)
	}
	var ids []string
	for _, c := range list.Crashes {
		ids = append(ids, c.ID)
	}
	return ids
}

// firstCrash waits for a report and returns the oldest.
func (m *master) firstCrash() crashReport {
	m.t.Helper()
	m.eventually("a crash report", func() bool { return len(m.crashIDs()) > 0 })
	return m.crash(m.crashIDs()[0])
}

func (m *master) crash(id string) (r crashReport) {
	m.t.Helper()
	if err := json.Unmarshal([]byte(m.mustCommand("crashes", id, "--json")), &r); err != nil {
		m.t.Fatal(err)
	}
	return r
}

func (r *crashReport) suspects() []string {
	var ids []string
	for _, s := range r.Suspects {
		ids = append(ids, s.ID)
	}
	slices.Sort(ids)
	return ids
}

// modelPool is a pool of the built-in engine, which makes up the same text for the same seed.
func modelPool(workers int) string {
	return fmt.Sprintf("[[pools]]\nname = \"p\"\nworkers = %d\nrestart.delay = \"100ms\"\ncommand = %s\n", workers,
		list(binary, "engine", "--socket", "{socket}", "--name", "{name}", "--load-time", "0s", "--faults", "--decode-rate", "100"))
}

const askedSecret = "hush-hush-0815"

func askFor(i, tokens int, more string) string {
	return fmt.Sprintf(`{"model":"stoker-demo","stream":true,"seed":7,"ignore_eos":true,"max_tokens":%d,"api_key":%q,"messages":[{"role":"user","content":"it's number %d"}]%s}`,
		tokens, askedSecret, i, more)
}

// ask begins a stream.
func (m *master) ask(id, body string) *http.Response {
	m.t.Helper()
	request, err := http.NewRequest(http.MethodPost, m.url("/v1/chat/completions"), strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	request.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + askedSecret}, "X-Request-Id": {id}}
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		m.t.Fatalf("ask: %v", err)
	}
	m.t.Cleanup(func() { response.Body.Close() })
	return response
}

// said is the text that the events of a stream make up.
func said(t *testing.T, stream string) string {
	t.Helper()
	var text strings.Builder
	for line := range strings.Lines(stream) {
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var event struct {
			Choices []struct{ Delta struct{ Content string } }
		}
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			t.Fatalf("event %q: %v", data, err)
		}
		for _, c := range event.Choices {
			text.WriteString(c.Delta.Content)
		}
	}
	return text.String()
}

// TestACrashNamesItsRequests: kill -9 of an engine with streams on it. The
// report has exactly those, no secret of theirs, and one of them sent again
// gives the answer that it would have had.
func TestACrashNamesItsRequests(t *testing.T) {
	waits(t)
	m := start(t, "trusted_proxies = [\"127.0.0.0/8\"]\n"+modelPool(2)).allReady()
	on := map[string][]string{}
	bodies := map[string]string{}
	for i := range 6 {
		id := fmt.Sprint("stream-", i)
		bodies[id] = askFor(i, 300, "")
		response := m.ask(id, bodies[id]) //nolint:bodyclose // ask's clean-up closes it
		if _, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(response.Header.Get("X-Engine"), "/")
		on[name] = append(on[name], id)
	}
	if len(on["p-0"]) != 3 || len(on["p-1"]) != 3 {
		t.Fatalf("streams are on %v", on)
	}
	if err := syscall.Kill(m.worker("p-0").PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := m.firstCrash()
	if got := r.suspects(); !slices.Equal(got, on["p-0"]) {
		t.Errorf("suspects %v, want %v", got, on["p-0"])
	}
	if r.Death.Worker != "p-0" || r.Death.Exit.Signal != "SIGKILL" || r.Death.Reason != "signaled" || r.Uptime <= 0 || !strings.Contains(r.Output, "model") {
		t.Errorf("report: %+v", r)
	}
	if line := m.explained("see.*stoker crashes " + r.ID); line == "" {
		t.Error("the line of the death does not name its report")
	}
	if n := m.metric("stoker_crash_suspects_total", `pool="p"`); n != 3 {
		t.Errorf("%v suspects counted", n)
	}
	if n := m.metric("stoker_crashes_total", `pool="p"`, `reason="signaled"`, `exit="SIGKILL"`); n != 1 {
		t.Errorf("%v crashes counted", n)
	}

	text := m.mustCommand("crashes", "p-0")
	for _, want := range []string{"killed by SIGKILL", "3 suspects", "curl -sS", "POST /v1/chat/completions", "p-1 ready", "Last output"} {
		if !strings.Contains(text, want) {
			t.Errorf("stoker crashes p-0 does not say %q:\n%s", want, text)
		}
	}
	// Shorter when sent again: the answer is the beginning of what it would have been.
	m.allReady()
	want := said(t, sendBody(t, m, bodies[r.Suspects[1].ID]))
	got, note, code := m.outOf("replay", "latest", "--suspect", "2", "--header", "Authorization: Bearer anew")
	if code != 0 || said(t, got) != want || len(want) < 400 {
		t.Errorf("replay: exit code %d, %d bytes of text, want %d\n%s", code, len(said(t, got)), len(want), note)
	}
	if !strings.Contains(note, "HTTP/1.1 200") || !strings.Contains(note, "secrets in its body") {
		t.Errorf("replay does not say what it did: %s", note)
	}
	if _, note, code := m.outOf("replay", "latest"); code != 2 || !strings.Contains(note, "--suspect") {
		t.Errorf("replay of one of three: %d %s", code, note)
	}
	m.kept(askedSecret)
	m.stop()
	// Nothing runs any more: the report is there.
	if text, code := m.command("crashes", r.ID[:15]); code != 0 || !strings.Contains(text, r.ID) {
		t.Errorf("without a master: %d %s", code, text)
	}
}

// sendBody asks and returns the whole answer.
func sendBody(t *testing.T, m *master, body string) string {
	t.Helper()
	text, err := readAll(m.ask("again", body)) //nolint:bodyclose // readAll closes it
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// outOf runs a command and returns both of its outputs.
func (m *master) outOf(words ...string) (out, note string, code int) {
	m.t.Helper()
	cmd := exec.Command(binary, append(words, "--run-dir", m.runDir)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// kept fails unless reports are their owner's alone, and without a secret.
func (m *master) kept(secret string) {
	m.t.Helper()
	files := 0
	err := filepath.WalkDir(filepath.Join(m.runDir, "crashes"), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			m.t.Errorf("%s has mode %v", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		files++
		if strings.Contains(read(m.t, path), secret) {
			m.t.Errorf("%s holds a secret", path)
		}
		return nil
	})
	if err != nil || files < 3 {
		m.t.Errorf("%d files, %v", files, err)
	}
}

// TestACleanExitIsACrash: a request that lets the engine shut down in good
// order, exit code 0, is named with all its body, unanswered as it is.
func TestACleanExitIsACrash(t *testing.T) {
	m := start(t, "trusted_proxies = [\"127.0.0.0/8\"]\n"+modelPool(1)).allReady()
	response := m.ask("poison", askFor(1, 50, `,"structured_outputs":{"none":1},"fault":"exit=0"`))
	if response.StatusCode == http.StatusOK {
		if _, err := readAll(response); err == nil {
			t.Error("the answer of an engine that exited is whole")
		}
	}
	r := m.firstCrash()
	if r.Death.Exit.Code != 0 || r.Death.Reason != "exited" || !slices.Equal(r.suspects(), []string{"poison"}) {
		t.Errorf("report: %+v", r)
	}
	if len(r.Exchanges) != 1 || !strings.Contains(r.Exchanges[0].Request.Body.Head, "structured_outputs") {
		t.Errorf("recorded: %+v", r.Exchanges)
	}
	text := m.mustCommand("crashes", r.ID)
	for _, want := range []string{"exited with code 0", "1. POST /v1/chat/completions", "structured_outputs", "no answer yet"} {
		if !strings.Contains(text, want) {
			t.Errorf("stoker crashes does not say %q:\n%s", want, text)
		}
	}
	// To an engine of its own, so that nobody else's suffers.
	socket := filepath.Join(shortDir(t), "e.sock")
	alone := exec.Command(binary, "engine", "--socket", socket, "--load-time", "0s", "--faults")
	if err := alone.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = alone.Process.Kill(); _ = alone.Wait() }()
	m.eventually("the engine apart", func() bool { _, err := os.Stat(socket); return err == nil })
	if _, note, code := m.outOf("replay", r.ID, "--to", "unix:"+socket); code != 1 && code != 5 {
		t.Errorf("replay that kills: exit code %d: %s", code, note)
	}
	if err := alone.Wait(); err != nil {
		t.Errorf("the engine apart did not exit 0: %v", err)
	}
	m.stop()
}

// TestHalfABodyIsNotSent unless somebody insists.
func TestHalfABodyIsNotSent(t *testing.T) {
	waits(t)
	m := start(t, "trusted_proxies = [\"127.0.0.0/8\"]\nrecorder.body_kib = 1\n"+fakePool(1)).ready()
	request, err := http.NewRequest(http.MethodPost, m.url("/work?ms=1"), strings.NewReader(strings.Repeat("long ", 1000)))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Request-Id", "long")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(response); err != nil {
		t.Fatal(err)
	}
	m.eventually("the request's end", func() bool { return strings.Contains(m.mustCommand("requests", "long", "--json"), `"end"`) })
	if _, note, code := m.outOf("replay", "long"); code != 2 || !strings.Contains(note, "were not kept") {
		t.Errorf("%d %s", code, note)
	}
	if out, note, code := m.outOf("replay", "long", "--force"); code != 0 || out != wholeAnswer {
		t.Errorf("%d %s", code, note)
	}
	if _, note, code := m.outOf("replay", "nobody"); code != 2 || !strings.Contains(note, "no request") {
		t.Errorf("%d %s", code, note)
	}
	if _, note, code := m.outOf("replay", "long", "--force", "--to", "ftp://x"); code != 2 || !strings.Contains(note, "is no server") {
		t.Errorf("%d %s", code, note)
	}
	m.stop()
}

// TestDisksThatDoNotWork delay no restart, and are told of once.
func TestDisksThatDoNotWork(t *testing.T) {
	waits(t)
	for _, c := range []struct {
		name string
		dir  func(t *testing.T) string
	}{
		{"no directory can be made", func(t *testing.T) string {
			t.Helper()
			file := filepath.Join(shortDir(t), "file")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return filepath.Join(file, "state")
		}},
		{"the disk is full", func(t *testing.T) string {
			t.Helper()
			dir := shortDir(t)
			if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
				missing(t, "the right to mount a small file system ("+err.Error()+")", "run as root with CAP_SYS_ADMIN")
			}
			t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
			// To its last block.
			_ = os.WriteFile(filepath.Join(dir, "all"), make([]byte, 1<<20), 0o600)
			return dir
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := start(t, fmt.Sprintf("state_dir = %q\n", c.dir(t))+fakePool(1)).ready()
			var slowest time.Duration
			for deaths := 1; deaths <= 3; deaths++ {
				began := time.Now()
				if err := syscall.Kill(m.worker("p-0").PID, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				m.eventually("the restart", func() bool {
					w := m.worker("p-0")
					return w.Restarts == deaths && w.State == "ready"
				})
				slowest = max(slowest, time.Since(began))
			}
			t.Logf("the slowest restart took %v", slowest)
			if slowest > 10*time.Second { // some 0.5 s, and once more that in a row
				t.Errorf("a restart took %v", slowest)
			}
			m.eventually("three reports lost", func() bool { return m.metric("stoker_crash_reports_failed_total") == 3 })
			if n := strings.Count(m.logText(), "crash report not written"); n != 1 {
				t.Errorf("%d lines tell of it", n)
			}
			m.stop()
		})
	}
}

// TestFiftyDeathsLeaveFewReports: a crash loop fills no disk.
func TestFiftyDeathsLeaveFewReports(t *testing.T) {
	waits(t)
	m := start(t, "crashes.keep = 5\n[[pools]]\nname = \"p\"\nworkers = 4\nrestart.delay = \"10ms\"\nrestart.max_delay = \"10ms\"\ncommand = "+
		list(engine("--exit-after", "1ms", "--exit-code", "9", "--socket", "{socket}")...)+"\n")
	m.eventually("an admin socket", m.answersAdmin)
	m.eventually("fifty deaths", func() bool {
		return m.metric("stoker_crashes_total", `pool="p"`, `reason="exited"`, `exit="9"`) >= 50
	})
	ids := m.crashIDs()
	if len(ids) == 0 || len(ids) > 5 {
		t.Errorf("%d reports", len(ids))
	}
	if r := m.crash("latest"); r.Death.Exit.Code != 9 || !strings.Contains(r.Output, "about to exit") || len(r.Suspects) != 0 {
		t.Errorf("report: %+v", r)
	}
	m.signal(syscall.SIGTERM)
	m.exit(patience)
	m.nothingLeft()
}

// TestADeathWithoutAMasterIsReported by the next one, with what the keeper saw.
func TestADeathWithoutAMasterIsReported(t *testing.T) {
	m := start(t, fakePool(1)).ready()
	pid := m.worker("p-0").PID
	m.signal(syscall.SIGKILL)
	m.exit(patience)
	if err := syscall.Kill(pid, syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	m.eventually("its end", func() bool { return !alive(pid) })
	next := m.again().ready()
	r := next.firstCrash()
	if r.Death.Worker != "p-0" || r.Death.Reason != "exited" && r.Death.Reason != "signaled" || !strings.Contains(r.Death.Cause, "while no master ran") || len(r.Suspects) != 0 {
		t.Errorf("report: %+v", r)
	}
	if !strings.Contains(r.Output, "SIGABRT") { // Go's own last words
		t.Errorf("the last output is not in it: %q", r.Output)
	}
	next.stop()
}

// TestACrashWhileAnOlderGenerationDrains names the requests of both.
func TestACrashWhileAnOlderGenerationDrains(t *testing.T) {
	waits(t)
	u := startUpgradable(t, "trusted_proxies = [\"127.0.0.0/8\"]\n")
	var open []io.Closer
	begin := func(id string) {
		request, err := http.NewRequest(http.MethodGet, u.url("/drip?ms=30000"), http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("X-Request-Id", id)
		response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request) //nolint:bodyclose // at the end of the test
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, response.Body)
	}
	begin("old-a")
	begin("old-b") // one on each
	u.mustUpgrade()
	begin("new-a")
	begin("new-b")
	u.eventually("both generations' requests", func() bool {
		return !slices.ContainsFunc(u.workers(), func(w workerStatus) bool { return w.InFlight != 2 })
	})
	if err := syscall.Kill(u.pids["p-0"], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := u.firstCrash()
	u.eventually("the older generation's part", func() bool {
		r = u.crash(r.ID)
		return len(r.Suspects) == 2
	})
	if got := r.suspects(); !strings.HasPrefix(got[0], "new-") || !strings.HasPrefix(got[1], "old-") {
		t.Errorf("suspects %v", got)
	}
	if n := len(u.crashIDs()); n != 1 {
		t.Errorf("%d reports of one death", n)
	}
	for _, body := range open {
		_ = body.Close()
	}
	u.endAll()
}
