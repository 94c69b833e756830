package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"stoker/config"
)

// TestScaledNumbersOutlastTheMaster: what an operator has scaled stays so under
// the next master, unless the configuration was changed meanwhile.
func TestScaledNumbersOutlastTheMaster(t *testing.T) {
	configured := func(workers int) *config.Config {
		c, err := config.FromCommandLine("", config.Flags{Listen: []string{"127.0.0.1:0"}, RunDir: t.TempDir(), Workers: workers, Command: []string{"/bin/true"}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	name := configured(1).Pools[0].Name
	for _, tc := range []struct {
		what  string
		steps func(*scaled)
		next  int // of the next master's configuration
		want  int
	}{
		{"nothing", func(*scaled) {}, 2, 2},
		{"scaled", func(s *scaled) { s.set(name, 2, 5) }, 2, 5},
		{"twice", func(s *scaled) { s.set(name, 2, 5); s.set(name, 5, 3) }, 2, 3},
		{"and back", func(s *scaled) { s.set(name, 2, 5); s.set(name, 5, 2) }, 2, 2},
		{"the file was changed", func(s *scaled) { s.set(name, 2, 5) }, 3, 3},
		{"forgotten", func(s *scaled) { s.set(name, 2, 5); s.forget() }, 2, 2},
		{"no pool of ours", func(s *scaled) { s.set("other", 2, 5) }, 2, 2},
		{"too many for any machine", func(s *scaled) { s.set(name, 2, 1<<20) }, 2, 2},
		{"garbage", func(s *scaled) { _ = os.WriteFile(s.path, []byte("[1"), 0o600) }, 2, 2},
		{"null", func(s *scaled) { _ = os.WriteFile(s.path, []byte("null"), 0o600) }, 2, 2},
	} {
		t.Run(tc.what, func(t *testing.T) {
			dir := t.TempDir()
			tc.steps(readScaled(dir, hclog.NewNullLogger()))
			for range 2 { // and the one after that
				next := readScaled(dir, hclog.NewNullLogger())
				if got := next.apply(configured(tc.next)).Pools[0].Workers; got != tc.want {
					t.Errorf("%d workers, want %d", got, tc.want)
				}
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
