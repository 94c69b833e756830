package config

import (
	"slices"
	"strings"
	"testing"
)

// diffBase is what the cases below change.
const diffBase = `
listen = ["127.0.0.1:8000"]
[[pools]]
name = "chat"
command = ["engine", "--api-key", "old-secret", "--socket", "{socket}"]
workers = 2
[[pools]]
name = "far"
[[pools.servers]]
address = "10.0.0.1:80"
name = "a"
[[pools.servers]]
address = "10.0.0.2:80"
name = "b"
[[routes]]
path = "/far"
pool = "far"
[[routes]]
pool = "chat"
`

func TestDiff(t *testing.T) {
	cases := []struct {
		name     string
		old, new string // replaced in diffBase
		want     string // the plan as printed
	}{
		{"nothing", "", "", "workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n"},
		{
			"another command, and no secret", "old-secret", "new-secret",
			"workers: none kept, 2 (chat-0 chat-1) restarted, none added, none removed\n" +
				`pools.chat.command: ["engine", "--api-key", "***", "--socket", "{socket}"] → ["engine", "--api-key", "***", "--socket", "{socket}"] (a secret in it has changed)` + "\n",
		},
		{
			"what takes effect at once", "workers = 2", "workers = 2\ndrain_timeout = \"5s\"\nstop.grace = \"3s\"\nqueue.length = 3\nhealth.path = \"/ok\"",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				"pools.chat.queue.length: 1024 → 3\npools.chat.health.path: \"\" → \"/ok\"\npools.chat.drain_timeout: \"30s\" → \"5s\"\npools.chat.stop.grace: \"30s\" → \"3s\"\n",
		},
		{
			"more workers", "workers = 2", "workers = 3",
			"workers: 2 (chat-0 chat-1) kept, none restarted, 1 (chat-2) added, none removed\npools.chat.workers: 2 → 3\n",
		},
		{
			"fewer workers", "workers = 2", "workers = 1",
			"workers: 1 (chat-0) kept, none restarted, none added, 1 (chat-1) removed\npools.chat.workers: 2 → 1\n",
		},
		{
			"a server down, one gone, one new", "name = \"a\"\n[[pools.servers]]\naddress = \"10.0.0.2:80\"\nname = \"b\"", "name = \"a\"\ndown = true\n[[pools.servers]]\naddress = \"10.0.0.3:80\"\nname = \"c\"",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				"pools.far.servers.a.down: false → true\npools.far.servers.b: removed\npools.far.servers.c: added\n",
		},
		{
			"routes and listeners", "path = \"/far\"", "host = \"far.test\"\npath = \"/far\"",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				`routes[0]: {path = "/far", pool = "far"} → {host = "far.test", path = "/far", pool = "far"}` + "\n",
		},
		{
			"a canary's weight, a secret, and a route more", "path = \"/far\"\npool = \"far\"",
			"path = \"/near\"\npool = \"far\"\nrequest.set = { X-Api-Key = \"hush\" }\n[[routes]]\npath = \"/v1\"\nsplit = [ { pool = \"chat\", weight = 95 }, { pool = \"far\", weight = 5 } ]",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				`routes[0]: {path = "/far", pool = "far"} → {path = "/near", pool = "far", request = {set = {X-Api-Key = "***"}}}` + "\n" +
				`routes[1]: {pool = "chat"} → {path = "/v1", split = [{pool = "chat", weight = 95}, {pool = "far", weight = 5}]}` + "\n" +
				`routes[2]: added` + "\n",
		},
		{
			"a pool by another name is another pool", "name = \"chat\"", "name = \"talk\"",
			"workers: none kept, none restarted, 2 (talk-0 talk-1) added, 2 (chat-0 chat-1) removed\n" +
				"pools.chat: removed\npools.talk: added\n" + `routes[1]: {pool = "chat"} → {pool = "talk"}` + "\n",
		},
		{
			"what only another master can have", "listen =", "run_dir = \"/other\"\ncrashes.keep = 7\nlisten =",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				"not now, it needs a restart of the master: run_dir: \"" + DefaultRunDir() + "\" → \"/other\"\n" +
				"not now, it needs a restart of the master: state_dir: \"" + stateDirOf(DefaultRunDir()) + "\" → \"/other\"\n" +
				"not now, it needs a restart of the master: crashes.keep: 50 → 7\n",
		},
		{
			"what clients may take", "listen =", "clients.body_mib = 5\nlisten =",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				"clients.body_mib: 64 → 5\n",
		},
		{
			"the recorder is made once", "listen =", "recorder.keep = 5\nlisten =",
			"workers: 2 (chat-0 chat-1) kept, none restarted, none added, none removed\n" +
				"not now, it needs a restart of the master: recorder.keep: 20 → 5\n",
		},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(diffBase, c.old, c.new, 1)
			if c.new != "" && text == diffBase {
				t.Fatalf("%q is not in the base", c.old)
			}
			if strings.Contains(c.new, "talk") {
				text = strings.Replace(text, "pool = \"chat\"", "pool = \"talk\"", 1)
			}
			plan := Diff(mustParse(t, diffBase), mustParse(t, text))
			var b strings.Builder
			if err := plan.Print(&b); err != nil {
				t.Fatal(err)
			}
			if b.String() != c.want {
				t.Errorf("\n got %s\nwant %s", b.String(), c.want)
			}
			if plan.Empty() != (c.new == "") {
				t.Errorf("empty: %t", plan.Empty())
			}
		})
	}
}

