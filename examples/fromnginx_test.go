package examples

import (
	"os"
	"regexp"
	"testing"

	"stoker/config"
)

// TestFromNginxLoads loads every configuration of docs/from-nginx.md, each beside
// one of nginx's or gunicorn's; the end-to-end tests run them.
func TestFromNginxLoads(t *testing.T) {
	page, err := os.ReadFile("../docs/from-nginx.md")
	if err != nil {
		t.Fatal(err)
	}
	pairs := regexp.MustCompile("(?s)\n## ([^\n]+)\n\n```(?:nginx|sh)\n.+?```\n\n```toml\n(.+?)```").FindAllSubmatch(page, -1)
	if len(pairs) < 15 {
		t.Fatalf("only %d settings", len(pairs))
	}
	for _, pair := range pairs {
		t.Run(string(pair[1]), func(t *testing.T) {
			if _, err := config.Parse("/x/stoker.toml", pair[2]); err != nil {
				t.Error(err)
			}
		})
	}
}
