package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"golang.org/x/sys/unix"
)

// maxFile is far above any configuration; past it somebody has named the wrong file.
const maxFile = 1 << 20

// pipePatience is how long the other end of a pipe has to write a configuration.
const pipePatience = 30 * time.Second

// Load reads a file and judges it by its text and by this host: executables,
// directories and users have to exist. The error is Problems, with everything
// that is wrong at once.
func Load(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	host := thisHost()
	return load(path, data, nil, &host)
}

// LoadText is Load by the text alone, for who only wants to know what a file
// says: it may be meant for another host, or for another user.
func LoadText(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, data)
}

// LoadPlaces is LoadText for who only asks where a master's directories are. What
// else is wrong with the file by now does not matter to the master that runs, and
// shall keep nobody from draining or ending it.
func LoadPlaces(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c, err := decoded(path, data, nil, nil)
	var problems Problems
	if c == nil || !errors.As(err, &problems) {
		return c, err
	}
	places := slices.DeleteFunc(problems, func(p Problem) bool { return p.Key != "run_dir" && p.Key != "state_dir" })
	return c, places.err()
}

// Parse is LoadText of a file that was read already. The name places messages,
// and relative paths inside start at its directory.
func Parse(name string, data []byte) (*Config, error) {
	return load(name, data, nil, nil)
}

// load decodes over the defaults, lets flags override, fills in what follows
// from other keys, and validates. Nil flags or host: none of theirs.
func load(name string, data []byte, flags *Flags, host *host) (*Config, error) {
	c, err := decoded(name, data, flags, host)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// decoded is load that also returns what could be read of a faulty configuration.
func decoded(name string, data []byte, flags *Flags, host *host) (*Config, error) {
	tree, problem := parseTree(string(data))
	if problem != nil {
		problem.File = name
		return nil, Problems{*problem}
	}
	base, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	c := Default()
	v := newValidator(c, origin{file: name, lines: indexLines(string(data))}, host)
	v.decode(tree)
	if flags != nil {
		flags.override(v)
	}
	v.complete(base)
	v.validate()
	return c, v.problems.err()
}

// readFile reads a configuration. It may be a pipe (-c <(…)), but nobody waits for
// ever for what is written to it: a master that reads its configuration again
// heeds nothing else meanwhile, and could not even end.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, unreadable(path, err)
	}
	defer func() { _ = f.Close() }()
	_ = f.SetReadDeadline(time.Now().Add(pipePatience)) // a file proper knows none, and needs none
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, unreadable(path, err)
	}
	if info, err := f.Stat(); err == nil && len(data) == 0 && info.Mode().Type() == fs.ModeNamedPipe {
		return nil, Problems{{File: path, Message: "it is a pipe into which nobody writes"}}
	}
	if len(data) > maxFile {
		return nil, Problems{{File: path, Message: fmt.Sprintf("the file is larger than %d KiB: is this the configuration?", maxFile>>10)}}
	}
	return data, nil
}

// unreadable is why a file cannot be read, as a problem with it.
func unreadable(path string, err error) error {
	reason := err.Error()
	if pathErr := (*fs.PathError)(nil); errors.As(err, &pathErr) {
		reason = pathErr.Err.Error()
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		reason = "the file does not exist: name the configuration with -c FILE"
	case errors.Is(err, fs.ErrPermission):
		reason = "the file cannot be read: permission denied for user " + strconv.Itoa(os.Getuid())
	default:
		reason = "the file cannot be read: " + reason
	}
	return Problems{{File: path, Message: reason}}
}

// parseTree has the TOML library read data into maps and slices. A problem,
// the first and only one, has its line and column.
func parseTree(data string) (tree map[string]any, problem *Problem) {
	if strings.HasPrefix(data, "\xff\xfe") || strings.HasPrefix(data, "\xfe\xff") {
		return nil, &Problem{Message: "the file is in UTF-16: save it as UTF-8"}
	}
	defer func() {
		// The library reports its own bugs by panicking; a file that finds one
		// shall not take the program with it.
		if r := recover(); r != nil {
			tree, problem = nil, &Problem{Message: fmt.Sprintf("faulty TOML: %v", r)}
		}
	}()
	_, err := toml.Decode(data, &tree)
	if err == nil {
		return tree, nil
	}
	var parse toml.ParseError
	if !errors.As(err, &parse) {
		return nil, &Problem{Message: "faulty TOML: " + err.Error()}
	}
	line, column := position(data, parse)
	return nil, &Problem{Line: line, Column: column, Message: "faulty TOML: " + explain(parse.Message)}
}

// position counts again where a syntax error is: the library is a line late
// for what it finds at a line's end, and a column off at a line's beginning.
func position(data string, parse toml.ParseError) (line, column int) {
	data = strings.TrimPrefix(data, "\xef\xbb\xbf")
	start := parse.Position.Start
	if start < 0 || start > len(data) {
		return max(parse.Position.Line, 1), 0
	}
	before := data[:start]
	return strings.Count(before, "\n") + 1, start - strings.LastIndexByte(before, '\n')
}

// explain adds what is nearly always the reason to what the library says.
func explain(message string) string {
	message = strings.TrimSuffix(message, ".")
	message = strings.ToLower(message[:min(1, len(message))]) + message[min(1, len(message)):]
	for _, unquoted := range []string{"expected value but", "invalid float", "invalid integer", "invalid datetime", "expected a top-level item to end"} {
		if strings.HasPrefix(message, unquoted) {
			return message + "; text, addresses and durations stand in quotes"
		}
	}
	switch {
	case strings.HasPrefix(message, "strings cannot contain newlines"):
		return message + "; is the closing quote missing?"
	case strings.HasPrefix(message, "invalid escape"):
		return message + `; write '…' around text with backslashes`
	}
	return message
}

// complete fills in the defaults that follow from other keys, and makes
// relative paths absolute, from base on.
func (v *validator) complete(base string) {
	c := v.config
	c.RunDir = absolute(base, c.RunDir)
	if v.stateDirSaid() {
		c.StateDir = absolute(base, c.StateDir)
	} else {
		c.StateDir = stateDirOf(c.RunDir)
	}
	v.completeTLS(base)
	c.Access.KeysFile = absolute(base, c.Access.KeysFile)
	c.LogFile = absolute(base, c.LogFile)
	if strings.Contains(c.AccessLog, "/") {
		c.AccessLog = absolute(base, c.AccessLog)
	}
	for i := range c.Routes {
		c.Routes[i].complete()
	}
	for i := range c.Pools {
		p := &c.Pools[i]
		p.Dir = absolute(base, p.Dir)
		for j := range p.Servers {
			if p.Servers[j].Name == "" {
				p.Servers[j].Name = p.Servers[j].origin()
			}
			for _, file := range []*string{&p.Servers[j].TLSCA, &p.Servers[j].TLSCert, &p.Servers[j].TLSKey} {
				*file = absolute(base, *file)
			}
		}
	}
	if !v.written("shutdown.hard_limit") {
		c.Shutdown.HardLimit = max(c.Shutdown.HardLimit, c.shutdownNeeds(v.isFaulty)+hardLimitMargin)
	}
}

// plainHost is a host as requests have it: in lower case, without the dot of
// the root, an IPv6 address in brackets.
func plainHost(host string) string {
	if ip, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && ip.Is6() {
		return "[" + ip.String() + "]"
	}
	return strings.TrimSuffix(strings.ToLower(host), ".")
}

func absolute(base, path string) string {
	if path == "" || strings.Contains(path, "\x00") {
		return path
	}
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(base, path)
}