func mustParse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("/x/stoker.toml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestPlanGoesByWhatRuns: after a rolling change that stopped half-way, what
// was configured last is not what every worker runs.
func TestPlanGoesByWhatRuns(t *testing.T) {
	plan := Plan{Kept: []string{"a", "b"}, Restarted: []string{"c", "d"}}
	plan.Correct(map[string]bool{"b": true, "d": false})
	if want := []string{"a", "d"}; !slices.Equal(plan.Kept, want) {
		t.Errorf("kept %v, want %v", plan.Kept, want)
	}
	if want := []string{"b", "c"}; !slices.Equal(plan.Restarted, want) {
		t.Errorf("restarted %v, want %v", plan.Restarted, want)
	}
}

func TestSameEngine(t *testing.T) {
	base := DefaultPool("p")
	base.Command, base.GPUsPerWorker, base.Workers = []string{"e"}, 1, 2
	base.GPUs = []string{"0", "1", "2"}
	cases := []struct {
		name   string
		change func(*Pool)
		same   bool
	}{
		{"spare devices", func(p *Pool) { p.GPUs = []string{"0", "1", "7"} }, true},
		{"dealt devices", func(p *Pool) { p.GPUs = []string{"1", "0", "2"} }, false},
		{"fewer workers", func(p *Pool) { p.Workers = 1 }, true},
		{"more workers", func(p *Pool) { p.Workers = 3 }, true},
		{"more workers and devices", func(p *Pool) { p.Workers, p.GPUs = 4, []string{"0", "1", "2", "3"} }, true},
		{"fewer workers with others' devices", func(p *Pool) { p.Workers, p.GPUs = 1, []string{"1"} }, false},
		{"more devices each", func(p *Pool) { p.Workers, p.GPUsPerWorker = 1, 2 }, false},
		{"limits", func(p *Pool) { p.StartTimeout, p.MaxStarting, p.Stop.Grace = 1, 1, 1 }, true},
		{"environment", func(p *Pool) { p.Env = map[string]string{"A": "1"} }, false},
		{"user", func(p *Pool) { p.User = "nobody" }, false},
		{"directory", func(p *Pool) { p.Dir = "/" }, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			other := base
			c.change(&other)
			if got := base.SameEngine(&other); got != c.same {
				t.Errorf("same: %t", got)
			}
			if mixed := other.WithEngineOf(&base); !mixed.SameEngine(&base) {
				t.Error("WithEngineOf starts another engine")
			}
		})
	}
}
