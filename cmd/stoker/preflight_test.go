package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/supervisor"
	"stoker/supervisor/keeper"
)

// TestNewBinaryMustSpeakWithTheKeepersThatLive: keepers may be older than the
// master, so that its own versions say nothing of theirs.
func TestNewBinaryMustSpeakWithTheKeepersThatLive(t *testing.T) {
	low, high := keeper.Versions()
	old := supervisor.KeeperProtocol{Worker: "chat-0", Lowest: low, Highest: low}
	ours := supervisor.KeeperProtocol{Worker: "chat-1", Lowest: low, Highest: high}
	newer := supervisor.KeeperProtocol{Worker: "chat-2", Lowest: high, Highest: high + 4}
	for _, tc := range []struct {
		name   string
		speaks [2]int
		living []supervisor.KeeperProtocol
		says   []string // none: it is accepted
		not    string
	}{
		{"the same", [2]int{low, high}, []supervisor.KeeperProtocol{old, ours, newer}, nil, ""},
		{"newer, and knows the oldest", [2]int{low, high + 1}, []supervisor.KeeperProtocol{old, ours, newer}, nil, ""},
		{"knows only the newest, all are new", [2]int{high, high + 1}, []supervisor.KeeperProtocol{ours, newer}, nil, ""},
		{"older, and knows the oldest", [2]int{low, low}, []supervisor.KeeperProtocol{old, ours}, nil, ""},
		{"has forgotten the oldest", [2]int{low + 1, high + 1}, []supervisor.KeeperProtocol{old, ours}, []string{"chat-0's version 1;", "versions 2 to 3", "stoker restart"}, "chat-1"},
		{"older than one", [2]int{low, low}, []supervisor.KeeperProtocol{old, ours, newer}, []string{"chat-2's versions 2 to 6", "speaks version 1 of"}, "chat-0"},
		{"none lives", [2]int{low + 1, high + 1}, nil, nil, ""},
		{"none lives, but ours may come", [2]int{high + 1, high + 2}, nil, []string{"this master's versions 1 to 2:", "versions 3 to 4"}, ""},
		{"knows neither", [2]int{high + 1, high + 2}, []supervisor.KeeperProtocol{old}, []string{"chat-0's version 1, this master's versions 1 to 2:", "start that one instead"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := preflightReport{Version: "x", KeeperProtocol: tc.speaks}
			err := r.speaksWith(tc.living)
			if (err == nil) != (tc.says == nil) {
				t.Fatalf("said %v", err)
			}
			for _, words := range tc.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("said %q, not %q", err, words)
				}
			}
			if tc.not != "" && strings.Contains(err.Error(), tc.not) {
				t.Errorf("said %q, of %s too", err, tc.not)
			}
		})
	}
}

// What the operator reads who has put something else in the binary's place.
func TestBinaryThatIsNone(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tests := map[string]struct{ path, want string }{
		"missing":        {filepath.Join(dir, "none"), "is not there: "},
		"not executable": {file("plain", "#!/bin/sh\n", 0o600), "make it executable (chmod +x)"},
		"no program":     {file("text", "hello\n", 0o700), "is no program for this machine: "},
		"fails":          {file("fails", "#!/bin/sh\nexit 3\n", 0o700), "ended without a word when it was tried (exit status 3): is it a stoker?"},
		"says why":       {file("says", "#!/bin/sh\necho 'stoker: no such pool' >&2; exit 2\n", 0o700), "would not start: no such pool"},
		"other program":  {file("other", "#!/bin/sh\necho hello\n", 0o700), `is no stoker that can be upgraded to: it said "hello\n" when it was tried`},
		"hangs":          {file("hangs", "#!/bin/sh\nexec sleep 600\n", 0o700), "had not said what it is after 50ms (upgrade_timeout), when it was tried: is it a stoker?"},
	}
	before := os.Args
	defer func() { os.Args = before }()
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			os.Args = []string{tt.path, "run"}
			limit := time.Minute
			if name == "hangs" {
				limit = 50 * time.Millisecond
			}
			err := preflight(t.Context(), limit, nil)
			if err == nil || !strings.HasPrefix(err.Error(), "the new binary "+tt.path+" ") || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}
