package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// fakeHost has a few files and users, and runs as nobody.
func fakeHost() host {
	files := fstest.MapFS{
		"bin/engine":         {Mode: 0o755},
		"bin/notes":          {Mode: 0o644},
		"srv/app/run.sh":     {Mode: 0o755},
		"srv/app/own/engine": {Mode: 0o755},
		"srv/file":           {Mode: 0o644},
		"run/x":              {Mode: 0o644},
	}
	return host{
		uid: 1000,
		stat: func(path string) (fs.FileInfo, error) {
			if filepath.Dir(path) == "/secret" {
				return nil, &fs.PathError{Op: "stat", Path: path, Err: fs.ErrPermission}
			}
			return files.Stat(path[1:])
		},
		getenv: func(string) string { return "/usr/bin:/bin" },
		userID: func(name string) (int, error) {
			if id, ok := map[string]int{"me": 1000, "other": 1001}[name]; ok {
				return id, nil
			}
			return 0, errors.New("unknown user")
		},
	}
}

func TestHostIsAskedWhatOnlyItKnows(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"in PATH":                {`command = ["engine"]`, ""},
		"by full path":           {`command = ["/bin/engine"]`, ""},
		"from its directory":     {"command = [\"./run.sh\"]\ndir = \"/srv/app\"", ""},
		"in its own PATH":        {"command = [\"engine\"]\nenv.PATH = \"/x:/srv/app/own\"", ""},
		"named by a placeholder": {`command = ["/srv/{name}/engine"]`, ""},
		"who may not look":       {"command = [\"/secret/engine\"]\ndir = \"/secret/dir\"", ""},
		"myself":                 {"command = [\"engine\"]\nuser = \"me\"", ""},

		"not in PATH":               {`command = ["vllm"]`, `x.toml:3: pools[0].command[0]: "vllm" is not found in PATH (/usr/bin:/bin): install it, or write its full path`},
		"not in its own PATH":       {"command = [\"engine\"]\nenv.PATH = \"/x\"", `x.toml:3: pools[0].command[0]: "engine" is not found in PATH (/x): install it, or write its full path`},
		"gone_command has our PATH": {"command = [\"engine\"]\nstop.gone_command = [\"engine\"]\nenv.PATH = \"/srv/app/own\"", ""},
		"PATH with a placeholder":   {"command = [\"engine\"]\nenv.PATH = \"/{name}\"", ""},
		"no such file":              {`command = ["/bin/no"]`, `x.toml:3: pools[0].command[0]: "/bin/no" does not exist: install it, or correct the path`},
		"not executable":            {`command = ["/bin/notes"]`, `x.toml:3: pools[0].command[0]: "/bin/notes" is not executable: install it, or correct the path`},
		"a directory":               {`command = ["/srv/app"]`, `x.toml:3: pools[0].command[0]: "/srv/app" is a directory: install it, or correct the path`},
		"not in its directory":      {"command = [\"./engine\"]\ndir = \"/srv/app\"", `x.toml:3: pools[0].command[0]: "/srv/app/engine" does not exist: install it, or correct the path`},
		"gone_command":              {"command = [\"engine\"]\nstop.gone_command = [\"gpu-free\"]", `x.toml:4: pools[0].stop.gone_command[0]: "gpu-free" is not found in PATH (/usr/bin:/bin): install it, or write its full path`},
		"dir is missing":            {"command = [\"engine\"]\ndir = \"/srv/no\"", `x.toml:4: pools[0].dir: the directory /srv/no does not exist: create it, or name another`},
		"dir is a file":             {"command = [\"engine\"]\ndir = \"/srv/file\"", `x.toml:4: pools[0].dir: /srv/file is not a directory: name the one to run in`},
		"unknown user":              {"command = [\"engine\"]\nuser = \"ghost\"", `x.toml:4: pools[0].user: there is no user "ghost" on this host: create it, or name another`},
		"another user":              {"command = [\"engine\"]\nuser = \"other\"", `x.toml:4: pools[0].user: only root can run engines as "other": run stoker (and its check) as root, or leave user out`},
		"told once, not thrice":     {`command = ["{sokcet}"]`, `x.toml:3: pools[0].command[0]: {sokcet} is replaced by nothing; did you mean {socket}?`},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			h := fakeHost()
			_, err := load("x.toml", []byte("[[pools]]\nname = \"a\"\n"+test.text), nil, &h)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != test.want {
				t.Errorf("got  %s\nwant %s", got, test.want)
			}
		})
	}
}

func TestDirectoriesOfDoors(t *testing.T) {
	h := fakeHost()
	_, err := load("x.toml", []byte(`
listen = ["unix:/no/x.sock", "unix:/srv/app/x.sock", "unix:/srv/file/y.sock"]
run_dir = "/srv/file"
[[pools]]
name = "a"
command = ["engine"]
`), nil, &h)
	wantProblems(t, err, []string{
		"x.toml:2: listen[0]: the directory /no does not exist: create it, or name another",
		"x.toml:3: run_dir: /srv/file is not a directory: name another, or remove it",
	})
}

func TestRootMayBecomeAnybody(t *testing.T) {
	h := fakeHost()
	h.uid = 0
	if _, err := load("x.toml", []byte("[[pools]]\nname = \"a\"\ncommand = [\"engine\"]\nuser = \"other\""), nil, &h); err != nil {
		t.Error(err)
	}
}

func TestThisHostKnowsItsUser(t *testing.T) {
	for _, name := range []string{"root", "0"} {
		if uid, err := lookUpUser(name); err != nil || uid != 0 {
			t.Errorf("%s: got %d, %v", name, uid, err)
		}
	}
	if _, err := lookUpUser("no-such-user"); err == nil {
		t.Error("no-such-user was found")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if c, err := Load(writeFile(t, "[[pools]]\nname = \"a\"\ncommand = ["+quoteTOML(self)+"]\n")); err != nil || c.Pools[0].Command[0] != self {
		t.Errorf("got %+v, %v", c, err)
	}
}
