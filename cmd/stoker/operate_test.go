package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"testing"
)

// TestOrdersOfCommands: whatever is written behind a command reaches the master.
func TestOrdersOfCommands(t *testing.T) {
	dir := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(dir, "admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan string, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var o order
		if err := json.NewDecoder(r.Body).Decode(&o); err != nil {
			t.Error(err)
		}
		said <- fmt.Sprintf("%s %+v", r.URL.Path, o)
		writeJSON(w, http.StatusOK, outcome{Message: "done"})
	})}
	served := make(chan struct{})
	go func() { _ = server.Serve(listener); close(served) }()
	t.Cleanup(func() { server.Close(); <-served })

	for _, c := range []struct {
		words []string
		want  string
	}{
		{[]string{"drain", "a-0"}, "/drain {Name:a-0 Timeout: Migrate:false Workers:0 DryRun:false}"},
		{[]string{"drain", "a-0", "--migrate", "--timeout", "45s"}, "/drain {Name:a-0 Timeout:45s Migrate:true Workers:0 DryRun:false}"},
		{[]string{"resume", "a"}, "/resume {Name:a Timeout: Migrate:false Workers:0 DryRun:false}"},
		{[]string{"restart", "a"}, "/restart {Name:a Timeout: Migrate:false Workers:0 DryRun:false}"},
		{[]string{"stop", "a-1"}, "/stop {Name:a-1 Timeout: Migrate:false Workers:0 DryRun:false}"},
		{[]string{"scale", "a", "3"}, "/scale {Name:a Timeout: Migrate:false Workers:3 DryRun:false}"},
		{[]string{"reload", "--dry-run"}, "/reload {Name: Timeout: Migrate:false Workers:0 DryRun:true}"},
	} {
		root := newRoot()
		root.SetArgs(append(c.words, "--run-dir", dir))
		root.SetOut(io.Discard)
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Errorf("%v: %v", c.words, err)
			continue
		}
		if got := <-said; got != c.want {
			t.Errorf("%v: %s, want %s", c.words, got, c.want)
		}
	}
}
