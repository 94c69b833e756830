package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// hardLimitMargin is what ending takes beside the waits that are configured:
// killing trees, reading exits, closing.
const hardLimitMargin = Duration(10 * time.Second)

// validator collects everything that is wrong with one configuration.
type validator struct {
	config   *Config
	origin   origin
	problems Problems
	// faulty holds the paths that were reported: one mistake is told once, not
	// again by every rule that looks at the same key.
	faulty map[string]bool
	// unread holds those whose value could not be read, so that no rule may
	// judge them or anything inside them.
	unread map[string]bool
	// host is nil where the text alone counts.
	host *host
	// stateDirFlag: the command line says the state directory.
	stateDirFlag bool
}

// report places a problem at a key, unless that key is known to be faulty or
// could not be read.
func (v *validator) report(path, message string) {
	if v.isFaulty(path) {
		return
	}
	v.faulty[path] = true
	v.problems = append(v.problems, v.origin.problem(path, message))
}

// isFaulty reports whether the key was reported, or could not be read.
func (v *validator) isFaulty(path string) bool {
	if v.faulty[path] {
		return true
	}
	for ; path != ""; path = parentPath(path) {
		if v.unread[path] {
			return true
		}
	}
	return false
}

// written reports whether the file or a flag sets the key.
func (v *validator) written(path string) bool {
	_, inFile := v.origin.lines[path]
	_, byFlag := v.origin.flags[path]
	return inFile || byFlag
}

// stateDirSaid reports whether the file or the command line says the state
// directory, which follows from the run directory otherwise.
func (v *validator) stateDirSaid() bool {
	_, inFile := v.origin.lines["state_dir"]
	return inFile || v.stateDirFlag
}

func newValidator(c *Config, o origin, h *host) *validator {
	return &validator{config: c, origin: o, host: h, faulty: map[string]bool{}, unread: map[string]bool{}}
}

func (v *validator) validate() {
	v.validateDoors()
	v.validateTLS()
	v.validateProxyProtocol()
	v.validateRunDir()
	v.validateLogs()
	v.validateReadinessPath()
	v.duration("orphan_timeout", v.config.OrphanTimeout, 0)
	v.duration("upgrade_timeout", v.config.UpgradeTimeout, Duration(100*time.Millisecond))
	v.validateClients()
	v.validateAccess()
	v.validateErrorPages()
	v.validateCompression()
	v.validateTracing()
	v.validateShutdown()
	v.validateRecorder()
	v.number("crashes.keep", v.config.Crashes.Keep, 0, 10000)
	v.number("crashes.size_mib", v.config.Crashes.SizeMiB, 1, 1<<20)
	v.duration("quarantine.ttl", v.config.Quarantine.TTL, Duration(time.Second))
	v.number("quarantine.body_kib", v.config.Quarantine.BodyKiB, 1, 1<<20)
	v.number("quarantine.memory_mib", v.config.Quarantine.MemoryMiB, 1, 1<<20)
	v.validateResolver()
	v.validatePools()
	v.validateRoutes()
	if v.host != nil {
		v.validateHost()
	}
}

// validateDoors checks the addresses that we listen on ourselves.
func (v *validator) validateDoors() {
	c := v.config
	if len(c.Doors()) == 0 {
		v.report("listen", `must name at least one address: write ["127.0.0.1:8000"]`)
	}
	for i, address := range c.Doors() {
		path := v.doorPath(i)
		if err := checkAddress(address, listening); err != nil {
			v.report(path, err.Error())
			continue
		}
		if address == "unix:"+c.AdminSocket() {
			v.report(path, "is the socket of the admin listener: choose another path")
		}
		for j := range i {
			if collide(c.Doors()[j], address) {
				v.report(path, fmt.Sprintf("%q takes the same address as %s: leave one of them out", address, v.origin.at(v.doorPath(j))))
			}
		}
	}
	v.validateAdmin()
}

// doorPath is the key of one of Config.Doors.
func (v *validator) doorPath(i int) string {
	if plain := len(v.config.Listen); i >= plain {
		return indexPath("listen_tls", i-plain)
	}
	return indexPath("listen", i)
}

func (v *validator) validateAdmin() {
	admin := v.config.Admin
	if admin == "" {
		return
	}
	if strings.HasPrefix(admin, "unix:") {
		v.report("admin", fmt.Sprintf("must be HOST:PORT: the unix socket %s is there anyway", v.config.AdminSocket()))
		return
	}
	if err := checkAddress(admin, listening); err != nil {
		v.report("admin", err.Error())
		return
	}
	for i, address := range v.config.Doors() {
		if collide(address, admin) {
			v.report("admin", fmt.Sprintf("%q takes the same address as %s: give it a port of its own", admin, v.origin.at(v.doorPath(i))))
		}
	}
}

