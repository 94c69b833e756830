package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/config"
	"stoker/exchange"
	"stoker/supervisor"
)

// TestOrdersAreTakenOnTheSocketAlone: GET changes nothing, and a port takes no orders.
func TestOrdersAreTakenOnTheSocketAlone(t *testing.T) {
	port := freeAddress(t)
	p := start(t, append([]string{"run", "--admin", port}, builtIn()...)...)
	p.waitReady(t)
	before := p.pids(t)
	overSocket := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.runDir, "admin.sock"))
	}}}
	cases := []struct {
		name         string
		client       *http.Client
		method, host string
		path, body   string
		want         int
		says         string
	}{
		{"GET", overSocket, "GET", "stoker", "/stop", "", http.StatusMethodNotAllowed, ""},
		{"a port", http.DefaultClient, "POST", port, "/stop", `{"name":"app"}`, http.StatusForbidden, "admin socket"},
		{"a key that means nothing", overSocket, "POST", "stoker", "/stop", `{"pool":"app"}`, http.StatusBadRequest, "pool"},
		{"nothing is called so", overSocket, "POST", "stoker", "/drain", `{"name":"x"}`, http.StatusNotFound, "app-0"},
		{"no duration", overSocket, "POST", "stoker", "/drain", `{"name":"app","timeout":"9"}`, http.StatusBadRequest, "timeout"},
		{"no file to reload", overSocket, "POST", "stoker", "/reload", ``, http.StatusBadRequest, "-c FILE"},
		{"no workers", overSocket, "POST", "stoker", "/scale", `{"name":"app","workers":0}`, http.StatusBadRequest, "at least 1"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, "http://"+c.host+c.path, strings.NewReader(c.body))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := c.client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			text, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != c.want || !strings.Contains(string(text), c.says) {
				t.Errorf("%s: %s", resp.Status, text)
			}
		})
	}
	for i, pid := range p.pids(t) {
		if pid != before[i] {
			t.Errorf("engine %d became %d", before[i], pid)
		}
	}
	_ = p.Process.Signal(os.Interrupt)
	p.waitEnd(t)
}

func TestOneLineSaysHowItWent(t *testing.T) {
	two := &supervisor.Report{Seconds: 1.25, Members: []supervisor.MemberReport{{Name: "a-0", Text: "ready"}, {Name: "a-1", Text: "not ready", Error: "it died"}}}
	cases := []struct {
		report         *supervisor.Report
		message, error string
	}{
		{&supervisor.Report{Members: two.Members[:1]}, "a-0: ready", ""},
		{two, "restarted a: 1 of 2 in 1.2s", "a-1: it died"},
	}
	for _, c := range cases {
		if got := tell("restarted", "a", c.report); got.Message != c.message || got.Error != c.error {
			t.Errorf("got %q, %q; want %q, %q", got.Message, got.Error, c.message, c.error)
		}
	}
	var b bytes.Buffer
	printOutcome(&b, tell("restarted", "a", two))
	if want := "restarted a: 1 of 2 in 1.2s\n  a-0: ready\n  a-1: not ready: it died\n"; b.String() != want {
		t.Errorf("printed %q, want %q", b.String(), want)
	}
}

// TestLogsChange: lines go where the present configuration says, in its form,
// and a place that cannot be opened changes nothing.
func TestLogsChange(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	cfg := config.Default()
	cfg.LogFile, cfg.AccessLog = path("log"), path("access")
	l, err := newLogs(cfg)
	if err != nil {
		t.Fatal(err)
	}
	named := l.log.Named("piece")
	named.Debug("unheard")
	named.Info("first")

	bad := *cfg
	bad.LogFile, bad.AccessLog = path("other"), path("no/such")
	if _, err := l.prepare(&bad); err == nil || !strings.Contains(err.Error(), "access_log") {
		t.Errorf("a file in no directory: %v", err)
	}
	named.Info("second")

	next := *cfg
	next.LogFile, next.LogFormat, next.LogLevel = path("json"), "json", "debug"
	apply, err := l.prepare(&next)
	if err != nil {
		t.Fatal(err)
	}
	apply()
	named.Debug("third", "n", 3)
	l.access.Observe(&exchange.Exchange{Record: exchange.Record{Start: time.Now(), End: time.Now(), ID: "x"}})
	if err := os.Rename(path("json"), path("json.1")); err != nil {
		t.Fatal(err)
	}
	if err := l.reopen(); err != nil {
		t.Fatal(err)
	}
	named.Info("fourth")
	l.close()

	read := func(name string) string {
		text, err := os.ReadFile(path(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	if text := read("log"); !strings.Contains(text, "stoker.piece: first") || !strings.Contains(text, "second") || strings.Contains(text, "unheard") || strings.Contains(text, "third") {
		t.Errorf("log: %s", text)
	}
	var line map[string]any
	if err := json.Unmarshal([]byte(read("json.1")), &line); err != nil || line["@message"] != "third" || line["n"] != 3.0 || line["@module"] != "stoker.piece" {
		t.Errorf("the renamed log: %s: %v", read("json.1"), err)
	}
	if text := read("json"); !strings.Contains(text, "fourth") || strings.Count(text, "\n") != 1 {
		t.Errorf("the log after it was opened again: %s", text)
	}
	if text := read("access"); !strings.HasPrefix(text, "{") || strings.Count(text, "\n") != 1 {
		t.Errorf("access log: %s", text)
	}
}
