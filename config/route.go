package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Route says which requests it is for, and what becomes of them. All of its
// conditions must hold; what is left out is no condition. Exactly one of Pool,
// Split, Redirect, Answer and ListModels says what becomes of a request.
type Route struct {
	// Name in logs, metrics and explanations; empty: its number, from 1.
	Name string `toml:"name"`

	// Host matches the authority's host without port: exactly, or by "*.NAME"
	// any name below NAME. Empty matches any.
	Host string `toml:"host"`
	// Path matches the target's path by whole segments: "/v1" matches /v1 and
	// /v1/x, not /v10. A segment "*" matches any one, "{name}" too, which can be
	// used as a placeholder. Empty matches any.
	Path string `toml:"path"`
	// Exact: Path matches nothing below it.
	Exact bool `toml:"exact"`
	// Methods that match; GET includes HEAD. Empty: any.
	Methods []string `toml:"methods"`
	// Headers are fields that must be there, by name: "*" with any value, "x*"
	// with one that begins so, else with this one.
	Headers map[string]string `toml:"headers"`
	// Models are names of which the request's body must have one as "model"; a
	// "*" at the end stands for any rest. Empty, without Aliases: any body.
	Models []string `toml:"models"`
	// Aliases are further names that match, each with the one that the engine
	// is told instead.
	Aliases map[string]string `toml:"aliases"`

	// Pool is the name of the pool that gets the requests.
	Pool string `toml:"pool"`
	// Split shares the requests between pools.
	Split []Share `toml:"split"`
	// Redirect is where clients are sent, with placeholders.
	Redirect string `toml:"redirect"`
	// RedirectStatus is 301, 302, 303, 307 or 308; 0: 308.
	RedirectStatus int `toml:"redirect_status"`
	// Answer is what clients get, whatever they asked.
	Answer Answer `toml:"answer"`
	// ListModels answers with the models of all pools that routes of this host
	// lead to.
	ListModels bool `toml:"list_models"`

	// BodyMiB is the largest request body, instead of Clients.BodyMiB; 0: that one.
	BodyMiB int `toml:"body_mib"`
	// Rewrite replaces what Path has matched, with placeholders; empty: nothing is.
	Rewrite string `toml:"rewrite"`
	// Request and Response change the fields that the engine and the client get.
	Request  FieldChanges `toml:"request"`
	Response FieldChanges `toml:"response"`
}

// Share is a pool's part of the requests of a route.
type Share struct {
	Pool string `toml:"pool"`
	// Weight is its part of the sum of all weights; 0: none.
	Weight int `toml:"weight"`
}

// Answer is a fixed one.
type Answer struct {
	// Status is 200 to 599; 0: there is no such answer.
	Status int    `toml:"status"`
	Body   string `toml:"body"`
	// ContentType of Body; empty: text/plain; charset=utf-8.
	ContentType string `toml:"content_type"`
}

// FieldChanges are made in this order: Remove, Set, Add.
type FieldChanges struct {
	// Remove are names of fields that are not passed on.
	Remove []string `toml:"remove"`
	// Set replaces all fields of a name by one, Add adds one.
	Set map[string]string `toml:"set"`
	Add map[string]string `toml:"add"`
}

// DefaultShare is what a share is decoded over.
func DefaultShare() Share { return Share{Weight: 1} }

// complete fills in what follows from other keys.
func (r *Route) complete() {
	if domain, wild := strings.CutPrefix(r.Host, "*."); wild {
		r.Host = "*." + plainHost(domain)
	} else {
		r.Host = plainHost(r.Host)
	}
	if !r.ListModels {
		return
	}
	if r.Path == "" && !r.Exact {
		r.Path, r.Exact = "/v1/models", true
	}
	if len(r.Methods) == 0 {
		r.Methods = []string{"GET"}
	}
}

// Title is the route's name, or its number, by which people speak of it.
func (r *Route) Title(index int) string {
	if r.Name != "" {
		return r.Name
	}
	return fmt.Sprintf("#%d", index+1)
}

// Destinations are the names of the pools that the route leads to.
func (r *Route) Destinations() []string {
	if r.Pool != "" {
		return []string{r.Pool}
	}
	pools := make([]string, len(r.Split))
	for i := range r.Split {
		pools[i] = r.Split[i].Pool
	}
	return pools
}

// NeedsModel says whether the route asks for the model that a body names.
func (r *Route) NeedsModel() bool { return len(r.Models)+len(r.Aliases) > 0 }

// covers reports whether every request that other matches is matched by r. It
// says no where it cannot tell.
func (r *Route) covers(other *Route) bool {
	return hostCovers(r.Host, other.Host) && r.pathCovers(other) && r.methodsCover(other) &&
		r.headersCover(other) && r.modelsCover(other)
}

