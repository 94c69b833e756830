package balancer

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"stoker/config"
	"stoker/internal/http1"
)

// route is what a configuration says of some requests: which ones, and what
// becomes of them. It never changes, but for what it counts.
type route struct {
	name  string // for logs; empty where there is none
	title string // for people
	match conditions
	// Exactly one of these is set.
	to  destinations
	own ownAnswer
	// maxBody is the largest body, in bytes; 0: the table's.
	maxBody int64
	// What is changed on the way.
	aliases  map[string]string
	rewrite  *template
	request  fieldChanges
	response fieldChanges
}

// pattern is what the path has matched; empty: anything.
func (r *route) pattern() string {
	if r == nil {
		return ""
	}
	return r.match.path.text
}

// conditions that a request must fulfil, all of them. Zero values: any.
type conditions struct {
	host    hostPattern
	path    pathPattern
	methods []string
	fields  []wantedField
	models  []wordPattern
}

// condition names one of them; matched: none is left open.
type condition int

const (
	matched condition = iota
	byHost
	byPath
	byMethod
	byHeader
	byModel
)

// asked is a request as routes see it.
type asked struct {
	method, host, path string
	fields             http1.Fields
	// model is asked only by routes that need it: it may have to wait for the body.
	model modelSource
}

// modelSource says which model a request names.
type modelSource interface {
	// model is the name, or why there is none: see modelError. Any other error
	// ends the request.
	model() (string, error)
}

func ask(r *http1.Request, m modelSource) asked {
	path, _, _ := strings.Cut(r.Target, "?")
	return asked{method: r.Method, host: hostOnly(r.Authority), path: path, fields: r.Fields, model: m}
}

// differs returns the first condition that q does not fulfil. The model comes
// last: only who fulfils all else is worth reading a body for. Paths are
// compared as they were sent: routing is no access control, and only the engine
// knows what it makes of "/a/../b" or "%61".
func (c *conditions) differs(q *asked) (condition, error) {
	switch {
	case !c.host.matches(q.host):
		return byHost, nil
	case !c.path.matches(q.path):
		return byPath, nil
	case len(c.methods) > 0 && !slices.Contains(c.methods, q.method):
		return byMethod, nil
	}
	for i := range c.fields {
		if !c.fields[i].in(q.fields) {
			return byHeader, nil
		}
	}
	if len(c.models) == 0 {
		return matched, nil
	}
	name, err := q.model.model()
	if err != nil {
		return byModel, err
	}
	for i := range c.models {
		if c.models[i].matches(name) {
			return matched, nil
		}
	}
	return byModel, nil
}

// routes are asked in order.
type routes []*route

// find returns the first route that matches; otherwise a *requestError, or what
// has come between.
func (t routes) find(q *asked) (*route, error) {
	var lacking error // a model, at a route for which everything else was right
	for _, r := range t {
		why, err := r.match.differs(q)
		if why == matched {
			return r, nil
		}
		if why != byModel {
			continue
		}
		var none modelError
		if err != nil && !errors.As(err, &none) {
			return nil, err
		}
		lacking = none
		if err == nil {
			lacking = errOtherModel
		}
	}
	switch {
	case lacking == nil, errors.Is(lacking, errNoBody):
		return nil, errNoRoute
	case errors.Is(lacking, errOtherModel):
		name, _ := q.model.model()
		return nil, unknownModel(name)
	}
	return nil, &requestError{http.StatusBadRequest, "model_required", "the request's body must name a model: " + lacking.Error()}
}

// hostOnly is an authority without its port, and without the dot of the root.
func hostOnly(authority string) string {
	host := authority
	if colon := strings.LastIndexByte(host, ':'); colon >= 0 && !strings.Contains(host[colon:], "]") {
		host = host[:colon]
	}
	return strings.TrimSuffix(host, ".")
}

// hostPattern is a host's name in lower case; one that begins with a dot is any
// name that ends so.
type hostPattern string

func newHostPattern(host string) hostPattern {
	return hostPattern(strings.TrimPrefix(strings.ToLower(hostOnly(host)), "*"))
}

func (p hostPattern) matches(host string) bool {
	switch {
	case p == "":
		return true
	case p[0] == '.':
		if len(host) <= len(p) {
			return false
		}
		host = host[len(host)-len(p):]
	}
	return isName(string(p), host)
}

// pathPattern is the beginning of a path, by whole segments.
type pathPattern struct {
	text     string    // without a slash at the end
	segments []segment // behind the first slash, where one of them is open; else text alone counts
	exact    bool
}

// segment of a path; open: any, and maybe called something.
type segment struct {
	text string // or its name in braces
	open bool
}

func newPathPattern(path string, exact bool) pathPattern {
	p := pathPattern{text: path, exact: exact && path != ""}
	if !exact {
		p.text = strings.TrimRight(path, "/")
	}
	if !strings.ContainsAny(path, "*{") {
		return p
	}
	for _, text := range strings.Split(p.text, "/")[1:] {
		p.segments = append(p.segments, segment{text: text, open: text == "*" || strings.HasPrefix(text, "{")})
	}
	return p
}

