package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRouteByAFile(t *testing.T) {
	const pool = "[[pools]]\nname = \"p\"\ncommand = [\"true\", \"{socket}\"]\n"
	for _, c := range []struct {
		name, config, want string
		err                error
	}{
		{"no route is needed", pool, "no route is configured: everything goes to the only pool\n→ pool p\n", nil},
		{"one matches", pool + "[[routes]]\npath = \"/v1\"\npool = \"p\"\n", "#1: matches\n→ pool p\n", nil},
		{"none matches", pool + "[[routes]]\nname = \"r\"\npath = \"/v2\"\npool = \"p\"\n", "#1 r: path is \"/v1/models\", not \"/v2\" or below it\n", errNoMatch},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "stoker.toml")
			if err := os.WriteFile(file, []byte(c.config), 0o600); err != nil {
				t.Fatal(err)
			}
			root := newRoot()
			var out strings.Builder
			root.SetArgs([]string{"route", "-c", file, "GET", "/v1/models"})
			root.SetOut(&out)
			if err := root.ExecuteContext(t.Context()); !errors.Is(err, c.err) {
				t.Errorf("%v, want %v", err, c.err)
			}
			if !strings.HasPrefix(out.String(), c.want) {
				t.Errorf("%s, want %s", out.String(), c.want)
			}
		})
	}
}