// validateReadinessPath checks the path that is kept from the routes.
func (v *validator) validateReadinessPath() {
	const key = "readiness_path"
	switch path := v.config.ReadinessPath; {
	case path == "":
	case path == "/":
		v.report(key, `would take the front page from the engines: write a path of its own, such as "/stoker/health"`)
	case strings.Contains(path, "?"):
		v.report(key, "is a path without a query: leave out what follows the question mark")
	default:
		v.requestPath(key, path)
	}
}

// validateRunDir sees that every socket below the run directory fits into the
// kernel's address, the longest worker's included.
func (v *validator) validateRunDir() {
	c := v.config
	if c.RunDir == "" {
		v.report("run_dir", "must not be empty: leave it out for "+DefaultRunDir())
		return
	}
	if c.StateDir == "" {
		v.report("state_dir", "must not be empty: leave it out for "+stateDirOf(c.RunDir))
	}
	longest := c.AdminSocket()
	for i := range c.Pools {
		p := &c.Pools[i]
		if p.Remote() || v.isFaulty(v.poolKey(i, "name")) || v.isFaulty(v.poolKey(i, "workers")) {
			continue
		}
		last := p.WorkerName(max(p.Workers, 1) - 1)
		for _, socket := range []string{c.KeeperSocket(last), c.EngineSocket(last)} {
			if len(socket) > len(longest) {
				longest = socket
			}
		}
	}
	if over := len(longest) - MaxSocketPath; over > 0 {
		v.report("run_dir", fmt.Sprintf("too long: the path of the socket %s has %d bytes and the kernel takes %d; make run_dir or the pool's name %d shorter",
			longest, len(longest), MaxSocketPath, over))
	}
}

func (v *validator) validateLogs() {
	c := v.config
	v.oneOf("log_format", c.LogFormat, "text", "json")
	if c.AccessLogFormat != "" {
		v.oneOf("access_log_format", c.AccessLogFormat, "text", "json", "combined")
	}
	v.oneOf("log_level", c.LogLevel, "trace", "debug", "info", "warn", "error")
	if !filepath.IsAbs(c.AccessLog) {
		v.oneOf("access_log", c.AccessLog, "stdout", "stderr", "off", "/FILE")
	}
}

// validateClients checks that every wait is bounded: a client that may take for
// ever holds a worker for ever.
func (v *validator) validateClients() {
	c := v.config.Clients
	v.duration("clients.head_timeout", c.HeadTimeout, briefest)
	v.duration("clients.idle_timeout", c.IdleTimeout, briefest)
	v.duration("clients.body_timeout", c.BodyTimeout, briefest)
	v.number("clients.body_rate", c.BodyRate, 0, 1<<30)
	v.duration("clients.write_timeout", c.WriteTimeout, briefest)
	v.number("clients.write_rate", c.WriteRate, 0, 1<<30)
	v.duration("clients.tunnel_idle", c.TunnelIdle, 0)
	v.number("clients.body_mib", c.BodyMiB, 0, 1<<20)
	v.number("clients.read_ahead_mib", c.ReadAheadMiB, 1, 1<<10)
	v.number("clients.read_ahead_memory_mib", c.ReadAheadMemoryMiB, 1, 1<<20)
	if c.ReadAheadMemoryMiB < c.ReadAheadMiB {
		v.report("clients.read_ahead_memory_mib", fmt.Sprintf("is for all bodies together, and one may have %d (read_ahead_mib): write %d or more", c.ReadAheadMiB, c.ReadAheadMiB))
	}
	v.number("clients.connections", c.Connections, 0, 1<<30)
	v.number("clients.connections_per_address", c.ConnectionsPerAddress, 0, 1<<30)
}

// validateShutdown checks that the hard limit leaves room for all that may
// happen before it; else it would cut what the other keys promise.
func (v *validator) validateShutdown() {
	s := v.config.Shutdown
	v.duration("shutdown.delay", s.Delay, 0)
	v.duration("shutdown.drain_timeout", s.DrainTimeout, 0)
	v.duration("shutdown.idle_grace", s.IdleGrace, 0)
	v.duration("shutdown.hard_limit", s.HardLimit, briefest)
	if needs := v.config.shutdownNeeds(v.isFaulty); s.HardLimit <= needs {
		v.report("shutdown.hard_limit", fmt.Sprintf("%s is too short: delay, drain_timeout and the longest stop.grace may take %s together; write %q or more, or leave it out",
			s.HardLimit, needs, (needs+hardLimitMargin).String()))
	}
}

