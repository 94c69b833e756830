package config

import (
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
)

// Plan is what turns one configuration into another while it runs. It is a
// value: making one changes nothing.
type Plan struct {
	// Workers by what happens to them.
	Kept      []string `json:"kept"`
	Restarted []string `json:"restarted"`
	Added     []string `json:"added"`
	Removed   []string `json:"removed"`
	// Changes are keys that take effect at once, without a restart of anything.
	Changes []Change `json:"changes"`
	// NeedMaster are keys that a running master keeps as they were: they need a
	// restart of the master itself.
	NeedMaster []Change `json:"need_master"`
}

// Change is one key with another value. Values are as in a file; empty: absent.
type Change struct {
	// Key is a path in which pools and servers stand by their names.
	Key string `json:"key"`
	Old string `json:"old"`
	New string `json:"new"`
}

// masterKeys are read once, when a master begins.
var masterKeys = []string{
	"run_dir", "state_dir", "admin", "crashes.keep", "crashes.size_mib",
	"quarantine.enabled", "quarantine.body_kib", "quarantine.memory_mib",
	"recorder.enabled", "recorder.keep", "recorder.body_kib", "recorder.memory_mib", "recorder.redact_fields", "recorder.redact_patterns",
}

// Diff compares two validated configurations. Secrets are not in the plan.
func Diff(from, to *Config) Plan {
	p := Plan{Kept: []string{}, Restarted: []string{}, Added: []string{}, Removed: []string{}, Changes: []Change{}, NeedMaster: []Change{}}
	p.compare("", reflect.ValueOf(from).Elem(), reflect.ValueOf(to).Elem())
	for i := range from.Pools {
		old := &from.Pools[i]
		p.compareWorkers(old, to.Pool(old.Name))
	}
	for i := range to.Pools {
		if from.Pool(to.Pools[i].Name) == nil {
			p.compareWorkers(nil, &to.Pools[i])
		}
	}
	return p
}

// Pool is the pool of that name, nil if there is none.
func (c *Config) Pool(name string) *Pool {
	for i := range c.Pools {
		if c.Pools[i].Name == name {
			return &c.Pools[i]
		}
	}
	return nil
}

// Empty reports whether nothing is to be done.
func (p *Plan) Empty() bool {
	return len(p.Restarted)+len(p.Added)+len(p.Removed)+len(p.Changes)+len(p.NeedMaster) == 0
}

// Correct goes by what runs instead of what was configured, where the two
// differ because an earlier plan did not come to every worker. restart holds
// the workers that there are, and whether each is to be restarted.
func (p *Plan) Correct(restart map[string]bool) {
	all := slices.Concat(p.Kept, p.Restarted)
	slices.Sort(all)
	kept, restarted := []string{}, []string{}
	for _, worker := range all {
		yes, known := restart[worker]
		if !known {
			yes = slices.Contains(p.Restarted, worker)
		}
		if yes {
			restarted = append(restarted, worker)
		} else {
			kept = append(kept, worker)
		}
	}
	p.Kept, p.Restarted = kept, restarted
}

// compareWorkers sorts the workers of one pool; nil: no such pool.
func (p *Plan) compareWorkers(from, to *Pool) {
	before, after := from.workerCount(), to.workerCount()
	for index := range max(before, after) {
		switch {
		case index >= after:
			p.Removed = append(p.Removed, from.WorkerName(index))
		case index >= before:
			p.Added = append(p.Added, to.WorkerName(index))
		case from.SameEngine(to):
			p.Kept = append(p.Kept, to.WorkerName(index))
		default:
			p.Restarted = append(p.Restarted, to.WorkerName(index))
		}
	}
}

func (p *Pool) workerCount() int {
	if p == nil || p.Remote() {
		return 0
	}
	return p.Workers
}

// compare walks one table key by key, so that no key can be forgotten.
func (p *Plan) compare(path string, from, to reflect.Value) {
	for i, name := range keysOf(from.Type()).names {
		at, old, now := joinPath(path, name), from.Field(i), to.Field(i)
		switch tables := old.Interface().(type) {
		case []Pool:
			compareNamed(p, at, named(tables), named(now.Interface().([]Pool)))
		case []Limit:
			compareNamed(p, at, named(tables), named(now.Interface().([]Limit)))
		case []Server:
			compareNamed(p, at, named(tables), named(now.Interface().([]Server)))
		case []Route:
			p.compareRoutes(tables, now.Interface().([]Route))
		default:
			switch {
			case tableOf(old.Type()) != nil && old.Kind() == reflect.Struct:
				p.compare(at, old, now)
			case empty(old) && empty(now): // nil or not
			case !reflect.DeepEqual(old.Interface(), now.Interface()):
				p.note(at, show(name, old), show(name, now))
			}
		}
	}
}

