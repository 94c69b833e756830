package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestFromCommandLineWithoutFile(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	t.Chdir(t.TempDir())
	sh := []string{"sh", "-c", "true"}
	cases := map[string]struct {
		flags Flags
		want  func(c *Config, p *Pool)
	}{
		"a command alone": {Flags{Command: sh}, func(*Config, *Pool) {}},
		"every flag": {
			Flags{
				Listen: []string{":1", "unix:/tmp/x.sock"}, Admin: "127.0.0.1:2", RunDir: "/r", LogFormat: "json",
				Workers: 3, HealthPath: "/h", StartTimeout: "1h", GPUsPerWorker: 2, Command: sh,
			},
			func(c *Config, p *Pool) {
				c.Listen, c.Admin, c.RunDir, c.LogFormat = []string{":1", "unix:/tmp/x.sock"}, "127.0.0.1:2", "/r", "json"
				p.Workers, p.Health.Path, p.GPUsPerWorker = 3, "/h", 2
				p.StartTimeout = Duration(60 * 60 * 1e9)
			},
		},
		"a state directory": {Flags{RunDir: "/r", StateDir: "/s", Command: sh}, func(c *Config, _ *Pool) {
			c.RunDir, c.StateDir = "/r", "/s"
		}},
		"a relative run directory starts here": {Flags{RunDir: "run", Command: sh}, func(c *Config, _ *Pool) {
			dir, err := os.Getwd()
			if err != nil {
				t.Fatal(err)
			}
			c.RunDir = filepath.Join(dir, "run")
		}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := FromCommandLine("", test.flags)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			want.Pools = []Pool{DefaultPool("app")}
			want.Pools[0].Command, want.StateDir = test.flags.Command, ""
			test.want(want, &want.Pools[0])
			if want.StateDir == "" {
				want.StateDir = stateDirOf(want.RunDir)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

func TestFlagsAreNamedWhereTheyAreToBlame(t *testing.T) {
	t.Setenv("PATH", "/nowhere")
	given := func(names ...string) func(string) bool {
		return func(flag string) bool { return slices.Contains(names, flag) }
	}
	cases := map[string]struct {
		flags Flags
		want  []string
	}{
		"nothing": {Flags{}, []string{"COMMAND: is missing: write -- and the engine's command line behind the flags, or name a file with -c"}},
		"every flag is wrong": {
			Flags{
				Listen: []string{":1", "x"}, Admin: ":1", RunDir: "/" + strings.Repeat("r", 100), LogFormat: "xml",
				Workers: -1, HealthPath: "h", StartTimeout: "-1s", GPUsPerWorker: -1, Command: []string{"no-such-engine", "{sockets}"},
			},
			[]string{
				`--listen: "x" is no address: write HOST:PORT or unix:/PATH, such as "127.0.0.1:8000"`,
				`--admin: ":1" takes the same address as --listen: give it a port of its own`,
				`--run-dir: too long: the path of the socket /` + strings.Repeat("r", 100) + `/keepers/app-0/keeper.sock has 127 bytes and the kernel takes 107; make run_dir or the pool's name 20 shorter`,
				`--log-format: must be "text" or "json", not "xml"`,
				`--health-path: must begin with a slash: write "/h"`,
				`--workers: must be at least 1, not -1`,
				`--start-timeout: -1s is negative: a duration is 0s or more`,
				`COMMAND: {sockets} is replaced by nothing; did you mean {socket}?`,
				`--gpus-per-worker: must be at least 0, not -1`,
				`COMMAND: "no-such-engine" is not found in PATH (/nowhere): install it, or write its full path`,
			},
		},
		"zero is not silence": {
			Flags{Workers: 0, Command: []string{"/bin/sh"}, HealthPath: "", Given: given("workers", "health-path", "start-timeout")},
			[]string{
				`--health-path: must not be empty: write a path such as /health, or leave the flag out`,
				`--start-timeout: "" is not a duration: write numbers with units (ms, s, m, h), such as "90s" or "1h30m"`,
				`--workers: must be at least 1, not 0`,
			},
		},
		"gpus":      {Flags{Command: []string{"/bin/sh", "{gpus}"}}, []string{"COMMAND: has {gpus} and no worker gets one: set --gpus-per-worker to 1 or more"}},
		"not utf-8": {Flags{Command: []string{"/bin/sh", "\xff"}}, []string{`COMMAND: the argument "\xff" is not UTF-8`}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := FromCommandLine("", test.flags)
			if c != nil {
				t.Errorf("got a configuration: %+v", c)
			}
			wantProblems(t, err, test.want)
		})
	}
}

func wantProblems(t *testing.T, err error, want []string) {
	t.Helper()
	if _, ok := errors.AsType[Problems](err); !ok {
		t.Fatalf("got %v, want problems", err)
	}
	if got := strings.Split(err.Error(), "\n"); !slices.Equal(got, want) {
		t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestFlagsBesideAFile(t *testing.T) {
	file := writeFile(t, `
listen = ["127.0.0.1:1"]
admin = "127.0.0.1:2"
run_dir = "/r"
log_level = "debug"
[[pools]]
name = "chat"
command = ["/bin/sh"]
`)
	c, err := FromCommandLine(file, Flags{Listen: []string{":3"}, Admin: "127.0.0.1:4", RunDir: "/s", StateDir: "/t", LogFormat: "json"})
	if err != nil {
		t.Fatal(err)
	}
	want, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	want.Listen, want.Admin, want.RunDir, want.StateDir, want.LogFormat = []string{":3"}, "127.0.0.1:4", "/s", "/t", "json"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}

	_, err = FromCommandLine(file, Flags{
		Admin: ":1", Workers: 2, HealthPath: "/h", StartTimeout: "1m", GPUsPerWorker: 1, Command: []string{"x"},
	})
	wantProblems(t, err, []string{
		"--workers: contradicts -c: pools are described by the file; write workers into " + file,
		"--health-path: contradicts -c: pools are described by the file; write health.path into " + file,
		"--start-timeout: contradicts -c: pools are described by the file; write start_timeout into " + file,
		"--gpus-per-worker: contradicts -c: pools are described by the file; write gpus_per_worker into " + file,
		"COMMAND: contradicts -c: pools are described by the file; write command into " + file,
		`--admin: ":1" takes the same address as listen[0] (line 2): give it a port of its own`,
	})
}

// writeFile makes a configuration file that the test's end removes.
func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "stoker.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
