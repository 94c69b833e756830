package config

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// validateRoutes sees that each route makes sense, that none is shadowed by an
// earlier one, and that no pool is left without a way to it.
func (v *validator) validateRoutes() {
	routes := v.config.Routes
	for i := range routes {
		route := &routes[i]
		key := indexPath("routes", i)
		v.validateRouteName(i)
		v.validateConditions(key, route)
		v.validateAction(key, route)
		v.validateRewriting(key, route)
		v.validateRouteBody(key+".body_mib", route)
		for j := range i {
			switch {
			case !routes[j].covers(route) || v.anyFaulty(key) || v.anyFaulty(indexPath("routes", j)):
			case route.covers(&routes[j]):
				v.report(key, fmt.Sprintf("is never reached: %s matches just the same and comes first; take one of them out", v.origin.at(indexPath("routes", j))))
			default:
				v.report(key, fmt.Sprintf("is never reached: %s matches all that it would and comes first; move it before that one", v.origin.at(indexPath("routes", j))))
			}
		}
	}
	v.validateReach()
}

// anyFaulty reports whether a condition of a route is in doubt, so that none
// can be said to come before another.
func (v *validator) anyFaulty(route string) bool {
	for faulty := range v.faulty {
		rest, inside := strings.CutPrefix(faulty, route+".")
		if key := strings.FieldsFunc(rest, func(r rune) bool { return r == '[' || r == '.' }); inside &&
			slices.Contains([]string{"exact", "methods", "headers", "models", "aliases"}, key[0]) {
			return true
		}
	}
	return false
}

func (v *validator) validateRouteName(i int) {
	key, name := indexPath("routes", i)+".name", v.config.Routes[i].Name
	switch {
	case name == "":
		return
	case len(name) > maxName:
		v.report(key, fmt.Sprintf("has %d characters: write at most %d", len(name), maxName))
	case !poolName.MatchString(name):
		v.report(key, fmt.Sprintf("%s may have a-z, 0-9, \"_\" and \"-\", and begins with a letter or digit", quoteTOML(shorten(name))))
	}
	for j := range i {
		if v.config.Routes[j].Name == name {
			v.report(key, fmt.Sprintf("%q is also %s: give each route a name of its own", name, v.origin.at(indexPath("routes", j)+".name")))
		}
	}
}

// validateRouteBody sees that a limit of bodies means something.
func (v *validator) validateRouteBody(key string, route *Route) {
	v.number(key, route.BodyMiB, 0, 1<<20)
	switch ahead := v.config.Clients.ReadAheadMiB; {
	case route.BodyMiB <= 0:
	case len(route.Destinations()) == 0:
		v.report(key, "is of no use: the route leads to no pool, and its bodies are not read")
	case route.NeedsModel() && route.BodyMiB > ahead:
		v.report(key, fmt.Sprintf("is more than the %d MiB of clients.read_ahead_mib, in which the body must fit where a route asks for its model: write that much there, or less here", ahead))
	}
}

// validateConditions checks what a route matches.
func (v *validator) validateConditions(key string, route *Route) {
	if host := route.Host; host != "" {
		v.validateRouteHost(key+".host", host)
	}
	v.validateRoutePath(key, route)
	for i, method := range route.Methods {
		at := indexPath(key+".methods", i)
		switch {
		case method == "CONNECT" || method == "TRACE":
			v.report(at, method+" is refused for all: no route gets it")
		case !isToken(method):
			v.report(at, fmt.Sprintf("%s is no method: write it as in \"POST\"", quoteTOML(shorten(method))))
		case method != strings.ToUpper(method):
			v.report(at, fmt.Sprintf("methods are written in capitals: write %s", quoteTOML(shorten(strings.ToUpper(method)))))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(route.Headers)) {
		value := route.Headers[name]
		v.validateWantedHeader(joinPath(key+".headers", name), name, value)
	}
	for i, model := range route.Models {
		v.validateModel(indexPath(key+".models", i), model, true)
	}
	for _, alias := range slices.Sorted(maps.Keys(route.Aliases)) {
		model := route.Aliases[alias]
		at := joinPath(key+".aliases", alias)
		v.validateModel(at, alias, false)
		v.validateModel(at, model, false)
	}
}

func (v *validator) validateRouteHost(key, host string) {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return
	}
	name, wild := strings.CutPrefix(host, "*.")
	switch {
	case strings.Contains(name, "*"):
		v.report(key, fmt.Sprintf("%s: a star stands for whole names at the beginning alone, as in \"*.example.com\"; leave host out to match any", quoteTOML(shorten(host))))
	case strings.Contains(host, ":"):
		name, _, _ := strings.Cut(host, ":")
		v.report(key, fmt.Sprintf("%s has a port, which is not compared: write %s", quoteTOML(shorten(host)), quoteTOML(shorten(name))))
	case wild && isDotted(name):
		v.report(key, fmt.Sprintf("%s: nothing is below an address; write a name, or the address alone", quoteTOML(shorten(host))))
	default:
		if err := checkHostName(name); err != nil {
			v.report(key, err.Error())
		}
	}
}

// placeholder is what a path's segment may be called.
var placeholder = regexp.MustCompile(`^\{[a-z][a-z0-9_]*\}$`)