// validateRecorder checks the bounds of what is kept, and that the patterns are ones.
func (v *validator) validateRecorder() {
	r := v.config.Recorder
	v.number("recorder.keep", r.Keep, 0, 10000)
	v.number("recorder.body_kib", r.BodyKiB, 1, 64<<10)
	v.number("recorder.memory_mib", r.MemoryMiB, 1, 1<<20)
	for i, name := range r.RedactFields {
		if name == "" || strings.ContainsAny(name, " :\t\r\n") {
			v.report(indexPath("recorder.redact_fields", i), fmt.Sprintf("%q is not the name of a header field: write it as in \"X-Api-Key\"", name))
		}
	}
	for i, pattern := range r.RedactPatterns {
		at := indexPath("recorder.redact_patterns", i)
		switch p, err := regexp.Compile(pattern); {
		case err != nil:
			v.report(at, "is not a regular expression: "+strings.TrimPrefix(err.Error(), "error parsing regexp: "))
		case p.MatchString(""):
			v.report(at, "matches nothing at all as well: write a pattern that a secret alone matches")
		}
	}
}

// shutdownNeeds is how long a shutdown may take when each wait is used up:
// idle connections wait while requests drain, and all engines end at once. What
// is faulty is taken for nothing: whatever it shall be, it takes no less.
func (c *Config) shutdownNeeds(faulty func(path string) bool) Duration {
	wait := func(path string, d Duration) Duration {
		if d < 0 || faulty(path) {
			return 0
		}
		return d
	}
	var grace Duration
	for i := range c.Pools {
		if !c.Pools[i].Remote() {
			grace = max(grace, wait(indexPath("pools", i)+".stop.grace", c.Pools[i].Stop.Grace))
		}
	}
	requests := max(wait("shutdown.drain_timeout", c.Shutdown.DrainTimeout), wait("shutdown.idle_grace", c.Shutdown.IdleGrace))
	return wait("shutdown.delay", c.Shutdown.Delay) + requests + grace
}

// duration checks a lower bound and reports whether all is well with the key.
func (v *validator) duration(path string, d, least Duration) bool {
	switch {
	case v.isFaulty(path):
	case d < 0:
		v.report(path, fmt.Sprintf("%s is negative: a duration is 0s or more", d))
	case d < least && d == 0:
		v.report(path, fmt.Sprintf("must be more than 0s: write %q or more", least.String()))
	case d < least:
		v.report(path, fmt.Sprintf("%s is too short: write %q or more", d, least.String()))
	default:
		return true
	}
	return false
}

// number checks that n lies in [least, most].
func (v *validator) number(path string, n, least, most int) {
	if n < least {
		v.report(path, fmt.Sprintf("must be at least %d, not %d", least, n))
	}
	if n > most {
		v.report(path, fmt.Sprintf("must be at most %d, not %d", most, n))
	}
}

// oneOf checks that a word is one of those that mean something.
func (v *validator) oneOf(path, got string, words ...string) {
	if slices.Contains(words, got) {
		return
	}
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = quoteTOML(word)
	}
	last := len(quoted) - 1
	message := "must be " + strings.Join(quoted[:last], ", ") + " or " + quoted[last] + ", not " + quoteTOML(shorten(got))
	near := nearest(strings.TrimPrefix(got, "SIG"), words)
	if near != "" {
		message += "; did you mean " + quoteTOML(near) + "?"
	}
	v.report(path, message)
}

// validateHost checks what only this host can tell.
func (v *validator) validateHost() {
	v.validateServersTLSHost()
	if info, err := v.host.stat(v.config.RunDir); err == nil && !info.IsDir() {
		v.report("run_dir", fmt.Sprintf("%s is not a directory: name another, or remove it", v.config.RunDir))
	}
	if info, err := v.host.stat(v.config.StateDir); v.stateDirSaid() && err == nil && !info.IsDir() {
		v.report("state_dir", fmt.Sprintf("%s is not a directory: name another, or remove it", v.config.StateDir))
	}
	for i, address := range v.config.Doors() {
		path, isUnix := strings.CutPrefix(address, "unix:")
		if !isUnix || v.isFaulty(v.doorPath(i)) || filepath.Dir(path) == v.config.RunDir {
			continue
		}
		if info, err := v.host.stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) || (err == nil && !info.IsDir()) {
			v.report(v.doorPath(i), fmt.Sprintf("the directory %s does not exist: create it, or name another", filepath.Dir(path)))
		}
	}
	v.validateTLSHost()
	v.validateAccessHost()
	v.validateLogHost("log_file", v.config.LogFile)
	v.validateLogHost("access_log", v.config.AccessLog)
	for i := range v.config.Pools {
		if p := &v.config.Pools[i]; !p.Remote() {
			v.validatePoolHost(i, p)
		}
	}
}

// validateLogHost checks a file that is to be appended to.
func (v *validator) validateLogHost(key, path string) {
	if !filepath.IsAbs(path) {
		return // a word, or nothing
	}
	if info, err := v.host.stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) || (err == nil && !info.IsDir()) {
		v.report(key, fmt.Sprintf("the directory %s does not exist: create it, or name another", filepath.Dir(path)))
	}
	if info, err := v.host.stat(path); err == nil && info.IsDir() {
		v.report(key, fmt.Sprintf("%s is a directory: name a file in it", path))
	}
}
