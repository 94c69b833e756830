package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// ProxyProtocol says who connects for others, and names them by a PROXY header.
type ProxyProtocol struct {
	// From are the networks of those proxies.
	From []netip.Prefix `toml:"from"`
	// Listen are the listeners, of Config.Doors, that are for proxies alone; none:
	// those of From may connect to any that is no unix socket, beside clients.
	Listen []string `toml:"listen"`
}

// Enabled says whether any connection begins with a header.
func (p *ProxyProtocol) Enabled() bool { return len(p.From)+len(p.Listen) > 0 }

// Speaks says whether connections to that listener may begin with a header, and
// whether all of them must.
func (p *ProxyProtocol) Speaks(address string) (some, all bool) {
	if len(p.Listen) > 0 {
		all = slices.Contains(p.Listen, address)
		return all, all
	}
	return len(p.From) > 0 && !strings.HasPrefix(address, "unix:"), false
}

func (v *validator) validateProxyProtocol() {
	c := v.config
	p := &c.ProxyProtocol
	tcp := false
	for i, address := range p.Listen {
		switch key := indexPath("proxy_protocol.listen", i); {
		case !slices.Contains(c.Doors(), address):
			v.report(key, fmt.Sprintf("%s is no address of listen or listen_tls: write one of those, as it is written there", quoteTOML(shorten(address))))
		case slices.Contains(p.Listen[:i], address):
			v.report(key, fmt.Sprintf("%s is written twice", quoteTOML(shorten(address))))
		}
		tcp = tcp || !strings.HasPrefix(address, "unix:")
	}
	if tcp && len(p.From) == 0 {
		v.report("proxy_protocol.from", `is missing: name the networks of the proxies, whose word is believed, as in ["10.0.0.5/32"]`)
	}
}