func hostCovers(host, other string) bool {
	domain, wild := strings.CutPrefix(host, "*")
	return host == "" || host == other || wild && strings.HasSuffix(other, domain) && len(other) > len(domain)
}

func (r *Route) pathCovers(other *Route) bool {
	if r.Exact {
		return other.Exact && pathsCover(r.Path, other.Path) && strings.Count(r.Path, "/") == strings.Count(other.Path, "/")
	}
	return pathsCover(strings.TrimRight(r.Path, "/"), other.Path)
}

// pathsCover compares segment by segment, as far as path goes.
func pathsCover(path, other string) bool {
	if path == "" {
		return true
	}
	mine, theirs := strings.Split(path, "/"), strings.Split(other, "/")
	if len(mine) > len(theirs) {
		return false
	}
	for i, segment := range mine {
		if segment != theirs[i] && (!isWild(segment) || theirs[i] == "") {
			return false
		}
	}
	return true
}

// isWild reports whether a path's segment matches any.
func isWild(segment string) bool {
	return segment == "*" || strings.HasPrefix(segment, "{") && strings.HasSuffix(segment, "}")
}

func (r *Route) methodsCover(other *Route) bool {
	if len(r.Methods) == 0 {
		return true
	}
	has := func(method string) bool {
		return slices.Contains(r.Methods, method) || method == "HEAD" && slices.Contains(r.Methods, "GET")
	}
	return len(other.Methods) > 0 && !slices.ContainsFunc(other.Methods, func(m string) bool {
		return !has(m)
	})
}

func (r *Route) headersCover(other *Route) bool {
	for name, wanted := range r.Headers {
		implied := false
		for theirs, value := range other.Headers {
			implied = implied || strings.EqualFold(name, theirs) && wordCovers(wanted, value)
		}
		if !implied {
			return false
		}
	}
	return true
}

func (r *Route) modelsCover(other *Route) bool {
	if !r.NeedsModel() {
		return true
	}
	if !other.NeedsModel() {
		return false
	}
	for _, name := range other.modelNames() {
		if !slices.ContainsFunc(r.modelNames(), func(mine string) bool { return wordCovers(mine, name) }) {
			return false
		}
	}
	return true
}

// modelNames are all names that match, aliases included.
func (r *Route) modelNames() []string {
	names := slices.Clone(r.Models)
	for alias := range r.Aliases {
		names = append(names, alias)
	}
	return names
}

// wordCovers compares words that may end in a star.
func wordCovers(word, other string) bool {
	beginning, open := strings.CutSuffix(word, "*")
	return word == other || open && strings.HasPrefix(other, beginning)
}

// mask replaces what is secret in the route's fields, in copies, and reports
// whether there was anything.
func (r *Route) mask() bool {
	found := false
	for _, fields := range []*map[string]string{&r.Headers, &r.Request.Set, &r.Request.Add, &r.Response.Set, &r.Response.Add} {
		masked := make(map[string]string, len(*fields))
		for name, value := range *fields {
			if looksSecret(name) && value != "*" {
				value, found = hidden, true
			}
			masked[name] = value
		}
		*fields = masked
	}
	return found
}

// String is the route in one line, as a file could write it, without secrets.
func (r Route) String() string {
	r.mask()
	return inline(reflect.ValueOf(r))
}

// inline is a table in braces, without its empty keys.
func inline(v reflect.Value) string {
	var parts []string
	for i, name := range keysOf(v.Type()).names {
		field := v.Field(i)
		if isEmptyKey(field) {
			continue
		}
		var text string
		switch {
		case field.Kind() == reflect.Struct:
			text = inline(field)
		case field.Kind() == reflect.Map:
			text = inlineMap(field.Interface().(map[string]string))
		case tableOf(field.Type()) != nil:
			tables := make([]string, field.Len())
			for j := range tables {
				tables[j] = inline(field.Index(j))
			}
			text = "[" + strings.Join(tables, ", ") + "]"
		default:
			text = formatValue(field)
		}
		parts = append(parts, name+" = "+text)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func inlineMap(m map[string]string) string {
	pairs := make([]string, 0, len(m))
	for key, value := range m {
		pairs = append(pairs, joinPath("", key)+" = "+quoteTOML(value))
	}
	slices.Sort(pairs)
	return "{" + strings.Join(pairs, ", ") + "}"
}

// isEmptyKey reports whether a key of a route says nothing.
func isEmptyKey(v reflect.Value) bool {
	switch v.Kind() { //nolint:exhaustive // the others have no length
	case reflect.Slice, reflect.Map:
		return v.Len() == 0
	case reflect.Struct:
		for _, field := range v.Fields() {
			if !isEmptyKey(field) {
				return false
			}
		}
		return true
	}
	return v.IsZero()
}