// compareRoutes compares routes by their places, as their order counts. They are
// shown whole: few of their keys mean anything alone.
func (p *Plan) compareRoutes(from, to []Route) {
	for i := range max(len(from), len(to)) {
		old, now := "", ""
		if i < len(from) {
			old = from[i].String()
		}
		if i < len(to) {
			now = to[i].String()
		}
		if old == "" || now == "" || !reflect.DeepEqual(from[i], to[i]) {
			p.note(indexPath("routes", i), old, now)
		}
	}
}

func empty(v reflect.Value) bool {
	return (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
}

// note adds a change where it belongs.
func (p *Plan) note(key, old, now string) {
	if old == now {
		now += " (a secret in it has changed)"
	}
	change := Change{Key: key, Old: old, New: now}
	if slices.Contains(masterKeys, key) {
		p.NeedMaster = append(p.NeedMaster, change)
		return
	}
	p.Changes = append(p.Changes, change)
}

// entry is a table of an array that has a name.
type entry struct {
	name  string
	value reflect.Value
}

func named[T Pool | Server | Limit](tables []T) []entry {
	entries := make([]entry, len(tables))
	for i := range tables {
		switch table := any(&tables[i]).(type) {
		case *Pool:
			entries[i] = entry{table.Name, reflect.ValueOf(table).Elem()}
		case *Limit:
			entries[i] = entry{table.Name, reflect.ValueOf(table).Elem()}
		case *Server:
			entries[i] = entry{table.Name, reflect.ValueOf(table).Elem()}
		}
	}
	return entries
}

// compareNamed compares arrays of tables whose order means nothing.
func compareNamed(p *Plan, path string, from, to []entry) {
	find := func(entries []entry, name string) int {
		return slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
	}
	for _, old := range from {
		at := joinPath(path, old.name)
		if i := find(to, old.name); i >= 0 {
			p.compare(at, old.value, to[i].value)
		} else {
			p.note(at, "there", "")
		}
	}
	for _, now := range to {
		if find(from, now.name) < 0 {
			p.note(joinPath(path, now.name), "", "there")
		}
	}
}

// show is a value for people, without secrets.
func show(name string, v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		if x != "" && looksSecret(name) && name != "keys_file" {
			return quoteTOML(hidden)
		}
	case []string:
		if name == "command" || name == "gone_command" {
			x, _ = maskArgs(x)
		}
		return quoteArray(x)
	case map[string]string:
		pool := Pool{Env: x}
		pool.mask()
		var pairs []string
		for key, value := range pool.Env {
			pairs = append(pairs, key+" = "+quoteTOML(value))
		}
		slices.Sort(pairs)
		return "{" + strings.Join(pairs, ", ") + "}"
	case []Certificate:
		certificates := make([]string, len(x))
		for i, c := range x {
			certificates[i] = c.Cert + " with " + c.Key
			if len(c.Hosts) > 0 {
				certificates[i] += " for " + strings.Join(c.Hosts, " ")
			}
		}
		return quoteArray(certificates)
	}
	return formatValue(v)
}

// Print writes the plan for people, a line for each thing that happens.
func (p *Plan) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "workers: %s kept, %s restarted, %s added, %s removed\n",
		list(p.Kept), list(p.Restarted), list(p.Added), list(p.Removed))
	for _, c := range p.Changes {
		fmt.Fprintf(&b, "%s\n", c)
	}
	for _, c := range p.NeedMaster {
		fmt.Fprintf(&b, "not now, it needs a restart of the master: %s\n", c)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("print the plan: %w", err)
	}
	return nil
}

func (c Change) String() string {
	switch {
	case c.New == "":
		return c.Key + ": removed"
	case c.Old == "":
		return c.Key + ": added"
	}
	return c.Key + ": " + c.Old + " → " + c.New
}

// list is how many, and which if these are few.
func list(names []string) string {
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > 8:
		return fmt.Sprint(len(names))
	}
	return fmt.Sprintf("%d (%s)", len(names), strings.Join(names, " "))
}
