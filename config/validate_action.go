package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

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
