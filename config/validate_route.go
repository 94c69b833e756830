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

// validateAction checks what becomes of a request that matches.
func (v *validator) validateAction(key string, route *Route) {
	var actions []string
	for name, given := range map[string]bool{
		"pool": route.Pool != "", "split": len(route.Split) > 0, "redirect": route.Redirect != "",
		"answer": !route.Answer.empty(), "list_models": route.ListModels,
	} {
		if given {
			actions = append(actions, name)
		}
	}
	slices.Sort(actions)
	switch {
	case len(actions) > 1:
		v.report(key+"."+actions[1], fmt.Sprintf("%s say different things about the same request: leave all but one out", strings.Join(actions, " and ")))
		return
	case len(actions) == 0:
		v.report(key+".pool", "is missing: name the pool that the requests go to")
		return
	}
	if route.Pool != "" {
		v.knownPool(key+".pool", route.Pool)
	}
	v.validateSplit(key, route)
	v.validateRedirect(key, route)
	v.validateAnswer(key, route)
}

func (a *Answer) empty() bool { return *a == Answer{} }

// knownPool checks the name of a pool.
func (v *validator) knownPool(key, pool string) {
	names := v.poolNames()
	if _, ok := names[pool]; ok || v.anyPoolNameFaulty() {
		return
	}
	message := fmt.Sprintf("there is no pool %s", quoteTOML(shorten(pool)))
	known := make([]string, 0, len(names))
	for _, p := range v.config.Pools {
		known = append(known, p.Name)
	}
	if near := nearest(pool, known); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	} else if len(known) > 0 {
		message += "; there are " + shorten(strings.Join(known, ", "))
	}
	v.report(key, message)
}

func (v *validator) validateSplit(key string, route *Route) {
	sum := 0
	for i, share := range route.Split {
		at := indexPath(key+".split", i)
		if share.Pool == "" {
			v.report(at+".pool", "is missing: name the pool that this share goes to")
		} else {
			v.knownPool(at+".pool", share.Pool)
		}
		v.number(at+".weight", share.Weight, 0, maxCount)
		sum += max(share.Weight, 0)
		for j := range i {
			if route.Split[j].Pool == share.Pool {
				v.report(at+".pool", fmt.Sprintf("%q is also %s: give it one weight", share.Pool, v.origin.at(indexPath(key+".split", j)+".pool")))
			}
		}
	}
	if len(route.Split) > 0 && sum == 0 {
		v.report(indexPath(key+".split", 0)+".weight", "is 0, as all others are: no pool would get a request; give at least one of them a weight")
	}
}

func (v *validator) validateRedirect(key string, route *Route) {
	if status := route.RedirectStatus; status != 0 {
		switch {
		case route.Redirect == "":
			v.report(key+".redirect_status", "is about redirect, which is not there: write one, or leave it out")
		case !slices.Contains([]int{301, 302, 303, 307, 308}, status):
			v.report(key+".redirect_status", fmt.Sprintf("must be 301, 302, 303, 307 or 308, not %d", status))
		}
	}
	to := route.Redirect
	if to == "" {
		return
	}
	begins := func(s string) bool { return strings.HasPrefix(to, s) }
	switch {
	case !begins("/") && !begins("http://") && !begins("https://") && !begins("{scheme}://") && !begins("{path}") && !begins("{uri}"):
		v.report(key+".redirect", fmt.Sprintf("%s is no place to go: write one such as \"https://{host}{uri}\" or \"/new{path}\"", quoteTOML(shorten(to))))
	case strings.ContainsFunc(to, func(r rune) bool { return r <= ' ' || r > 0x7e || r == '\\' }):
		v.report(key+".redirect", "has characters that no URL has: write them as %20 and the like")
	default:
		v.routePlaceholders(key+".redirect", to, route.Path, redirectWords)
	}
}

// routePlaceholders checks that what stands in braces is known.
func (v *validator) routePlaceholders(key, text, path string, words []string) {
	for segment := range strings.SplitSeq(path, "/") {
		if placeholder.MatchString(segment) {
			words = append(slices.Clip(words), segment)
		}
	}
	for rest := text; ; {
		open := strings.IndexAny(rest, "{}")
		if open < 0 {
			return
		}
		end := strings.IndexByte(rest[open:], '}')
		if rest[open] == '}' || end < 0 {
			v.report(key, fmt.Sprintf("%s has a brace without another: a placeholder is written {name}", quoteTOML(shorten(text))))
			return
		}
		if word := rest[open : open+end+1]; !slices.Contains(words, word) {
			known := "there is none here: name a segment of path, as in \"/users/{user}\""
			if len(words) > 0 {
				known = "there are " + strings.Join(words, ", ")
			}
			v.report(key, fmt.Sprintf("there is no placeholder %s; %s", shorten(word), known))
			return
		}
		rest = rest[open+end+1:]
	}
}

