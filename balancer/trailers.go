package balancer

import (
	"slices"

	"stoker/balancer/tracing"
	"stoker/internal/http1"
)

// trailers are the request's, once its body has been read, without those that
// an engine which merges trailers into the head would take for what we say
// there: whose the request is, which one it is, and what the route has set or
// removed. A client could else say after its body what we have just taken out
// before it. It may be called again, and by who sends the body.
func (a *attempt) trailers() http1.Fields {
	return slices.DeleteFunc(a.trailersFrom(), func(f http1.Field) bool {
		return f.Name == "" || isOurs(f.Name) || a.route != nil && a.route.request.concerns(f.Name) // nameless: deleted before
	})
}

// isOurs says whether a field of a request's head is ours to say, whoever sends it.
func isOurs(name string) bool {
	return isOrigin(name) || isName(name, requestIDField) || isName(name, "Proxy") || shadows(name) ||
		isName(name, tracing.ParentField) || isName(name, tracing.StateField) ||
		isName(name, timeoutField) || isName(name, grpcTimeoutField)
}

// concerns says whether the changes are about fields of this name.
func (f *fieldChanges) concerns(name string) bool {
	return slices.ContainsFunc(f.remove, func(n string) bool { return isName(n, name) }) ||
		slices.ContainsFunc(f.append, func(g http1.Field) bool { return isName(g.Name, name) })
}
