package config

import (
	"fmt"
	"os"
	"unicode/utf8"
)

// FlagPool is the name of the one pool that a command line describes.
const FlagPool = "app"

// Flags is a configuration from the command line. A zero value means that the
// flag was not given and the default holds, unless Given says otherwise.
type Flags struct {
	// Listen, Admin, RunDir, StateDir and LogFormat are the keys of these names
	// (--listen, --admin, --run-dir, --state-dir, --log-format). They override a file's.
	Listen    []string
	Admin     string
	RunDir    string
	StateDir  string
	LogFormat string
	// Workers, HealthPath, StartTimeout ("20m") and GPUsPerWorker are keys of
	// the pool (--workers, --health-path, --start-timeout, --gpus-per-worker).
	Workers       int
	HealthPath    string
	StartTimeout  string
	GPUsPerWorker int
	// Command is the engine's argument vector, what follows "--".
	Command []string
	// Given, where set, reports whether a flag, by its name without dashes, was
	// written: "--workers 0" is a mistake and no default.
	Given func(flag string) bool
}

// FromCommandLine is the configuration of a command line. Without a file it is
// one pool named FlagPool that runs Command. With one, flags of the whole
// program override the file, and those of a pool contradict it. The error is
// Problems, whose keys are flags where flags are to blame.
func FromCommandLine(file string, f Flags) (*Config, error) {
	host := thisHost()
	if file == "" {
		return f.build(&host)
	}
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	return load(file, data, &f, &host)
}

// flagKey says which key a flag is.
type flagKey struct{ flag, key string }

// topFlags may stand beside a file.
var topFlags = []flagKey{
	{"listen", "listen"},
	{"admin", "admin"},
	{"run-dir", "run_dir"},
	{"state-dir", "state_dir"},
	{"log-format", "log_format"},
}

// poolFlags describe the command line's own pool.
var poolFlags = []flagKey{
	{"workers", "workers"},
	{"health-path", "health.path"},
	{"start-timeout", "start_timeout"},
	{"gpus-per-worker", "gpus_per_worker"},
}

// given reports whether a flag was written.
func (f Flags) given(flag string) bool {
	if f.Given != nil {
		return f.Given(flag)
	}
	switch flag {
	case "listen":
		return len(f.Listen) > 0
	case "admin":
		return f.Admin != ""
	case "run-dir":
		return f.RunDir != ""
	case "state-dir":
		return f.StateDir != ""
	case "log-format":
		return f.LogFormat != ""
	case "workers":
		return f.Workers != 0
	case "health-path":
		return f.HealthPath != ""
	case "start-timeout":
		return f.StartTimeout != ""
	case "gpus-per-worker":
		return f.GPUsPerWorker != 0
	}
	return false
}

// build makes the configuration of a command line without a file.
func (f Flags) build(host *host) (*Config, error) {
	base, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	c := Default()
	c.Pools = []Pool{DefaultPool(FlagPool)}
	v := newValidator(c, origin{flags: map[string]string{}}, host)
	for _, known := range topFlags {
		v.origin.flags[known.key] = "--" + known.flag
	}
	for _, known := range poolFlags {
		v.origin.flags["pools[0]."+known.key] = "--" + known.flag
	}
	v.origin.flags["pools[0].command"] = "COMMAND"
	f.override(v)
	f.fillPool(v, &c.Pools[0])
	v.complete(base)
	v.validate()
	if err := v.problems.err(); err != nil {
		return nil, err
	}
	return c, nil
}

// fillPool makes the command line's pool.
func (f Flags) fillPool(v *validator, p *Pool) {
	if f.given("workers") {
		p.Workers = f.Workers
	}
	if f.given("health-path") {
		p.Health.Path = f.HealthPath
		if f.HealthPath == "" {
			v.report("pools[0].health.path", `must not be empty: write a path such as /health, or leave the flag out`)
		}
	}
	if f.given("start-timeout") {
		v.decodeDuration("pools[0].start_timeout", f.StartTimeout, &p.StartTimeout)
	}
	if f.given("gpus-per-worker") {
		p.GPUsPerWorker = f.GPUsPerWorker
	}
	p.Command = f.Command
	if len(f.Command) == 0 {
		v.report("pools[0].command", "is missing: write -- and the engine's command line behind the flags, or name a file with -c")
	}
	for _, arg := range f.Command {
		if !utf8.ValidString(arg) {
			v.report("pools[0].command", fmt.Sprintf("the argument %q is not UTF-8", arg))
		}
	}
}

// override puts the flags that were given over what the file said.
func (f Flags) override(v *validator) {
	if v.origin.file != "" {
		f.refusePoolFlags(v)
	}
	if v.origin.flags == nil {
		v.origin.flags = map[string]string{}
	}
	for _, top := range topFlags {
		if !f.given(top.flag) {
			continue
		}
		v.origin.flags[top.key] = "--" + top.flag
		switch top.key {
		case "listen":
			v.config.Listen = f.Listen
		case "admin":
			v.config.Admin = f.Admin
		case "run_dir":
			v.config.RunDir = fromHere(f.RunDir)
		case "state_dir":
			v.config.StateDir, v.stateDirFlag = fromHere(f.StateDir), true
		case "log_format":
			v.config.LogFormat = f.LogFormat
		}
	}
}

// fromHere makes a flag's path absolute: a shell's user means the shell's
// directory, not the file's.
func fromHere(path string) string {
	if dir, err := os.Getwd(); err == nil {
		return absolute(dir, path)
	}
	return path
}

// refusePoolFlags refuses what has two owners: with a file, pools are the file's.
func (f Flags) refusePoolFlags(v *validator) {
	refuse := func(name, key string) {
		v.problems = append(v.problems, Problem{
			Key:     name,
			Message: fmt.Sprintf("contradicts -c: pools are described by the file; write %s into %s", key, v.origin.file),
		})
	}
	for _, known := range poolFlags {
		if f.given(known.flag) {
			refuse("--"+known.flag, known.key)
		}
	}
	if len(f.Command) > 0 {
		refuse("COMMAND", "command")
	}
}
