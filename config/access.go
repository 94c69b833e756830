package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Access says who may send requests.
type Access struct {
	// Allow are the networks that may; empty: all. Deny are those that may not,
	// also where they are in Allow.
	Allow []netip.Prefix `toml:"allow"`
	Deny  []netip.Prefix `toml:"deny"`
	// KeysFile has the names and hashes of the API keys that let a request in;
	// empty: none is needed. It is read again when it changes.
	KeysFile string `toml:"keys_file"`
	// PassKeys has a request's key passed on to the engine.
	PassKeys bool `toml:"pass_keys"`
}

// Limit bounds the requests of one client, or of all.
type Limit struct {
	// Name in answers, logs and metrics.
	Name string `toml:"name"`
	// Per says whose requests count together: "key", "address" or "all".
	Per string `toml:"per"`
	// Pool whose requests count; empty: those to all pools.
	Pool string `toml:"pool"`
	// Route by whose name they come; empty: by any, or none with a name.
	Route string `toml:"route"`
	// Window is the time for Requests and BodyKiB.
	Window Duration `toml:"window"`
	// Requests that may come in each Window, evenly spread but for Burst of them,
	// which may come at once; 0: any number, and as many as Requests.
	Requests int `toml:"requests"`
	Burst    int `toml:"burst"`
	// InFlight is how many requests may be under way at a time; 0: any number.
	InFlight int `toml:"in_flight"`
	// BodyKiB of request bodies that may come in each Window; 0: any number.
	BodyKiB int `toml:"body_kib"`
}

// CORS says which web pages may use the service from a browser.
type CORS struct {
	// Origins of these pages; "*": all; empty: engines say it.
	Origins []string `toml:"origins"`
	Methods []string `toml:"methods"`
	// Headers that pages may set; "*": those that they ask for.
	Headers []string `toml:"headers"`
	// Expose are fields of answers that pages may read.
	Expose []string `toml:"expose"`
	// MaxAge is how long browsers may remember what they were told.
	MaxAge Duration `toml:"max_age"`
	// Credentials lets pages send cookies and other credentials of the browser's.
	Credentials bool `toml:"credentials"`
}

// DefaultLimit is a limit of nothing, by the minute.
func DefaultLimit() Limit { return Limit{Window: Duration(time.Minute)} }

func defaultCORS() CORS {
	return CORS{
		Methods: []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"},
		Headers: []string{"*"},
		Expose:  []string{"X-Request-Id", "Retry-After", "RateLimit", "RateLimit-Policy"},
		MaxAge:  Duration(10 * time.Minute),
	}
}

// maxLimits is how many limits there may be: each request is held against all of them.
const maxLimits = 32

func (v *validator) validateAccess() {
	a := v.config.Access
	for i, denied := range a.Deny {
		if j := slices.Index(a.Allow, denied); j >= 0 && denied.IsValid() {
			v.report(indexPath("access.deny", i), fmt.Sprintf("%q is allowed by %s: take one of them out", denied, v.origin.at(indexPath("access.allow", j))))
		}
	}
	if a.PassKeys && a.KeysFile == "" {
		v.report("access.pass_keys", "means nothing without access.keys_file: without one, what clients send is passed on anyway")
	}
	v.validateLimits()
	v.validateCORS()
}

func (v *validator) validateLimits() {
	if len(v.config.Limits) > maxLimits {
		v.report("limits", fmt.Sprintf("there are %d: at most %d may be, since each request is held against all", len(v.config.Limits), maxLimits))
	}
	named := map[string]int{}
	for i, l := range v.config.Limits {
		key := indexPath("limits", i)
		before, twice := named[l.Name]
		switch {
		case l.Name == "":
			v.report(key+".name", "is missing: answers, log and metrics call the limit by it")
		case !isLimitName(l.Name):
			v.report(key+".name", fmt.Sprintf("%s must be up to 64 of a-z, 0-9, _ and -", quoteTOML(shorten(l.Name))))
		case twice:
			v.report(key+".name", fmt.Sprintf("%q is the name of %s too: each has its own", l.Name, v.origin.at(indexPath("limits", before))))
		default:
			named[l.Name] = i
		}
		v.validateLimit(key, l)
	}
}

