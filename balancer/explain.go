package balancer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"stoker/internal/http1"
)

// Question is a request to be explained. No engine hears of it.
type Question struct {
	// Request is its head. Fields are those that routes see, as the client sends them.
	Request http1.Request
	// Model that its body names; nil: it has no body.
	Model *string
}

// Explanation says what would become of a request, and why.
type Explanation struct {
	// Routes are those that were asked, in order; the last one matches, or none.
	Routes []Considered `json:"routes"`
	// Name of the route that matches, or its number: "#1".
	Route string `json:"route,omitempty"`
	// Pools that requests like this one go to, by their shares.
	Pools []Portion `json:"pools,omitempty"`
	// Target and Model that the engine gets, where these are others than the client's.
	Target string `json:"target,omitempty"`
	Model  string `json:"model,omitempty"`
	// Status, Location, Code and Message of an answer of stoker's own.
	Status   int    `json:"status,omitempty"`
	Location string `json:"location,omitempty"`
	Code     string `json:"code,omitempty"`
	Message  string `json:"message,omitempty"`
	// ListsModelsOf are the pools whose models are merged.
	ListsModelsOf []string `json:"lists_models_of,omitempty"`
}

// Considered is a route that was asked.
type Considered struct {
	Number  int    `json:"number"` // from 1
	Name    string `json:"name,omitempty"`
	Matches bool   `json:"matches"`
	// Why it does not match.
	Why string `json:"why,omitempty"`
}

// Portion is a pool's share, in percent.
type Portion struct {
	Pool    string  `json:"pool"`
	Percent float64 `json:"percent"`
}

// given is the model of a question.
type given struct{ name *string }

func (g given) model() (string, error) {
	if g.name == nil {
		return "", errNoBody
	}
	return *g.name, nil
}

// Explain says what Serve would do by the present routes.
func (b *Balancer) Explain(question *Question) Explanation {
	now := b.table.Load()
	e := Explanation{Routes: []Considered{}}
	if err := check(&question.Request); err != nil {
		e.refuse(err)
		return e
	}
	q := ask(&question.Request, given{question.Model})
	for i, r := range now.routes {
		c := Considered{Number: i + 1, Name: r.name}
		if why, err := r.match.differs(&q); why != matched {
			c.Why = r.match.explain(why, err, &q)
			e.Routes = append(e.Routes, c)
			continue
		}
		c.Matches = true
		e.Routes = append(e.Routes, c)
		e.follow(r, question)
		return e
	}
	_, err := now.routes.find(&q)
	e.refuse(err)
	return e
}

// follow says what becomes of a request that r matches.
func (e *Explanation) follow(r *route, question *Question) {
	e.Route = r.title
	if r.to.one != nil {
		e.Pools = []Portion{{r.to.one.pool.Name(), 100}}
	}
	var before uint64
	for _, s := range r.to.shares {
		e.Pools = append(e.Pools, Portion{s.lane.pool.Name(), 100 * float64(s.end-before) / float64(r.to.total)})
		before = s.end
	}
	if r.rewrite != nil {
		e.Target = r.rewritten(question.Request.Target)
	}
	if question.Model != nil {
		e.Model = r.aliases[*question.Model]
	}
	switch own := r.own.(type) {
	case *redirect:
		e.Status, e.Location = own.status, r.location(own.to, &question.Request)
	case *fixed:
		e.Status = own.status
	case *modelList:
		behind, _ := own.behind(hostOnly(question.Request.Authority))
		for _, l := range behind.pools() {
			e.ListsModelsOf = append(e.ListsModelsOf, l.pool.Name())
		}
	}
}

// refuse says what a client is told for whom there is no route.
func (e *Explanation) refuse(err error) {
	if request, ok := errors.AsType[*requestError](err); ok {
		e.Status, e.Code, e.Message = request.status, request.code, request.text
	}
}

// explain says in words which condition does not hold.
func (c *conditions) explain(why condition, err error, q *asked) string {
	switch why {
	case byHost:
		wanted := string(c.host)
		if strings.HasPrefix(wanted, ".") {
			wanted = "*" + wanted
		}
		return fmt.Sprintf("host is %q, not %q", q.host, wanted)
	case byPath:
		if c.path.exact {
			return fmt.Sprintf("path is %q, not %q exactly", q.path, c.path.text)
		}
		return fmt.Sprintf("path is %q, not %q or below it", q.path, c.path.text)
	case byMethod:
		return fmt.Sprintf("method is %s, not %s", q.method, strings.Join(c.methods, " or "))
	case byHeader:
		return c.explainField(q.fields)
	case byModel:
		if err != nil {
			return "it is about the model that a body names, and " + err.Error()
		}
		name, _ := q.model.model() // which has just not failed
		names := make([]string, len(c.models))
		for i := range c.models {
			names[i] = strconv.Quote(c.models[i].String())
		}
		return fmt.Sprintf("model is %q, not %s", name, strings.Join(names, " or "))
	case matched:
	}
	return ""
}

func (c *conditions) explainField(fields http1.Fields) string {
	for i := range c.fields {
		wanted := &c.fields[i]
		switch {
		case wanted.in(fields):
		case !fields.Has(wanted.name):
			return fmt.Sprintf("there is no field %s", wanted.name)
		default:
			return fmt.Sprintf("field %s is not %q", wanted.name, wanted.value)
		}
	}
	return ""
}
