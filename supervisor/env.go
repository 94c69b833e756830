package supervisor

import (
	"maps"
	"slices"
	"strings"
)

// Variables that speak to this master alone. An engine that inherited one would
// tell systemd that the service is ready, take over a listener that it does
// not have, or believe that it is a master in an upgrade.
var (
	privateVariables = []string{
		"NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID", "FDSTORE", "MAINPID",
		// An engine is no unit, and its output does not go to the journal itself.
		"INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID",
		// A stoker below a stoker: the outer engine's values are not the inner's.
		"STOKER_SOCKET", "STOKER_PORT", "STOKER_INDEX", "STOKER_NAME", "STOKER_GPUS", "STOKER_ADDRESS", "STOKER_NONCE", "STOKER_INIT",
	}
	privatePrefixes = []string{"WATCHDOG_", "TABLEFLIP_"}
)

// private reports whether a variable is not an engine's business.
func private(name string) bool {
	return slices.Contains(privateVariables, name) ||
		slices.ContainsFunc(privatePrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// environment is base without what is private, with the layers over it, later
// ones winning. The result is sorted, each variable once.
func environment(base []string, layers ...map[string]string) []string {
	values := make(map[string]string, len(base))
	for _, entry := range base {
		name, value, ok := strings.Cut(entry, "=")
		if ok && name != "" && !private(name) {
			values[name] = value
		}
	}
	for _, layer := range layers {
		maps.Copy(values, layer)
	}
	env := make([]string, 0, len(values))
	for _, name := range slices.Sorted(maps.Keys(values)) {
		env = append(env, name+"="+values[name])
	}
	return env
}
