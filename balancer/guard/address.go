package guard

import (
	"net/http"
	"net/netip"

	"stoker/exchange"
)

var errAddress = &Refusal{
	Status: http.StatusForbidden, Outcome: exchange.OutcomeForbidden, Kind: "forbidden", Code: "address_not_allowed",
	Text: "requests from your address are not allowed here",
}

// admits says whether a client of that address may ask at all.
func (g *Guard) admits(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if contains(g.deny, a) {
		return false
	}
	return len(g.allow) == 0 || contains(g.allow, a)
}

func contains(networks []netip.Prefix, a netip.Addr) bool {
	for _, n := range networks {
		if n.Contains(a) {
			return true
		}
	}
	return false
}

// subnet is what is counted as one client: an address, in IPv6 its /64, of
// which every home has all addresses.
func subnet(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		return a
	}
	p, _ := a.Prefix(64) // of IPv6 there always is one
	return p.Addr()
}
