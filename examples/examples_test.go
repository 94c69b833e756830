// Package examples holds configurations to begin with. Its test loads each,
// as strictly as stoker would on the host that it is meant for.
package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stoker/config"
)

func TestEveryExampleLoads(t *testing.T) {
	files, err := filepath.Glob("*/*.toml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 4 {
		t.Fatalf("only %d examples found: %v", len(files), files)
	}
	for _, file := range files {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			// Parse, not Load: engines, models and GPUs are not on this host.
			cfg, err := config.Parse(file, text)
			if err != nil {
				t.Fatal(err)
			}
			for _, pool := range cfg.Pools {
				if !pool.Remote() && !strings.Contains(strings.Join(pool.Command, " "), "{socket}") && !strings.Contains(strings.Join(pool.Command, " "), "{port}") {
					t.Errorf("pool %s: its command never says where to listen", pool.Name)
				}
			}
		})
	}
}
