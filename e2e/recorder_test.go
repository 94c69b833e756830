//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestRequestsAreRecorded: what was asked and answered is shown whole, SSE
// included, in flight and after; no secret is in any form of it.
func TestRequestsAreRecorded(t *testing.T) {
	m := start(t, "admin = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.0/8\"]\n[recorder]\nredact_fields = [\"X-Tenant\"]\n"+fakePool(1)).ready()

	const secret = "hush-hush-4711"
	request, err := http.NewRequest(http.MethodGet, m.url("/events?api_key="+secret), strings.NewReader(`{"prompt":"Once","api_key":"`+secret+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header = http.Header{
		"Authorization": {"Bearer " + secret}, "X-Tenant": {secret}, "Cookie": {"session=" + secret},
		"X-Request-Id": {"told"}, "X-Note": {"seen"}, "Content-Type": {"application/json"},
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()

	m.eventually("the request in flight", func() bool {
		table := m.mustCommand("requests", "--worker", "p-0")
		return strings.Contains(table, "told") && strings.Contains(table, "in flight")
	})
	for range 5 {
		if a := (&caller{address: m.address}).get("/next"); a.outcome != complete {
			t.Fatal(a)
		}
	}
	if _, err := readAll(response); err != nil {
		t.Fatal(err)
	}
	m.accessLine("told") // it has ended

	var table string
	m.eventually("the request's end", func() bool {
		table = m.mustCommand("requests", "told", "--json")
		return strings.Contains(table, `"end"`)
	})
	var doc struct {
		Requests []struct {
			ID, Worker, Outcome string
			Request             struct {
				Method, Target string
				Body           struct{ Head string }
			}
			Response struct{ Body struct{ Head string } }
		}
	}
	if err := json.Unmarshal([]byte(table), &doc); err != nil {
		t.Fatal(err)
	}
	if len(doc.Requests) != 1 {
		t.Fatalf("%d requests: %s", len(doc.Requests), table)
	}
	got := doc.Requests[0]
	if got.Worker != "p-0" || got.Outcome != "ok" || got.Request.Target != "/events?api_key=[redacted]" || got.Request.Body.Head != `{"prompt":"Once","api_key":"[redacted]"}` ||
		got.Response.Body.Head != "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: 4\n\ndata: 5\n\n" {
		t.Errorf("recorded: %+v", got)
	}

	for _, c := range []struct {
		words []string
		want  []string
	}{
		{[]string{"requests"}, []string{"OUTCOME", "told", "p-0", "GET /events?api_key=[redacted]", "GET /next", "200", "ok"}},
		{[]string{"requests", "told"}, []string{"Authorization: [redacted]", "X-Tenant: [redacted]", "X-Note: seen", "data: 5"}},
		{[]string{"requests", "told", "--har"}, []string{`"version": "1.2"`, "data: 5"}},
		{[]string{"requests", "told", "--curl"}, []string{"curl -sS", "X-Note: seen", "secret fields, to be added by hand: "}},
	} {
		text := m.mustCommand(c.words...)
		for _, want := range c.want {
			if !strings.Contains(text, want) {
				t.Errorf("stoker %s does not say %q:\n%s", strings.Join(c.words, " "), want, text)
			}
		}
		if strings.Contains(text, secret) {
			t.Errorf("stoker %s tells the secret:\n%s", strings.Join(c.words, " "), text)
		}
	}
	if text, code := m.command("requests", "nobody"); code != 1 || !strings.Contains(text, "no request nobody is kept") {
		t.Errorf("an unknown request: %d %s", code, text)
	}
	m.stop()
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestFollowPrintsWhatEnds, and its interruption is its proper end.
func TestFollowPrintsWhatEnds(t *testing.T) {
	m := start(t, fakePool(1)).ready()
	follow := exec.Command(binary, "requests", "--follow", "--run-dir", m.runDir)
	out := create(t, t.TempDir()+"/out")
	follow.Stdout = out
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- follow.Wait() }()
	if a := (&caller{address: m.address}).get("/work?ms=1"); a.status != http.StatusOK {
		t.Fatal(a)
	}
	m.eventually("the line", func() bool { return strings.Contains(read(t, out.Name()), "GET /work?ms=1") })
	if err := follow.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("interrupted: %v", err)
		}
	case <-time.After(answerLimit):
		t.Error("it goes on after its interruption")
		_ = follow.Process.Kill()
	}
	m.stop()
}

// TestNothingIsRecordedWhereItIsOff.
func TestNothingIsRecordedWhereItIsOff(t *testing.T) {
	m := start(t, "recorder.enabled = false\n"+fakePool(1)).ready()
	if a := (&caller{address: m.address}).get("/work"); a.outcome != complete || a.status != http.StatusOK {
		t.Fatal(a)
	}
	if text, code := m.command("requests"); code != 1 || !strings.Contains(text, "recorder.enabled") {
		t.Errorf("%d %s", code, text)
	}
	m.stop()
}

// TestUpgradeKeepsWhatWasRecorded: the next generation shows what the one before
// has recorded, in every form, and what that still carries when it has ended; who
// follows sees each once; and a third generation has it from the second.
func TestUpgradeKeepsWhatWasRecorded(t *testing.T) {
	waits(t)
	const finished, stream = 20, "/drip?ms=6000"
	u := startUpgradable(t, "")
	follow := exec.Command(u.path, "requests", "--follow", "--run-dir", u.runDir)
	out := create(t, t.TempDir()+"/out")
	follow.Stdout = out
	if err := follow.Start(); err != nil {
		t.Fatal(err)
	}
	followed := make(chan error, 1)
	go func() { followed <- follow.Wait() }()

	c := caller{address: u.address}
	for range finished {
		if a := c.get("/work?ms=1"); a.outcome != complete || a.status != http.StatusOK {
			t.Fatal(a)
		}
	}
	dripped := make(chan answer, 1)
	go func() { dripped <- (&caller{address: u.address}).get(stream) }()
	inFlight := func() bool {
		for _, x := range u.recorded() {
			if x.Request.Target == stream {
				return x.End == nil
			}
		}
		return false
	}
	u.eventually("the stream in flight", inFlight)
	before := u.recorded()
	u.installVersion(1)
	u.mustUpgrade()
	if got := u.status(); got.Generation != 2 {
		t.Fatalf("generation %d", got.Generation)
	}

	after := u.recorded()
	if got, want := targets(after), targets(before); got != want || len(after) != finished+1 {
		t.Errorf("%d requests after the upgrade: %s; before: %s", len(after), got, want)
	}
	for i := range min(len(before), finished) {
		if !reflect.DeepEqual(before[i], after[i]) {
			t.Errorf("recorded %+v, told %+v", before[i], after[i])
		}
	}
	u.eventually("the stream in flight in the generation before", inFlight)
	if a := <-dripped; a.outcome != complete || !strings.HasSuffix(string(a.body), dripEnd) {
		t.Fatalf("the stream: %v", a)
	}
	u.eventually("the stream's end", func() bool { return !inFlight() })
	id := ""
	for _, x := range u.recorded() {
		if x.Request.Target == stream {
			id = x.ID
			if x.Outcome != "ok" || x.Response == nil || !strings.HasSuffix(x.Response.Body.Head, dripEnd) {
				t.Errorf("the stream's record: %+v", x)
			}
		}
	}
	for _, form := range []string{"--json", "--har", "--curl"} {
		if text := u.mustCommand("requests", id, form); !strings.Contains(text, stream) {
			t.Errorf("stoker requests %s %s: %s", id, form, text)
		}
	}

	u.installVersion(0)
	u.mustUpgrade()
	if got, want := targets(u.recorded()), targets(before); got != want {
		t.Errorf("the third generation has %s, want %s", got, want)
	}
	if a := c.get("/work?ms=2"); a.outcome != complete {
		t.Fatal(a)
	}
	u.eventually("the last line", func() bool { return strings.Contains(read(t, out.Name()), "GET /work?ms=2") })
	text := read(t, out.Name())
	if short, long := strings.Count(text, "GET /work?ms=1"), strings.Count(text, "GET "+stream); short != finished || long != 1 {
		t.Errorf("--follow printed %d lines of %d short requests, and %d of the stream:\n%s", short, finished, long, text)
	}
	_ = follow.Process.Signal(os.Interrupt)
	if err := <-followed; err != nil {
		t.Errorf("interrupted: %v", err)
	}
	u.endAll()
}

// recordedExchange is what the tests look at of one.
type recordedExchange struct {
	ID, Worker, Outcome string
	Seq                 uint64
	Start               time.Time
	End                 *time.Time
	Request             struct {
		Method, Target string
		Fields         []struct{ Name, Value string }
		Body           struct{ Head string }
	}
	Response *struct {
		Status int
		Fields []struct{ Name, Value string }
		Body   struct{ Head string }
	}
}

// recorded is what "stoker requests --json" shows.
func (m *master) recorded() []recordedExchange {
	m.t.Helper()
	var doc struct{ Requests []recordedExchange }
	if err := json.Unmarshal([]byte(m.mustCommand("requests", "--json")), &doc); err != nil {
		m.t.Fatal(err)
	}
	return doc.Requests
}

func targets(all []recordedExchange) string {
	var each []string
	for _, x := range all {
		each = append(each, x.ID+" "+x.Request.Target)
	}
	return strings.Join(each, ", ")
}

// TestUpgradeSwitchesTheRecorderOff: what was recorded has nowhere to go, and nothing else is lost.
func TestUpgradeSwitchesTheRecorderOff(t *testing.T) {
	waits(t)
	u := startUpgradable(t, "")
	u.serves()
	u.appendConfig("recorder.enabled = false\n")
	u.mustUpgrade()
	if text, code := u.command("requests"); code != 1 || !strings.Contains(text, "recorder.enabled") {
		t.Errorf("%d %s", code, text)
	}
	u.editConfig("recorder.enabled = false", "recorder.memory_mib = 1")
	u.mustUpgrade()
	u.eventually("only the third generation accepts", func() bool { // the second does until then, and records nothing
		u.serves()
		return len(u.recorded()) > 0
	})
	if all := u.recorded(); len(all) != 1 {
		t.Errorf("%d requests: what the first had recorded has nowhere to go", len(all))
	}
	u.endAll()
}
