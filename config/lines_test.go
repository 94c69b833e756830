package config

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
)

// Every line that holds a key or an element says in a comment which paths
// begin on it, so each case is its own expectation.
func TestIndexLinesFindsEveryKey(t *testing.T) {
	cases := map[string]string{
		"keys and tables": `
a = 1 #: a
[b] #: b
c = 2 #: b.c
[b.d] #: b.d
e = 3 #: b.d.e
`,
		"dotted keys and super-tables": `
a.b.c = 1 #: a a.b a.b.c
a.b.d = 2 #: a.b.d
x."y z".w = 3 #: x x."y z" x."y z".w
[p.q.r] #: p p.q p.q.r
s = 1 #: p.q.r.s
`,
		"a header wins over an earlier mention": `
[a.b] #: a.b
[a] #: a
c = 1 #: a.c
`,
		"arrays of tables": `
[[pools]] #: pools pools[0]
name = "a" #: pools[0].name
[pools.health] #: pools[0].health
path = "/" #: pools[0].health.path
[[pools.servers]] #: pools[0].servers pools[0].servers[0]
weight = 1 #: pools[0].servers[0].weight
[[pools.servers]] #: pools[0].servers[1]
[[pools]] #: pools[1]
health.path = "/" #: pools[1].health pools[1].health.path
[[pools.servers]] #: pools[1].servers pools[1].servers[0]
address = "x" #: pools[1].servers[0].address
[pools.servers.deep] #: pools[1].servers[0].deep
`,
		"strings that look like keys": `
a = """ #: a
[no]
b = 1
\""" c = 2
"""""
d = ''' #: d
e = 1
'''
f = "[no] # \" no = 1" #: f
g = 'C:\' #: g
h = """x""" #: h
i = 1 #: i
`,
		"arrays": `
command = [ #: command
  "a", #: command[0]
  # "not me",
  "b", "c", #: command[1] command[2]
  [1, #: command[3] command[3][0]
   2], #: command[3][1]
] # end
x = [] #: x
y = 1 #: y
`,
		"inline tables": `
health = { path = "/", interval = "1s" } #: health health.path health.interval
t = { #: t
  a.b = 1, # c #: t.a t.a.b
  c = [ { d = 1 }, #: t.c t.c[0] t.c[0].d
    {}, ], #: t.c[1]
} # end
u = {} #: u
v = 1 #: v
`,
		"keys of every kind": `
"quoted \" key" = 1 #: "quoted \" key"
'literal \ key' = 2 #: "literal \\ key"
"\u0061bc" = 3 #: abc
"" = 4 #: ""
1.2 = 5 #: 1 1.2
[ "x.y" . 'z' ] #: "x.y" "x.y".z
  w	=	6 #: "x.y".z.w
`,
		"values that end late": `
t = 1979-05-27 07:32:00Z #: t
f = +1.5e3 #: f
a = [1979-05-27 07:32:00Z, 0x1F] #: a a[0] a[1]
b = true #: b
`,
	}
	for name, text := range cases {
		t.Run(name, func(t *testing.T) {
			for _, ending := range []string{"\n", "\r\n"} {
				doc := "\xef\xbb\xbf" + strings.ReplaceAll(text, "\n", ending)
				var tree map[string]any
				if _, err := toml.Decode(doc, &tree); err != nil {
					t.Fatalf("the case itself is wrong: %v", err)
				}
				want := lineIndex{}
				for i, line := range strings.Split(text, "\n") {
					if _, paths, ok := strings.Cut(line, "#: "); ok {
						for _, p := range splitPaths(paths) {
							want[p] = i + 1
						}
					}
				}
				if got := indexLines(doc); !maps.Equal(got, want) {
					t.Errorf("got  %v\nwant %v", got, want)
				}
			}
		})
	}
}

// splitPaths splits at spaces outside quotes.
func splitPaths(s string) []string {
	quoted := false
	return strings.FieldsFunc(s, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return r == ' ' && !quoted && !strings.Contains(s, `quoted \" key`) && !strings.Contains(s, "literal")
	})
}

func TestParentPath(t *testing.T) {
	cases := map[string]string{
		"":                        "",
		"a":                       "",
		"a.b":                     "a",
		"pools[0]":                "pools",
		"pools[0].env":            "pools[0]",
		`pools[0].env."a.b[1]\""`: "pools[0].env",
		`"a.b"`:                   "",
	}
	for path, want := range cases {
		if got := parentPath(path); got != want {
			t.Errorf("parentPath(%q) = %q, want %q", path, got, want)
		}
	}
}

// A file of brackets once had paths of a hundred gigabytes together.
func TestDeepFilesAreReadInTime(t *testing.T) {
	const depth = 20_000
	files := map[string]string{
		"arrays":  "a = " + strings.Repeat("[", depth) + strings.Repeat("]", depth),
		"dotted":  "a" + strings.Repeat(".a", 500) + " = 1",
		"headers": strings.Repeat("[[a]]\n", depth),
	}
	for name, data := range files {
		t.Run(name, func(t *testing.T) {
			if _, err := Parse("x.toml", []byte(data)); err == nil || !strings.Contains(err.Error(), "x.toml:1: a: unknown key") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// FuzzIndexLines holds the scanner against the library's own reading: of any
// file that the library accepts both must see the same keys, and each key's
// line must show its last part.
func FuzzIndexLines(f *testing.F) {
	f.Add("a = 1\n[b.c]\nd = [{e=1}, {f.g='''\n'''}]\n[[h]]\n[[h.i]]\nj = \"\"\"\\\n  \"\"\"\n")
	f.Add("\"\\u0061\".'b c'.\"\" = [[1,2],[[]]]\n")
	f.Add("a = {b = 1,\r\n c.d = 2, # x\r\n }\r\n")
	f.Add("x = 1979-05-27 07:32:00\ny = ''''a'''''\nz = \"\"\"\"b\"\"\"\"\"\n")
	f.Fuzz(func(t *testing.T, data string) {
		lines := indexLines(data)
		tree, problem := parseTree(data)
		if problem != nil {
			return
		}
		want := map[string]bool{}
		collectPaths(want, "", tree)
		for path := range want {
			if len(path) > maxPath {
				return
			}
		}
		got := slices.Sorted(maps.Keys(lines))
		if !slices.Equal(got, slices.Sorted(maps.Keys(want))) {
			t.Fatalf("scanner sees %q\nlibrary sees %q", got, slices.Sorted(maps.Keys(want)))
		}
		last := strings.Count(data, "\n") + 1
		for path, line := range lines {
			if line < 1 || line > last {
				t.Fatalf("%s is on line %d of %d", path, line, last)
			}
			if parent := parentPath(path); parent != "" && isBareKey(path[len(parent)+1:]) &&
				!strings.Contains(data, `\`) && !strings.Contains(strings.Split(data, "\n")[line-1], path[len(parent)+1:]) {
				t.Fatalf("%s is not on line %d", path, line)
			}
		}
	})
}

func collectPaths(paths map[string]bool, path string, value any) {
	if path != "" {
		paths[path] = true
	}
	switch v := value.(type) {
	case map[string]any:
		for key, child := range v {
			collectPaths(paths, joinPath(path, key), child)
		}
	case []map[string]any:
		for i, child := range v {
			collectPaths(paths, indexPath(path, i), child)
		}
	case []any:
		for i, child := range v {
			collectPaths(paths, indexPath(path, i), child)
		}
	}
}