func (v *validator) validateRoutePath(key string, route *Route) {
	path := route.Path
	if path == "" {
		if route.Exact {
			v.report(key+".exact", "is about path, which is not there: write one, or leave exact out")
		}
		return
	}
	key += ".path"
	v.requestPath(key, path)
	trimmed := strings.TrimRight(path, "/")
	switch {
	case strings.Contains(path, "?"):
		v.report(key, fmt.Sprintf("%s has a query, which is not compared: leave out what follows the question mark", quoteTOML(shorten(path))))
	case len(path) > 1 && trimmed != path && !route.Exact:
		v.report(key, fmt.Sprintf("%s ends in a slash: write %s, which matches all below it too", quoteTOML(shorten(path)), quoteTOML(shorten("/"+strings.TrimLeft(trimmed, "/")))))
	}
	seen := map[string]bool{}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		switch {
		case segment == "*":
			if i == len(segments)-1 && !route.Exact {
				without := strings.TrimSuffix(path, "/*")
				v.report(key, fmt.Sprintf("%s: a star is one whole segment; for all below it write %s, or exact = true for just one segment more", quoteTOML(shorten(path)), quoteTOML(shorten(without))))
			}
		case !strings.ContainsAny(segment, "*{}"):
		case !placeholder.MatchString(segment):
			v.report(key, fmt.Sprintf("%s: a star or a {name} (a-z, 0-9, _) is a whole segment, as in \"/users/{name}/files\"", quoteTOML(shorten(path))))
		case slices.Contains(redirectWords, segment):
			v.report(key, fmt.Sprintf("%s has a meaning of its own in redirects: choose another name", segment))
		case seen[segment]:
			v.report(key, fmt.Sprintf("has %s twice: give each a name of its own", segment))
		default:
			seen[segment] = true
		}
	}
}

// redirectWords are placeholders of every request.
var redirectWords = []string{"{scheme}", "{host}", "{path}", "{query}", "{uri}"}

// ownFields concern one connection, or frame the message, or are written by
// stoker itself: no route can see what a client has sent, nor change them.
var ownFields = []string{
	"Connection", "Content-Length", "Expect", "Host", "HTTP2-Settings", "Keep-Alive", "Proxy", "Proxy-Authenticate", "Proxy-Authentication-Info",
	"Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "X-Request-Id",
}

func isOwnField(name string) bool {
	return slices.ContainsFunc(ownFields, func(own string) bool { return strings.EqualFold(own, name) })
}

func (v *validator) validateWantedHeader(key, name, value string) {
	switch {
	case strings.EqualFold(name, "Host"):
		v.report(key, "is what host compares: write host = \"NAME\" instead")
	case !isToken(name):
		v.report(key, "is not the name of a header field: write it as in \"X-Tenant\"")
	case isOwnField(name):
		v.report(key, "concerns the client's connection and is gone before routes are asked: choose another field")
	case value == "":
		v.report(key, "must not be empty: write \"*\" for any value, \"x*\" for one that begins with x, or the whole value")
	case !isFieldValue(value):
		v.report(key, "has characters that no header field has")
	}
}

func (v *validator) validateModel(key, model string, open bool) {
	beginning, _ := strings.CutSuffix(model, "*")
	switch {
	case model == "":
		v.report(key, "must not be empty: write the name of a model")
	case open && strings.Contains(beginning, "*"):
		v.report(key, fmt.Sprintf("%s: a star stands for the rest of a name, at its end alone", quoteTOML(shorten(model))))
	case !open && strings.Contains(model, "*"):
		v.report(key, fmt.Sprintf("%s: an alias is one whole name for one model, without a star", quoteTOML(shorten(model))))
	}
}

// validateReach sees that requests find each pool.
func (v *validator) validateReach() {
	pools := v.config.Pools
	if v.isFaulty("routes") || v.anyPoolNameFaulty() || len(pools) == 0 {
		return
	}
	if len(v.config.Routes) == 0 {
		if len(pools) > 1 {
			v.report("routes", fmt.Sprintf("there are %d pools and no routes: say with [[routes]] which requests go where, such as path = \"/v1\", pool = %q", len(pools), pools[0].Name))
		}
		return
	}
	routed := map[string]bool{}
	for i := range v.config.Routes {
		route := &v.config.Routes[i]
		key := indexPath("routes", i)
		if v.isFaulty(key+".pool") || v.isFaulty(key+".split") {
			return
		}
		for j, name := range route.Destinations() {
			if v.isFaulty(indexPath(key+".split", j) + ".pool") {
				return
			}
			routed[name] = true
		}
	}
	for i, p := range pools {
		if !routed[p.Name] {
			v.report(v.poolKey(i, "name"), fmt.Sprintf("no route leads to %q: add [[routes]] with pool = %q, or take the pool out", p.Name, p.Name))
		}
	}
}

func (v *validator) poolNames() map[string]bool {
	names := map[string]bool{}
	for _, p := range v.config.Pools {
		names[p.Name] = true
	}
	return names
}

// anyPoolNameFaulty reports whether a rule about pools by name would only
// repeat what is known of a name, or of all pools.
func (v *validator) anyPoolNameFaulty() bool {
	for i := range v.config.Pools {
		if v.isFaulty(v.poolKey(i, "name")) {
			return true
		}
	}
	return v.isFaulty("pools")
}
