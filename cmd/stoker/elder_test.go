package main

import (
	"bytes"
	"context"
	"testing"

	"github.com/hashicorp/go-hclog"
)

// TestNobodyToHurry: a master that is told twice to end, and has nobody before
// it, tried in every other case to hurry the process 0, and logged that it cannot.
func TestNobodyToHurry(t *testing.T) {
	var log bytes.Buffer
	e := newElder(&master{log: hclog.New(&hclog.LoggerOptions{Output: &log})}, &inheritance{})
	e.follow()
	ended, end := context.WithCancel(t.Context())
	end()
	for range 100 {
		e.outlast(ended)
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log.String())
	}
}
