package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// validateRoutes sees that each route names a pool, that none is shadowed by
// an earlier one, and that no pool is left without a way to it.
func (v *validator) validateRoutes() {
	for i, route := range v.config.Routes {
		v.validateRoute(indexPath("routes", i), route)
		for j := range i {
			if v.config.Routes[j].covers(route) {
				v.report(indexPath("routes", i), fmt.Sprintf("is never reached: %s matches all that it would and comes first; move it before that one", v.origin.at(indexPath("routes", j))))
			}
		}
	}
	v.validateReach()
}

func (v *validator) validateRoute(key string, route Route) {
	if host := route.Host; host != "" {
		v.validateRouteHost(key+".host", host)
	}
	if path := route.Path; path != "" {
		v.requestPath(key+".path", path)
		switch trimmed := strings.TrimRight(path, "/"); {
		case strings.ContainsAny(path, "*?"):
			v.report(key+".path", fmt.Sprintf("%s has a wildcard or query: a path matches itself and all below it, so write its beginning alone", quoteTOML(shorten(path))))
		case len(path) > 1 && trimmed != path:
			v.report(key+".path", fmt.Sprintf("%s ends in a slash: write %s, which matches all below it too", quoteTOML(shorten(path)), quoteTOML(shorten("/"+strings.TrimLeft(trimmed, "/")))))
		}
	}
	if route.Pool == "" {
		v.report(key+".pool", "is missing: name the pool that the requests go to")
		return
	}
	names := v.poolNames()
	if _, ok := names[route.Pool]; ok || v.anyPoolNameFaulty() {
		return
	}
	message := fmt.Sprintf("there is no pool %s", quoteTOML(shorten(route.Pool)))
	known := make([]string, 0, len(names))
	for _, p := range v.config.Pools {
		known = append(known, p.Name)
	}
	if near := nearest(route.Pool, known); near != "" {
		message += fmt.Sprintf("; did you mean %q?", near)
	} else if len(known) > 0 {
		message += "; there are " + shorten(strings.Join(known, ", "))
	}
	v.report(key+".pool", message)
}

func (v *validator) validateRouteHost(key, host string) {
	if _, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil {
		return
	}
	switch {
	case strings.Contains(host, "*"):
		v.report(key, fmt.Sprintf("%s: a host is matched exactly; write one route for each, or leave host out to match any", quoteTOML(shorten(host))))
	case strings.Contains(host, ":"):
		name, _, _ := strings.Cut(host, ":")
		v.report(key, fmt.Sprintf("%s has a port, which is not compared: write %s", quoteTOML(shorten(host)), quoteTOML(shorten(name))))
	default:
		if err := checkHostName(host); err != nil {
			v.report(key, err.Error())
		}
	}
}

// covers reports whether every request that other matches is matched by r.
func (r Route) covers(other Route) bool {
	if r.Host != "" && r.Host != other.Host {
		return false
	}
	own := strings.TrimSuffix(r.Path, "/")
	return own == "" || other.Path == own || strings.HasPrefix(other.Path, own+"/")
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
	for i, route := range v.config.Routes {
		if v.isFaulty(indexPath("routes", i) + ".pool") {
			return
		}
		routed[route.Pool] = true
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