// maxAnswer is the largest fixed answer, in bytes.
const maxAnswer = 64 << 10

func (v *validator) validateAnswer(key string, route *Route) {
	a := &route.Answer
	if a.empty() {
		return
	}
	key += ".answer"
	switch {
	case a.Status == 0:
		v.report(key+".status", "is missing: write the status of the answer, such as 200")
	case a.Status < 200 || a.Status > 599:
		v.report(key+".status", fmt.Sprintf("must be 200 to 599, not %d", a.Status))
	case a.Body != "" && (a.Status == 204 || a.Status == 205 || a.Status == 304):
		v.report(key+".body", fmt.Sprintf("cannot be sent: an answer of status %d has none", a.Status))
	}
	if len(a.Body) > maxAnswer {
		v.report(key+".body", fmt.Sprintf("has %d bytes: write at most %d", len(a.Body), maxAnswer))
	}
	if !isFieldValue(a.ContentType) {
		v.report(key+".content_type", "has characters that no header field has")
	}
}

// validateRewriting checks what a route changes on the way.
func (v *validator) validateRewriting(key string, route *Route) {
	passes := route.Pool != "" || len(route.Split) > 0
	for _, change := range []struct {
		name  string
		given bool
	}{{"rewrite", route.Rewrite != ""}, {"aliases", len(route.Aliases) > 0}, {"request", !route.Request.empty()}} {
		if change.given && !passes && !v.isFaulty(key+".pool") {
			v.report(key+"."+change.name, "changes what a pool gets, and this route leads to none: leave it out")
		}
	}
	if to := route.Rewrite; to != "" {
		at := key + ".rewrite"
		v.requestPath(at, to)
		switch {
		case strings.ContainsAny(to, "?*"):
			v.report(at, fmt.Sprintf("%s has a query or a star: write a path alone; the query stays as it is", quoteTOML(shorten(to))))
		case len(to) > 1 && strings.HasSuffix(to, "/") && !route.Exact:
			v.report(at, fmt.Sprintf("%s ends in a slash, and what follows begins with one: write %s", quoteTOML(shorten(to)), quoteTOML("/"+shorten(strings.Trim(to, "/")))))
		default:
			v.routePlaceholders(at, to, route.Path, nil)
		}
	}
	v.validateFieldChanges(key+".request", &route.Request)
	v.validateFieldChanges(key+".response", &route.Response)
}

func (f *FieldChanges) empty() bool { return len(f.Remove)+len(f.Set)+len(f.Add) == 0 }

func (v *validator) validateFieldChanges(key string, f *FieldChanges) {
	for i, name := range f.Remove {
		v.validateChangedField(indexPath(key+".remove", i), name, "")
		for set := range f.Set {
			if strings.EqualFold(set, name) {
				v.report(indexPath(key+".remove", i), fmt.Sprintf("%s is set as well, which removes it first: leave it out here", name))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Set)) {
		value := f.Set[name]
		v.validateChangedField(joinPath(key+".set", name), name, value)
		for other := range f.Set {
			if other < name && strings.EqualFold(other, name) {
				v.report(joinPath(key+".set", name), fmt.Sprintf("is set as %s too: one of them is the last word", other))
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(f.Add)) {
		value := f.Add[name]
		v.validateChangedField(joinPath(key+".add", name), name, value)
	}
}

func (v *validator) validateChangedField(key, name, value string) {
	switch {
	case !isToken(name):
		v.report(key, fmt.Sprintf("%s is not the name of a header field: write it as in \"X-Tenant\"", quoteTOML(shorten(name))))
	case isOwnField(name):
		v.report(key, fmt.Sprintf("%s frames the message, concerns one connection, or is stoker's own: it cannot be changed", name))
	case !isFieldValue(value):
		v.report(key, "has characters that no header field has")
	}
}

// isToken reports whether s can be a method or the name of a field (RFC 9110 5.6.2).
func isToken(s string) bool {
	return s != "" && strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	}) < 0
}

// isFieldValue reports whether s can be a field's value: no control characters,
// and no white space around it.
func isFieldValue(s string) bool {
	return strings.TrimSpace(s) == s && strings.IndexFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0
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
