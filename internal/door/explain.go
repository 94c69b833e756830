package door

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Explain turns a failed listen on HOST:PORT into a sentence that says what to do.
func Explain(address string, err error) error {
	_, port, _ := net.SplitHostPort(address)
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		number, _ := strconv.Atoi(port)
		advice = inUseBy(tcpOwner(number)) + "; stop it or listen on another port"
	case errors.Is(err, syscall.EACCES):
		advice = "ports below 1024 need a privilege: AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit, " +
			"or setcap cap_net_bind_service=+ep on the binary, or a port from 1024 up"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = "no interface of this machine has this address"
	}
	return explain(address, err, advice)
}

func explainUnix(path string, err error) error {
	advice := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = inUseBy(unixOwner(path)) + "; stop it or choose another path"
	case errors.Is(err, syscall.ENOENT):
		advice = "the directory " + filepath.Dir(path) + " does not exist; create it"
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		advice = "no permission to create a socket in " + filepath.Dir(path)
	}
	return explain("unix:"+path, err, advice)
}

// explain keeps the system's own words, which are what people search for.
func explain(address string, err error, advice string) error {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno
	}
	if advice == "" {
		return fmt.Errorf("listen on %s: %w", address, err)
	}
	return fmt.Errorf("listen on %s: %w: %s", address, err, advice)
}

func inUseBy(owner string) string {
	if owner == "" {
		return "another process listens there (as root, ss -lp names it)"
	}
	return owner + " listens there"
}

// tcpOwner names the process that listens on a TCP port, "" when we may not see
// it. Only for an error message: what it reads may have changed already.
func tcpOwner(port int) string {
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		for _, row := range rows(table) {
			// sl local_address rem_address st … inode is the tenth.
			if len(row) < 10 || row[3] != "0A" || !strings.HasSuffix(row[1], fmt.Sprintf(":%04X", port)) {
				continue
			}
			if owner := ownerOf(row[9]); owner != "" {
				return owner
			}
		}
	}
	return ""
}

// unixOwner is tcpOwner for a unix socket's path.
func unixOwner(path string) string {
	for _, row := range rows("/proc/net/unix") {
		// Num RefCount Protocol Flags Type St Inode Path; __SO_ACCEPTCON among the flags.
		if len(row) == 8 && row[7] == path && row[3] == "00010000" {
			return ownerOf(row[6])
		}
	}
	return ""
}

func rows(table string) [][]string {
	data, err := os.ReadFile(table) //nolint:gosec // one of three tables below /proc
	if err != nil {
		return nil
	}
	var rows [][]string
	for line := range strings.Lines(string(data)) {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// ownerOf finds the process with a descriptor of the socket with that inode.
func ownerOf(inode string) string {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != "socket:["+inode+"]" {
			continue
		}
		process := filepath.Dir(filepath.Dir(link))
		name, _ := os.ReadFile(filepath.Join(process, "comm")) //nolint:gosec // below /proc
		return fmt.Sprintf("%q (pid %s)", strings.TrimSpace(string(name)), filepath.Base(process))
	}
	return ""
}