func (p *pathPattern) matches(path string) bool { return p.length(path) >= 0 }

// length is how much of path is matched, or -1: not at all.
func (p *pathPattern) length(path string) int {
	end := len(p.text)
	if p.segments != nil {
		end = p.walk(path, nil)
	} else if !strings.HasPrefix(path, p.text) {
		end = -1
	}
	switch {
	case end < 0, p.exact && end != len(path):
		return -1
	case end == len(path), path[end] == '/', p.text == "":
		return end
	}
	return -1
}

// walk compares segment by segment and returns where the last ends, or -1. An
// open one is not empty.
func (p *pathPattern) walk(path string, visit func(s segment, text string)) int {
	at := 0
	for _, s := range p.segments {
		if at == len(path) || path[at] != '/' {
			return -1
		}
		at++
		length := strings.IndexByte(path[at:], '/')
		if length < 0 {
			length = len(path) - at
		}
		if text := path[at : at+length]; s.open && text == "" || !s.open && text != s.text {
			return -1
		} else if visit != nil {
			visit(s, text)
		}
		at += length
	}
	return at
}

// wantedField is one that must be there.
type wantedField struct {
	name  string
	value wordPattern
}

func (w *wantedField) in(fields http1.Fields) bool {
	for i := range fields {
		if isName(fields[i].Name, w.name) && w.value.matches(fields[i].Value) {
			return true
		}
	}
	return false
}

// wordPattern is a word, or the beginning of one.
type wordPattern struct {
	text string
	open bool
}

func newWordPattern(s string) wordPattern {
	text, open := strings.CutSuffix(s, "*")
	return wordPattern{text, open}
}

func (p wordPattern) matches(s string) bool {
	return s == p.text || p.open && strings.HasPrefix(s, p.text)
}

func (p wordPattern) String() string {
	if p.open {
		return p.text + "*"
	}
	return p.text
}

// newRoutes links routes to pools.
func newRoutes(o Options, wardOf func(pool string) *ward) (routes, error) {
	if len(o.Pools) == 0 {
		return nil, errors.New("no pool to route to")
	}
	lanes := make(map[string]*lane, len(o.Pools))
	for _, p := range o.Pools {
		rules, given := o.Rules[p.Name()]
		if !given {
			rules = DefaultRules()
		}
		lanes[p.Name()] = newLane(p, rules)
		if rules.OnDeath != "" {
			lanes[p.Name()].ward = wardOf(p.Name())
		}
	}
	if len(o.Routes) == 0 {
		if len(o.Pools) > 1 {
			return nil, fmt.Errorf("%d pools and no route: nobody says which pool a request is for", len(o.Pools))
		}
		return routes{{to: toOne(lanes[o.Pools[0].Name()])}}, nil
	}
	all := make(routes, 0, len(o.Routes))
	for i := range o.Routes {
		r, err := newRoute(&o.Routes[i], i, lanes)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	all.linkModelLists()
	return all, nil
}

func newRoute(c *config.Route, index int, lanes map[string]*lane) (*route, error) {
	r := &route{
		name: c.Name, title: c.Title(index), match: newConditions(c), aliases: c.Aliases, maxBody: int64(c.BodyMiB) << 20,
		rewrite: newTemplate(c.Rewrite), request: newFieldChanges(&c.Request), response: newFieldChanges(&c.Response),
	}
	for _, name := range c.Destinations() {
		if lanes[name] == nil {
			return nil, fmt.Errorf("route %d leads to pool %q, which does not exist", index+1, name)
		}
	}
	switch {
	case c.Pool != "":
		r.to = toOne(lanes[c.Pool])
	case len(c.Split) > 0:
		r.to = split(c.Split, lanes)
	case c.Redirect != "":
		r.own = newRedirect(c)
	case c.ListModels:
		r.own = new(modelList)
	default:
		r.own = newFixed(&c.Answer)
	}
	return r, nil
}

func newConditions(c *config.Route) conditions {
	m := conditions{host: newHostPattern(c.Host), path: newPathPattern(c.Path, c.Exact), methods: c.Methods}
	if slices.Contains(c.Methods, http.MethodGet) && !slices.Contains(c.Methods, http.MethodHead) {
		m.methods = append(slices.Clone(c.Methods), http.MethodHead)
	}
	for _, name := range sortedKeys(c.Headers) {
		m.fields = append(m.fields, wantedField{name, newWordPattern(c.Headers[name])})
	}
	for _, name := range c.Models {
		m.models = append(m.models, newWordPattern(name))
	}
	for _, alias := range sortedKeys(c.Aliases) {
		m.models = append(m.models, wordPattern{text: alias})
	}
	return m
}
