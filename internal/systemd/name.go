package systemd

import (
	"crypto/sha256"
	"fmt"
	"strings"
)

// storedPrefix marks the names of stored sockets, among whatever names socket
// units have.
const storedPrefix = "stoker-listen-"

// longestName is the manager's limit for a name, in bytes.
const longestName = 255

// StoredName is the name to store the socket of a configured address under:
// readable ("systemd-analyze fdstore" shows it), the same in every life of the
// service, and another for every address.
func StoredName(address string) string {
	var name strings.Builder
	name.WriteString(storedPrefix)
	for _, b := range []byte(address) {
		// The colon divides names; control and other bytes are not allowed.
		if b <= ' ' || b > '~' || b == ':' || b == '%' {
			fmt.Fprintf(&name, "%%%02X", b)
			continue
		}
		name.WriteByte(b)
	}
	if name.Len() <= longestName {
		return name.String()
	}
	sum := fmt.Sprintf("-%x", sha256.Sum256([]byte(address)))[:17]
	return name.String()[:longestName-len(sum)] + sum
}