func (v *validator) validateLimit(key string, l Limit) {
	if l.Per == "" {
		v.report(key+".per", `is missing: say whose requests count together, "key", "address" or "all"`)
	} else {
		v.oneOf(key+".per", l.Per, "key", "address", "all")
	}
	if l.Per == "key" && v.config.Access.KeysFile == "" {
		v.report(key+".per", `"key" needs access.keys_file: without it no request has a key; "address" goes by the client's address`)
	}
	if l.Pool != "" {
		v.knownPool(key+".pool", l.Pool)
	}
	if l.Route != "" && !slices.ContainsFunc(v.config.Routes, func(r Route) bool { return r.Name == l.Route }) {
		v.report(key+".route", fmt.Sprintf("there is no route with name = %s", quoteTOML(shorten(l.Route))))
	}
	v.duration(key+".window", l.Window, Duration(time.Second))
	v.number(key+".requests", l.Requests, 0, 1<<30)
	v.number(key+".burst", l.Burst, 0, 1<<30)
	v.number(key+".in_flight", l.InFlight, 0, 1<<30)
	v.number(key+".body_kib", l.BodyKiB, 0, 1<<30)
	switch {
	case v.isFaulty(key+".requests") || v.isFaulty(key+".in_flight") || v.isFaulty(key+".body_kib"):
	case l.Requests == 0 && l.InFlight == 0 && l.BodyKiB == 0:
		v.report(key, "limits nothing: write requests, in_flight or body_kib")
	case l.Burst > 0 && l.Requests == 0:
		v.report(key+".burst", "means nothing without requests: write how many may come in each window")
	}
}

func isLimitName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'a' || c > 'z') && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

func (v *validator) validateCORS() {
	c := v.config.CORS
	if len(c.Origins) == 0 {
		for _, key := range []string{"cors.methods", "cors.headers", "cors.expose", "cors.max_age", "cors.credentials"} {
			if v.written(key) {
				v.report(key, "means nothing without cors.origins: name the origins of the pages that may use the service, such as \"https://chat.example.com\"")
			}
		}
		return
	}
	for i, origin := range c.Origins {
		key := indexPath("cors.origins", i)
		if err := checkOrigin(origin); err != nil {
			v.report(key, err.Error())
		} else if origin == "*" && c.Credentials {
			v.report(key, `"*" never goes together with credentials = true: every page there is could act for its visitors; name the origins`)
		}
	}
	v.tokens("cors.methods", c.Methods, "a method, such as \"POST\"")
	v.tokens("cors.headers", c.Headers, "the name of a header field, such as \"Authorization\"")
	v.tokens("cors.expose", c.Expose, "the name of a header field, such as \"X-Request-Id\"")
	if len(c.Methods) == 0 {
		v.report("cors.methods", "must name at least one method, such as \"POST\"")
	}
	v.duration("cors.max_age", c.MaxAge, 0)
}

// tokens checks words that stand in header fields.
func (v *validator) tokens(key string, words []string, what string) {
	for i, word := range words {
		if word == "" || strings.ContainsFunc(word, func(r rune) bool {
			return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
		}) {
			v.report(indexPath(key, i), fmt.Sprintf("%s is not %s", quoteTOML(shorten(word)), what))
		}
	}
}

// checkOrigin says what is wrong with an origin: browsers send exactly scheme,
// host and port, and anything else would never match.
func checkOrigin(origin string) error {
	if origin == "*" {
		return nil
	}
	example := `write it as browsers send it, such as "https://chat.example.com" or "http://localhost:3000"`
	u, err := url.Parse(strings.Replace(origin, "://*.", "://any.", 1))
	switch {
	case err != nil || u.Scheme == "" || u.Host == "":
		return fmt.Errorf("%s is not an origin: %s", quoteTOML(shorten(origin)), example)
	case strings.Contains(u.Host, "*"):
		return fmt.Errorf(`%s: a star stands for the labels before a domain ("https://*.example.com"), or alone for all origins`, quoteTOML(shorten(origin)))
	case origin != strings.ToLower(origin):
		return fmt.Errorf("%s: browsers send origins in lower case: write %s", quoteTOML(shorten(origin)), quoteTOML(shorten(strings.ToLower(origin))))
	case u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return fmt.Errorf("%s has more than scheme, host and port: write %s", quoteTOML(shorten(origin)), quoteTOML(shorten(u.Scheme+"://"+u.Host)))
	case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		return fmt.Errorf("%s: browsers leave the usual port out: write %s", quoteTOML(shorten(origin)), quoteTOML(shorten(u.Scheme+"://"+u.Hostname())))
	}
	return nil
}

// validateAccessHost checks that there is a file of keys; its lines are for who reads it.
func (v *validator) validateAccessHost() {
	path := v.config.Access.KeysFile
	if path == "" {
		return
	}
	switch info, err := v.host.stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		v.report("access.keys_file", fmt.Sprintf("the file %s does not exist: stoker key add NAME --file %s makes it", path, path))
	case err == nil && info.IsDir():
		v.report("access.keys_file", fmt.Sprintf("%s is a directory: name a file in it", path))
	}
}
