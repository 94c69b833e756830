package config

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the expected files of testdata anew; read the difference before you commit it")

// golden compares got with the file, or writes it when asked to.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", file, got, want)
	}
}

// cases lists the files of testdata that end in suffix.
func cases(t *testing.T, suffix string) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/*" + suffix)
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata/*%s (%v)", suffix, err)
	}
	return files
}

// parseFile reads a file of testdata as if it lay in /etc/stoker, so that
// relative paths do not show where the tests run.
func parseFile(t *testing.T, file string) (*Config, error) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return Parse("/etc/stoker/"+filepath.Base(file), data)
}

func TestGoodFilesHaveTheirEffectiveConfiguration(t *testing.T) {
	for _, file := range cases(t, ".good.toml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := parseFile(t, file)
			if err != nil {
				t.Fatal(err)
			}
			printed := c.Marshal()
			golden(t, strings.TrimSuffix(file, ".toml")+".want", string(printed))

			again, err := Parse("/elsewhere/printed.toml", printed)
			if err != nil {
				t.Fatalf("what was printed does not load: %v", err)
			}
			if !reflect.DeepEqual(c, again) {
				t.Errorf("printed and loaded again it differs:\n%+v\n%+v", c, again)
			}
		})
	}
}

func TestBadFilesSayWhatWouldBeRight(t *testing.T) {
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	for _, file := range cases(t, ".bad.toml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			c, err := parseFile(t, file)
			var problems Problems
			if c != nil || !errors.As(err, &problems) {
				t.Fatalf("got %v, %v; want problems", c, err)
			}
			golden(t, strings.TrimSuffix(file, ".toml")+".want", strings.ReplaceAll(err.Error(), "/etc/stoker/", "")+"\n")
		})
	}
}

// Array elements are decoded from zero values by the library: the second pool
// of a file once had no health interval, and was probed without a pause.
func TestDefaultsReachEveryPoolAndServer(t *testing.T) {
	c, err := Parse("stoker.toml", []byte(`
[[pools]]
name = "a"
command = ["x"]
[[pools]]
name = "b"
health.path = "/h"
servers = [{address = "h:1"}, {address = "h:2", name = "two"}]
[[routes]]
path = "/b"
pool = "b"
[[routes]]
pool = "a"
`))
	if err != nil {
		t.Fatal(err)
	}
	a, b := DefaultPool("a"), DefaultPool("b")
	a.Command = []string{"x"}
	b.Health.Path = "/h"
	second := DefaultServer("h:2")
	second.Name = "two"
	b.Servers = []Server{DefaultServer("h:1"), second}
	if want := []Pool{a, b}; !reflect.DeepEqual(c.Pools, want) {
		t.Errorf("got  %+v\nwant %+v", c.Pools, want)
	}
}

func TestLoadSaysWhyAFileCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.toml")
	if err := os.WriteFile(large, make([]byte, maxFile+1), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct{ path, want string }{
		"missing":     {filepath.Join(dir, "no.toml"), dir + "/no.toml: the file does not exist: name the configuration with -c FILE"},
		"a directory": {dir, dir + ": the file cannot be read: is a directory"},
		"huge":        {large, large + ": the file is larger than 1024 KiB: is this the configuration?"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Load(c.path)
			var problems Problems
			if !errors.As(err, &problems) || err.Error() != c.want {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

// Whoever has broken a file that a master runs by must still find the master.
// A master that waits for a pipe at a reload heeds no signal any more.
func TestLoadWaitsForNoPipe(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	said := make(chan error, 1)
	go func() {
		_, err := LoadText(pipe)
		said <- err
	}()
	select {
	case err := <-said:
		if want := pipe + ": it is a pipe into which nobody writes"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	case <-time.After(pipePatience / 2):
		t.Fatal("it waits for who may never write")
	}

	// One whose other end is there is read, however late that begins.
	in, err := os.OpenFile(pipe, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := LoadText(pipe)
		said <- err
	}()
	if _, err := in.WriteString("garbage = 1\n"); err != nil {
		t.Fatal(err)
	}
	for taken := false; !taken; { // closed sooner, it would take the text with it
		n, err := unix.IoctlGetInt(int(in.Fd()), unix.TIOCINQ)
		if err != nil {
			t.Fatal(err)
		}
		taken = n == 0
		time.Sleep(time.Millisecond)
	}
	_ = in.Close()
	if err := <-said; err == nil || !strings.Contains(err.Error(), "garbage: unknown key") {
		t.Errorf("got %v", err)
	}
}

func TestLoadPlacesOfAFaultyFile(t *testing.T) {
	file := writeFile(t, "run_dir = \"here\"\nlissten = 1\n[[pools]]\nworkers = \"two\"\n")
	c, err := LoadPlaces(file)
	if err != nil || c.RunDir != filepath.Join(filepath.Dir(file), "here") {
		t.Errorf("got %+v, %v", c, err)
	}
	file = writeFile(t, "run_dir = 7\nlissten = 1\n")
	_, err = LoadPlaces(file)
	wantProblems(t, err, []string{file + `:1: run_dir: must be a string, not the number 7: write "7"`})
	if _, err := LoadPlaces(writeFile(t, "run_dir = \n")); err == nil {
		t.Error("a file that is no TOML says where a master is")
	}
}

// A file for another host says the same here, and to who may not run it.
func TestLoadTextLeavesTheHostAlone(t *testing.T) {
	file := writeFile(t, "[[pools]]\nname = \"a\"\ncommand = [\"/no/such/engine\"]\nuser = \"nobody-here\"\n")
	if c, err := LoadText(file); err != nil || c.Pools[0].User != "nobody-here" {
		t.Errorf("got %+v, %v", c, err)
	}
	_, err := Load(file)
	wantProblems(t, err, []string{
		file + `:3: pools[0].command[0]: "/no/such/engine" does not exist: install it, or correct the path`,
		file + `:4: pools[0].user: there is no user "nobody-here" on this host: create it, or name another`,
	})
	if _, err := LoadText(file + ".no"); err == nil {
		t.Error("a file that does not exist was loaded")
	}
	if _, err := FromCommandLine(file+".no", Flags{}); err == nil {
		t.Error("a file that does not exist was loaded")
	}
}

func TestLoadSeesUTF16(t *testing.T) {
	_, err := Parse("stoker.toml", []byte("\xff\xfea\x00=\x001\x00"))
	if err == nil || err.Error() != "stoker.toml: the file is in UTF-16: save it as UTF-8" {
		t.Errorf("got %v", err)
	}
}

// FuzzParse: no input panics; what is accepted prints to what loads equal.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.good.toml", "testdata/*.bad.toml"} {
		files, _ := filepath.Glob(pattern)
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("/x/stoker.toml", data)
		if err != nil {
			var problems Problems
			if !errors.As(err, &problems) || len(problems) == 0 {
				t.Fatalf("not problems: %v", err)
			}
			return
		}
		printed := c.Marshal()
		again, err := Parse("/y/stoker.toml", printed)
		if err != nil {
			t.Fatalf("printed, it does not load: %v\n%s", err, printed)
		}
		if !reflect.DeepEqual(c, again) {
			t.Fatalf("printed and loaded, it differs:\n%+v\n%+v\n%s", c, again, printed)
		}
	})
}
