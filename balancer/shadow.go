package balancer

import "strings"

// shadowed are fields that we, or the connections on both sides, answer for.
var shadowed = []string{
	"Authorization", "Connection", "Content-Length", "Expect", "Forwarded", "Host", "Keep-Alive", "Proxy",
	"Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade", "X-Real-IP", "X-Request-Id",
}

// shadows says whether a field is, to a CGI or WSGI program, one that we answer
// for: those make the same variable of X_Forwarded_For and X-Forwarded-For, and
// some let the client's win. Other names with underscores pass.
func shadows(name string) bool {
	if strings.IndexByte(name, '_') < 0 {
		return false
	}
	name = strings.ReplaceAll(name, "_", "-")
	if isOrigin(name) {
		return true
	}
	for _, s := range shadowed {
		if isName(name, s) {
			return true
		}
	}
	return false
}
