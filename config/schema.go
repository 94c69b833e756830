package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
)

// tableKeys are the keys of one kind of table, in the order of its struct.
type tableKeys struct {
	names []string
	index map[string]int
}

func keysOf(t reflect.Type) tableKeys {
	keys := tableKeys{index: map[string]int{}}
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("toml")
		if name == "" {
			break // what follows is no key
		}
		keys.names = append(keys.names, name)
		keys.index[name] = i
	}
	return keys
}

// workerKeys are the keys of a pool that say how to run engines. They mean
// nothing to a pool of servers, which others run.
var workerKeys = []string{
	"command", "workers", "env", "dir", "user", "gpus_per_worker", "gpus",
	"start_timeout", "max_starting", "surge", "restart", "stop", "on_death",
}

// tableOf is the struct type that a value of type t is a table of, or an array
// of tables; nil when it is neither.
func tableOf(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == reflect.TypeFor[netip.Prefix]() {
		return nil
	}
	return t
}

// walkSchema visits every key that a file may have, tables before their keys,
// with its path without indices ("pools.health.path") and its type.
func walkSchema(visit func(path string, t reflect.Type)) {
	walkKeys("", reflect.TypeFor[Config](), visit)
}

func walkKeys(path string, table reflect.Type, visit func(string, reflect.Type)) {
	for i, name := range keysOf(table).names {
		at := joinPath(path, name)
		t := table.Field(i).Type
		visit(at, t)
		if inner := tableOf(t); inner != nil {
			walkKeys(at, inner, visit)
		}
	}
}

// genericPath is a path without its indices: "pools[0].health" → "pools.health".
func genericPath(path string) string {
	var b strings.Builder
	inside := false
	for _, r := range path {
		switch r {
		case '[':
			inside = true
		case ']':
			inside = false
		default:
			if !inside {
				b.WriteRune(r)
			}
		}
	}
	return b.String()
}

// unknownKey reports a key that does not exist, with the one that was most
// likely meant; that one then counts as faulty, so that its absence is not
// reported as well.
func (v *validator) unknownKey(path, key string, siblings tableKeys) {
	at := joinPath(path, key)
	table := genericPath(path)
	homes, inner := findKey(table, key)
	switch near := nearest(key, siblings.names); {
	case strings.EqualFold(near, key), near != "" && len(homes) == 0 && inner == "":
		v.report(at, fmt.Sprintf("unknown key; did you mean %q?", near))
		v.meant(joinPath(path, near))
	case inner != "":
		v.report(at, fmt.Sprintf("unknown key; did you mean %q?", inner))
		v.meant(joinPath(path, inner))
	case len(homes) > 0:
		v.report(at, "unknown key here; it belongs to "+strings.Join(homes, " or "))
	case len(siblings.names) <= 10:
		v.report(at, "unknown key; the keys here are "+strings.Join(siblings.names, ", "))
	default:
		v.report(at, "unknown key")
	}
}

// meant takes note that a key was to be written: no rule shall miss it. One that
// is written as well is judged all the same.
func (v *validator) meant(path string) {
	if !v.written(path) {
		v.unread[path] = true
	}
}

// findKey looks for a key beyond its own table: homes are tables that have a
// key of this name, inner is the key below this table that was meant by
// "health_path" or by a bare "path".
func findKey(table, key string) (homes []string, inner string) {
	walkSchema(func(path string, t reflect.Type) {
		parent, name := splitLast(path)
		if below, ok := strings.CutPrefix(path, table+"."); ok && table != "" &&
			tableOf(t) == nil && strings.ReplaceAll(below, ".", "_") == key {
			inner = below
		}
		if name == key {
			homes = append(homes, header(parent))
		}
	})
	return slices.Compact(homes), inner
}

func splitLast(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// header is how a file opens the table of that path.
func header(table string) string {
	switch table {
	case "":
		return "the top of the file, before the first [table]"
	case "pools", "routes", "limits", "pools.servers", "routes.split", "tls.certificates":
		return "[[" + table + "]]"
	}
	return "[" + table + "]"
}

// nearest is the candidate that a slip of the keyboard would turn into name;
// empty when none is near.
func nearest(name string, candidates []string) string {
	best, bestDistance := "", 1+len(name)/3
	for _, candidate := range candidates {
		if strings.EqualFold(candidate, name) {
			return candidate
		}
		if d := distance(strings.ToLower(name), candidate); d <= bestDistance && (best == "" || d < bestDistance) {
			best, bestDistance = candidate, d
		}
	}
	return best
}

// distance counts insertions, deletions, replacements and swaps of neighbours.
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		next := make([]int, len(b)+1)
		next[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			next[j] = min(row[j]+1, next[j-1]+1, row[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				next[j] = min(next[j], before[j-2]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
