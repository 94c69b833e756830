package config

import (
	"maps"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const reference = "../docs/configuration.md"

// referenceRow is a line of the reference's tables of keys.
type referenceRow struct{ kind, value, meaning string }

// TestReferenceIsTrue holds the reference against the structs: every key with
// its type and default, and no key that does not exist.
func TestReferenceIsTrue(t *testing.T) {
	text := readReference(t)
	rows := map[string]referenceRow{}
	row := regexp.MustCompile("(?m)^\\| `([a-z_.]+)` \\| ([^|]+) \\| ([^|]+) \\| (.+) \\|$")
	for _, m := range row.FindAllStringSubmatch(text, -1) {
		if _, twice := rows[m[1]]; twice {
			t.Errorf("%s is described twice", m[1])
		}
		rows[m[1]] = referenceRow{m[2], m[3], m[4]}
	}
	defaults := defaultValues(t)
	walkSchema(func(path string, typ reflect.Type) {
		if tableOf(typ) != nil {
			return
		}
		got, ok := rows[path]
		delete(rows, path)
		if !ok {
			t.Errorf("%s is missing", path)
			return
		}
		if want := kindName(typ); got.kind != want {
			t.Errorf("%s: the type is %q, not %q", path, want, got.kind)
		}
		if want := defaults[path]; got.value != want {
			t.Errorf("%s: the default is %s, not %s", path, want, got.value)
		}
		if len(got.meaning) < 10 {
			t.Errorf("%s: meaning %q", path, got.meaning)
		}
	})
	for _, path := range slices.Sorted(maps.Keys(rows)) {
		t.Errorf("%s does not exist", path)
	}
}

// defaultValues is each key's default as the reference writes it.
func defaultValues(t *testing.T) map[string]string {
	t.Helper()
	c := Default()
	pool := DefaultPool("")
	pool.Servers = []Server{DefaultServer("")}
	c.Pools = []Pool{pool}
	c.Routes = []Route{{Split: []Share{DefaultShare()}}}
	c.TLS.Certificates = []Certificate{{}}
	c.Limits = []Limit{DefaultLimit()}
	values := map[string]string{}
	var walk func(path string, v reflect.Value)
	walk = func(path string, v reflect.Value) {
		for i, name := range keysOf(v.Type()).names {
			at, field := joinPath(path, name), v.Field(i)
			if tableOf(field.Type()) == nil {
				values[at] = defaultText(field)
				continue
			}
			if field.Kind() == reflect.Slice {
				field = field.Index(0)
			}
			walk(at, field)
		}
	}
	walk("", reflect.ValueOf(c).Elem())
	// These follow from something else, and Parse below shows that they must be written.
	values["run_dir"] = "see below"
	values["state_dir"] = "see below"
	values["pools.servers.name"] = "the address"
	for _, required := range []string{"pools.name", "pools.command", "pools.servers.address", "routes.split.pool", "tls.certificates.cert", "tls.certificates.key", "limits.name", "limits.per"} {
		if values[required] != "none" {
			t.Errorf("%s has the default %s", required, values[required])
		}
		values[required] = "required"
	}
	return values
}

func defaultText(v reflect.Value) string {
	if (v.Kind() == reflect.String || v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0 {
		return "none"
	}
	return "`" + formatValue(v) + "`"
}

func kindName(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration]():
		return "duration"
	case reflect.TypeFor[[]netip.Prefix]():
		return "networks"
	case reflect.TypeFor[[]string]():
		return "strings"
	case reflect.TypeFor[map[string]string]():
		return "table of strings"
	case reflect.TypeFor[int]():
		return "integer"
	case reflect.TypeFor[float64]():
		return "number"
	case reflect.TypeFor[bool]():
		return "boolean"
	}
	return t.String()
}

// TestReferenceExamplesLoad loads every example, and sees that together they
// show every key.
func TestReferenceExamplesLoad(t *testing.T) {
	examples := regexp.MustCompile("(?s)```toml\n(.*?)```").FindAllStringSubmatch(readReference(t), -1)
	shown := map[string]bool{}
	for _, m := range examples {
		if _, err := Parse("/x/example.toml", []byte(m[1])); err != nil {
			t.Errorf("%v in\n%s", err, m[1])
		}
		for path := range indexLines(m[1]) {
			shown[genericPath(path)] = true
		}
	}
	walkSchema(func(path string, _ reflect.Type) {
		if !shown[path] {
			t.Errorf("no example shows %s", path)
		}
	})
}

func TestReferenceKnowsItsWords(t *testing.T) {
	text := readReference(t)
	for _, placeholder := range placeholders {
		variable := "`STOKER_" + strings.ToUpper(strings.Trim(placeholder, "{}")) + "`"
		if !strings.Contains(text, "| `"+placeholder+"` | "+variable+" |") {
			t.Errorf("no row for %s and %s", placeholder, variable)
		}
	}
	for _, flag := range slices.Concat(topFlags, poolFlags) {
		if !strings.Contains(text, "`--"+flag.flag+"`") {
			t.Errorf("--%s is not mentioned", flag.flag)
		}
	}
}

// TestWorkerKeysAreKeys: a key that was renamed in the struct alone would
// be accepted silently in a pool of servers.
func TestWorkerKeysAreKeys(t *testing.T) {
	keys := keysOf(reflect.TypeFor[Pool]())
	for _, key := range workerKeys {
		if _, ok := keys.index[key]; !ok {
			t.Errorf("%s is no key of a pool", key)
		}
	}
}

func readReference(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
