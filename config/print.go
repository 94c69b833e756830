package config

import (
	"fmt"
	"io"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// hidden stands for a secret in what is printed for people.
const hidden = "***"

// Marshal is the configuration as TOML that loads to an equal one, secrets
// included. It has every key that counts, in the order of the reference, and
// none that is empty or belongs to the other kind of pool.
func (c *Config) Marshal() []byte {
	p := printer{}
	p.table("", reflect.ValueOf(c).Elem(), nil)
	return []byte(p.b.String())
}

// Print writes the configuration for people to read and pass on: as Marshal,
// but for values that look secret by the name of their variable or option
// (KEY, TOKEN, SECRET, PASSWORD, …). These are replaced, and a comment says
// so: what is printed ends up in tickets and the logs of build machines.
func (c *Config) Print(w io.Writer) error {
	safe := *c
	safe.Pools = slices.Clone(c.Pools)
	safe.Routes = slices.Clone(c.Routes)
	masked := false
	for i := range safe.Pools {
		masked = safe.Pools[i].mask() || masked
	}
	for i := range safe.Routes {
		masked = safe.Routes[i].mask() || masked
	}
	masked = safe.Tracing.mask() || masked
	text := string(safe.Marshal())
	if masked {
		text = "# Values that look secret are shown as " + quoteTOML(hidden) + ".\n" + text
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}

// printer writes structs as TOML.
type printer struct{ b strings.Builder }

// table writes the keys of one table, and behind them the tables inside it, as
// TOML has it: a key behind a [table] would belong to that table.
func (p *printer) table(path string, v reflect.Value, skip []string) {
	keys := keysOf(v.Type())
	for i, name := range keys.names {
		if tableOf(v.Field(i).Type()) == nil && v.Field(i).Kind() != reflect.Map && !slices.Contains(skip, name) {
			p.key(name, v.Field(i))
		}
	}
	for i, name := range keys.names {
		field := v.Field(i)
		at := joinPath(path, name)
		switch {
		case slices.Contains(skip, name), isOff(field):
		case field.Kind() == reflect.Map:
			p.strings(at, field)
		case field.Kind() == reflect.Struct && tableOf(field.Type()) != nil:
			fmt.Fprintf(&p.b, "\n[%s]\n", at)
			p.table(at, field, nil)
		case tableOf(field.Type()) != nil:
			p.tables(at, field)
		}
	}
}

// isOff says whether a table has nothing that counts, as CORS without origins
// and ACME without domains.
func isOff(v reflect.Value) bool {
	switch c := v.Interface().(type) {
	case Compression:
		return len(c.Encodings) == 0
	case CORS:
		return len(c.Origins) == 0
	case Tracing:
		return c.Endpoint == ""
	case ACME:
		return !c.Enabled()
	case ProxyProtocol:
		return !c.Enabled()
	}
	return false
}

// tables writes an array of tables.
func (p *printer) tables(path string, v reflect.Value) {
	for i := range v.Len() {
		fmt.Fprintf(&p.b, "\n[[%s]]\n", path)
		var skip []string
		if pool, ok := reflect.TypeAssert[*Pool](v.Index(i).Addr()); ok && pool.Remote() {
			skip = workerKeys
		}
		if _, ok := reflect.TypeAssert[Route](v.Index(i)); ok {
			skip = emptyKeys(v.Index(i)) // most of what a route may say it does not
		}
		p.table(path, v.Index(i), skip)
	}
}

func emptyKeys(v reflect.Value) []string {
	var empty []string
	for i, name := range keysOf(v.Type()).names {
		if isEmptyKey(v.Field(i)) {
			empty = append(empty, name)
		}
	}
	return empty
}

// key writes one key, unless it is empty where empty means not set.
func (p *printer) key(name string, v reflect.Value) {
	if (v.Kind() == reflect.String || v.Kind() == reflect.Slice) && v.Len() == 0 {
		return
	}
	fmt.Fprintf(&p.b, "%s = %s\n", name, formatValue(v))
}

func (p *printer) strings(path string, v reflect.Value) {
	if v.Len() == 0 {
		return
	}
	fmt.Fprintf(&p.b, "\n[%s]\n", path)
	keys := v.MapKeys()
	slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, key := range keys {
		fmt.Fprintf(&p.b, "%s = %s\n", joinPath("", key.String()), quoteTOML(v.MapIndex(key).String()))
	}
}

// formatValue is a value as a file would write it.
func formatValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case Duration:
		return quoteTOML(x.String())
	case netip.Prefix:
		return quoteTOML(x.String())
	case string:
		return quoteTOML(x)
	case bool:
		return strconv.FormatBool(x)
	case int:
		return strconv.Itoa(x)
	case float64:
		return scalarText(x)
	}
	elements := make([]string, v.Len())
	for i := range elements {
		elements[i] = formatValue(v.Index(i))
	}
	return "[" + strings.Join(elements, ", ") + "]"
}

// quoteArray is an array of strings as a file would write it.
func quoteArray(words []string) string { return formatValue(reflect.ValueOf(words)) }

// mask replaces the pool's secrets, in copies, and reports whether it had any.
func (p *Pool) mask() bool {
	command, a := maskArgs(p.Command)
	gone, b := maskArgs(p.Stop.GoneCommand)
	env, c := map[string]string{}, false
	for name, value := range p.Env {
		if looksSecret(name) && value != "" {
			value, c = hidden, true
		}
		env[name] = value
	}
	probe, d := maskArgs(p.Health.Command)
	p.Command, p.Stop.GoneCommand, p.Health.Command, p.Env = command, gone, probe, env
	e := p.Health.Canary.APIKey != ""
	if e {
		p.Health.Canary.APIKey = hidden
	}
	return a || b || c || d || e
}

// maskArgs replaces the values of secret options: "--api-key=X" and "--api-key X".
func maskArgs(argv []string) (masked []string, found bool) {
	masked = slices.Clone(argv)
	for i, arg := range masked {
		option, value, joined := strings.Cut(arg, "=")
		switch {
		case !strings.HasPrefix(option, "-") || !looksSecret(option):
		case joined && value != "":
			masked[i], found = option+"="+hidden, true
		case !joined && i+1 < len(masked) && !strings.HasPrefix(masked[i+1], "-"):
			masked[i+1], found = hidden, true
		}
	}
	return masked, found
}

// secretWords are the words of a name that say that its value is a secret.
// Whole words: TOKENIZERS_PARALLELISM and --max-tokens are none.
var secretWords = []string{
	"KEY", "KEYS", "APIKEY", "TOKEN", "SECRET", "SECRETS", "PASSWORD", "PASSWD", "PASSPHRASE",
	"CREDENTIAL", "CREDENTIALS", "AUTH", "AUTHORIZATION", "COOKIE", "DSN",
}

func looksSecret(name string) bool {
	words := strings.FieldsFunc(strings.ToUpper(name), func(r rune) bool { return r == '_' || r == '-' || r == '.' })
	return slices.ContainsFunc(words, func(word string) bool { return slices.Contains(secretWords, word) })
}
