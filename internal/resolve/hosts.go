package resolve

import (
	"bufio"
	"cmp"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// inHosts finds a name in the hosts file; with a Server of our own that is not asked.
func (r *Resolver) inHosts(host string) []netip.Addr {
	if r.Server != "" {
		return nil
	}
	file, err := os.Open(cmp.Or(r.Hosts, "/etc/hosts"))
	if err != nil {
		return nil // many containers have none
	}
	defer func() { _ = file.Close() }()
	host = strings.TrimSuffix(host, ".")
	var ips []netip.Addr
	for lines := bufio.NewScanner(file); lines.Scan(); {
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.Fields(text)
		if len(words) < 2 || !slices.ContainsFunc(words[1:], func(name string) bool { return strings.EqualFold(name, host) }) {
			continue
		}
		if ip, err := netip.ParseAddr(words[0]); err == nil {
			ips = append(ips, ip.Unmap())
		}
	}
	slices.SortFunc(ips, netip.Addr.Compare)
	return slices.Compact(ips)
}
