package config

import (
	"fmt"
	"strings"
	"testing"
)

// TestLimitsAreWhereTheyAreSaidToBe tries the last good and the first bad value.
func TestLimitsAreWhereTheyAreSaidToBe(t *testing.T) {
	const pool = "[[pools]]\ncommand = [\"x\"]\n"
	runDir := func(bytes int) string {
		rest := "/keepers/a-99/keeper.sock"
		return fmt.Sprintf("run_dir = %q\n%sname = \"a\"\nworkers = 100\n", "/"+strings.Repeat("r", bytes-len(rest)-1), pool)
	}
	servers := func(weight int) string {
		return fmt.Sprintf("[[pools]]\nname = \"a\"\nservers = [{address = \"h:1\", weight = %d}]\n", weight)
	}
	cases := map[string]struct{ good, bad, want string }{
		"a name": {
			pool + "name = \"" + strings.Repeat("n", 48) + `"`, pool + "name = \"" + strings.Repeat("n", 49) + `"`,
			"x.toml:3: pools[0].name: has 49 characters: write at most 48, as sockets are named after it",
		},
		"a socket's path": {
			runDir(107), runDir(108),
			"x.toml:1: run_dir: too long: the path of the socket /" + strings.Repeat("r", 82) + "/keepers/a-99/keeper.sock has 108 bytes and the kernel takes 107; make run_dir or the pool's name 1 shorter",
		},
		"gpus": {
			pool + "name = \"a\"\nworkers = 2\ngpus_per_worker = 2\ngpus = [\"0\", \"1\", \"2\", \"3\"]",
			pool + "name = \"a\"\nworkers = 2\ngpus_per_worker = 2\ngpus = [\"0\", \"1\", \"2\"]",
			"x.toml:6: pools[0].gpus: has 3 for 2 workers with 2 each, which need 4: name more, or have fewer workers",
		},
		"the hard limit, idle connections being the last": {
			"shutdown = {drain_timeout = \"0s\", idle_grace = \"5s\", hard_limit = \"35001ms\"}\n" + pool + `name = "a"`,
			"shutdown = {drain_timeout = \"0s\", idle_grace = \"5s\", hard_limit = \"35s\"}\n" + pool + `name = "a"`,
			`x.toml:1: shutdown.hard_limit: 35s is too short: delay, drain_timeout and the longest stop.grace may take 35s together; write "45s" or more, or leave it out`,
		},
		"workers": {pool + "name = \"a\"\nworkers = 1024", pool + "name = \"a\"\nworkers = 1025", "x.toml:4: pools[0].workers: must be at most 1024, not 1025"},
		"weight":  {servers(1000), servers(1001), "x.toml:3: pools[0].servers[0].weight: must be at most 1000, not 1001"},
		"no queue": {
			pool + "name = \"a\"\nqueue = {length = 0, timeout = \"0s\"}", pool + "name = \"a\"\nqueue = {length = 1, timeout = \"0s\"}",
			"x.toml:4: pools[0].queue.timeout: must be more than 0s: to refuse at once instead of waiting, write length = 0",
		},
		"a year": {
			"orphan_timeout = \"8760h\"\n" + pool + `name = "a"`, "orphan_timeout = \"8761h\"\n" + pool + `name = "a"`,
			`x.toml:1: orphan_timeout: "8761h" is longer than a year (8760h): is the unit right?`,
		},
		"a worker's name": {
			"[[routes]]\npath = \"/b\"\npool = \"a-2\"\n[[routes]]\npool = \"a\"\n" + pool + "name = \"a\"\nworkers = 2\n" + pool + "name = \"a-2\"",
			"[[routes]]\npath = \"/b\"\npool = \"a-2\"\n[[routes]]\npool = \"a\"\n" + pool + "name = \"a\"\nworkers = 3\n" + pool + "name = \"a-2\"",
			`x.toml:12: pools[1].name: "a-2" is the name of worker 2 of pools[0] (line 6) too: choose another`,
		},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse("x.toml", []byte("\n"+test.good)); err != nil {
				t.Errorf("good: %v", err)
			}
			_, err := Parse("x.toml", []byte(test.bad))
			wantProblems(t, err, []string{test.want})
		})
	}
}
