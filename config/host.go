package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// host is what validation asks of the machine that it runs on.
type host struct {
	uid    int
	stat   func(path string) (fs.FileInfo, error)
	getenv func(name string) string
	// userID is the number of a user, given by name or number.
	userID func(user string) (int, error)
}

func thisHost() host {
	return host{uid: os.Getuid(), stat: os.Stat, getenv: os.Getenv, userID: lookUpUser}
}

func lookUpUser(name string) (int, error) {
	lookUp := user.Lookup
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		lookUp = user.LookupId
	}
	found, err := lookUp(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(found.Uid)
}

// validatePoolHost checks what a pool of workers needs of this host.
func (v *validator) validatePoolHost(i int, p *Pool) {
	if p.User != "" {
		v.validateUser(v.poolKey(i, "user"), p.User)
	}
	if p.Dir != "" {
		info, err := v.host.stat(p.Dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			v.report(v.poolKey(i, "dir"), fmt.Sprintf("the directory %s does not exist: create it, or name another", p.Dir))
		case err == nil && !info.IsDir():
			v.report(v.poolKey(i, "dir"), fmt.Sprintf("%s is not a directory: name the one to run in", p.Dir))
		}
	}
	search := v.host.getenv("PATH")
	// What we run is looked for in our own PATH, the engine in its own.
	v.validateProgram(v.poolKey(i, "stop.gone_command"), p.Stop.GoneCommand, p.Dir, search)
	v.validateProgram(v.poolKey(i, "health.command"), p.Health.Command, p.Dir, search)
	if own, ok := p.Env["PATH"]; ok {
		search = own
	}
	v.validateProgram(v.poolKey(i, "command"), p.Command, p.Dir, search)
}

func (v *validator) validateUser(path, name string) {
	uid, err := v.host.userID(name)
	switch {
	case err != nil:
		v.report(path, fmt.Sprintf("there is no user %s on this host: create it, or name another", quoteTOML(shorten(name))))
	case v.host.uid != 0 && uid != v.host.uid:
		v.report(path, fmt.Sprintf("only root can run engines as %q: run stoker (and its check) as root, or leave user out", name))
	}
}

// validateProgram sees that the program can be executed: found in the search
// path, or, when it has a slash, from its own directory on.
func (v *validator) validateProgram(path string, argv []string, dir, search string) {
	if len(argv) == 0 || strings.Contains(argv[0], "{") || v.isFaulty(path) || v.isFaulty(indexPath(path, 0)) {
		return
	}
	program := argv[0]
	if strings.Contains(program, "/") {
		file := program
		if !filepath.IsAbs(file) {
			file = filepath.Join(dir, file)
		}
		if message := v.notExecutable(file); message != "" {
			v.report(indexPath(path, 0), fmt.Sprintf("%q %s: install it, or correct the path", file, message))
		}
		return
	}
	if strings.Contains(search, "{") {
		return
	}
	for _, dir := range filepath.SplitList(search) {
		if dir != "" && v.notExecutable(filepath.Join(dir, program)) == "" {
			return
		}
	}
	v.report(indexPath(path, 0), fmt.Sprintf("%q is not found in PATH (%s): install it, or write its full path", program, search))
}

// notExecutable says why a file cannot be executed; empty when it can be, or
// when we may not look: a check by another user than the one who will run it.
func (v *validator) notExecutable(file string) string {
	info, err := v.host.stat(file)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return ""
	case err != nil:
		return "does not exist"
	case info.IsDir():
		return "is a directory"
	case info.Mode()&0o111 == 0:
		return "is not executable"
	}
	return ""
}
