package engine

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestFaultsOnce: a request that is sent again meets its fault but once, and
// its answer is the one that it would have had.
func TestFaultsOnce(t *testing.T) {
	e := New(Options{Faults: true})
	defer e.Close()
	ask := func(limit time.Duration, fault string) string {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		r := httptest.NewRequestWithContext(ctx, "POST", "/v1/chat/completions",
			strings.NewReader(`{"stream":true,"temperature":0,"max_tokens":9,"ignore_eos":true,"messages":[{"role":"user","content":"x"}]}`))
		r.Header.Set("X-Fault", fault)
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		return w.Body.String()
	}
	const patience = time.Minute
	whole := ask(patience, "")
	for fault, end := range map[string]string{"error=4": `"code":500}}`, "clean-cut=4": "}]}"} {
		once := "once=" + filepath.Join(t.TempDir(), "fault") + "," + fault
		if broken := ask(patience, once); strings.Contains(broken, "[DONE]") || !strings.HasSuffix(broken, end+"\n\n") {
			t.Errorf("%s: %q", fault, broken)
		}
		if again := ask(patience, once); strings.Count(again, "data:") != strings.Count(whole, "data:") {
			t.Errorf("%s: the second time %q", fault, again)
		}
	}
	if silent := ask(100*time.Millisecond, "stall=4"); strings.Count(silent, "data:") > 4 {
		t.Errorf("stall=4: %q", silent)
	}
}
