package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/internal/http1"
)

func line(t *testing.T, name, key string) string {
	t.Helper()
	l, err := KeyLine(name, key)
	if err != nil {
		t.Fatal(err)
	}
	return l + "\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func ring(t *testing.T, text string) *Keyring {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keys")
	write(t, path, text)
	k, err := ReadKeyring(path)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeys(t *testing.T) {
	alice, next, bob := NewKey(), NewKey(), NewKey()
	keys := ring(t, "# who may\n\n"+line(t, "alice", alice)+"  "+line(t, "alice", next)+line(t, "bob", bob))
	if keys.Len() != 3 {
		t.Fatalf("%d keys", keys.Len())
	}
	for _, tc := range []struct {
		name   string
		fields []string
		who    string
		passed string // names of fields
	}{
		{"none", []string{"A", "b"}, "", "A"},
		{"bearer", []string{"A", "b", "Authorization", "Bearer " + alice}, "alice", "A"},
		{"any spelling", []string{"authorization", "bEARER  " + alice + " "}, "alice", ""},
		{"the second of a name", []string{"X-API-Key", next}, "alice", ""},
		{"Azure's", []string{"api-key", bob}, "bob", ""},
		{"wrong", []string{"Authorization", "Bearer " + alice + "x"}, "", "Authorization"},
		{"a prefix", []string{"Authorization", "Bearer " + alice[:len(alice)-1]}, "", "Authorization"},
		{"no key at all", []string{"Authorization", "Bearer "}, "", "Authorization"},
		{"a password", []string{"Authorization", "Basic " + alice}, "", "Authorization"},
		{"the hash", []string{"X-Api-Key", strings.TrimSpace(line(t, "alice", alice)[6:])}, "", "X-Api-Key"},
		{"two", []string{"X-Api-Key", bob, "Authorization", "Bearer " + alice}, "alice", ""},
		{"one for the engine", []string{"X-Api-Key", bob, "Authorization", "Bearer engine"}, "bob", "Authorization"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			g := New(Options{Keys: keys}, nil)
			x := asks("192.0.2.1", 0, tc.fields...)
			_, r := try(g, x)
			if (r == nil) != (tc.who != "") || x.Record.Key != tc.who {
				t.Errorf("%q, %v", x.Record.Key, r)
			}
			if r != nil && (r.Status != 401 || r.Code != "invalid_api_key" || strings.Contains(r.Text, alice[5:20])) {
				t.Errorf("%+v", r)
			}
			if got := names(x.Request.Fields); got != tc.passed {
				t.Errorf("passed on: %q", got)
			}
			passing := New(Options{Keys: keys, PassKeys: true}, nil)
			x = asks("192.0.2.1", 0, tc.fields...)
			_, _ = try(passing, x)
			if len(x.Request.Fields) != len(tc.fields)/2 {
				t.Errorf("passing: %q", names(x.Request.Fields))
			}
		})
	}
}

func names(fields http1.Fields) string {
	var all []string
	for _, f := range fields {
		all = append(all, f.Name)
	}
	return strings.Join(all, " ")
}

func TestBadFilesOfKeys(t *testing.T) {
	key := NewKey()
	good := line(t, "alice", key)
	for name, tc := range map[string]struct {
		text string
		line int
		want string
	}{
		"empty":        {"# nobody\n", 0, "nobody could get in"},
		"a key":        {good + key + "\n", 2, "looks like a key itself"},
		"no colon":     {good + "alice\n", 2, "NAME:HASH"},
		"a bad name":   {"al ice" + good[5:], 1, "the name"},
		"no name":      {good[5:], 1, "the name"},
		"a long name":  {strings.Repeat("n", 65) + good[5:], 1, "the name"},
		"a short hash": {good[:20] + "\n", 1, "64 hexadecimal digits"},
		"no hex":       {strings.Replace(good, good[10:12], "zz", 1), 1, "not hexadecimal"},
		"twice":        {good + "\n" + "bob" + good[5:], 3, "in line 1 already"},
		"a long line":  {good + strings.Repeat("x", 1<<17), 2, "no line of a file of keys"},
		"binary":       {"\x00\x01\n", 1, "NAME:HASH"},
		"half a line":  {good + good[:40], 2, "64 hexadecimal digits"},
		"too large":    {strings.Repeat("#\n", maxKeyFile/2+1), 0, "MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "keys")
			write(t, path, tc.text)
			_, err := ReadKeyring(path)
			wrong, ok := errors.AsType[*KeyError](err)
			if !ok || wrong.Line != tc.line || !strings.Contains(wrong.Message, tc.want) || !strings.HasPrefix(err.Error(), path+":") {
				t.Errorf("%v", err)
			}
			if ok && (strings.Contains(err.Error(), key) || strings.Contains(err.Error(), good[10:40])) {
				t.Errorf("says too much: %v", err)
			}
		})
	}
	if _, err := ReadKeyring(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

// TestRefresh reads what has changed and stood still, and keeps what it has
// when that is wrong.
func TestRefresh(t *testing.T) {
	a, b := NewKey(), NewKey()
	k := ring(t, line(t, "a", a))
	refresh := func(wantRead, wantErr bool) {
		t.Helper()
		if read, err := k.Refresh(); read != wantRead || (err != nil) != wantErr {
			t.Errorf("read %v, %v", read, err)
		}
	}
	at := time.Now()
	change := func(text string) {
		write(t, k.Path(), text)
		at = at.Add(time.Second) // as coarse as some file systems' clocks
		if err := os.Chtimes(k.Path(), at, at); err != nil {
			t.Fatal(err)
		}
	}
	refresh(false, false)
	change(line(t, "a", a)[:20]) // an editor begins
	refresh(false, false)
	change(line(t, "a", a) + line(t, "b", b))
	refresh(false, false)
	refresh(true, false)
	refresh(false, false)
	if k.name(b) != "b" {
		t.Error("the new key does not work")
	}
	change("nonsense\n")
	refresh(false, false)
	refresh(true, true)
	refresh(false, false) // said once
	if k.name(b) != "b" {
		t.Error("a bad file has changed something")
	}
	if err := os.Remove(k.Path()); err != nil {
		t.Fatal(err)
	}
	refresh(false, false)
	refresh(true, true)
	refresh(false, false)
	change(line(t, "b", b))
	refresh(false, false)
	refresh(true, false)
	if k.name(a) != "" || k.name(b) != "b" {
		t.Error("the last file does not count")
	}
}

func TestKeyLine(t *testing.T) {
	for _, tc := range [][2]string{{"", NewKey()}, {"a b", NewKey()}, {"a:b", NewKey()}, {"a", "short"}, {"a", "with a space in the middle of it"}, {"a", strings.Repeat("ä", 20)}} {
		if l, err := KeyLine(tc[0], tc[1]); err == nil {
			t.Errorf("%q", l)
		}
	}
	if a, b := NewKey(), NewKey(); a == b || len(a) < 50 || !strings.HasPrefix(a, "sk-") {
		t.Errorf("%q %q", a, b)
	}
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte("alice:34792611e08d365060972ee38b8889885abb90cbadf8bc5f724a0939cc9d6a13\n# x\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := parseKeys("f", data)
		if (err == nil) != (len(keys) > 0) {
			t.Errorf("%d keys and %v", len(keys), err)
		}
		for _, name := range keys {
			if !validName(name) {
				t.Errorf("name %q", name)
			}
		}
	})
}
