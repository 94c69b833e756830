package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The cores, as taskset takes them.
const (
	proxyCore = "0"
	loadCore  = "1"
)

// subject is one proxy that is measured.
type subject struct {
	name    string
	address string
	command []string
}

// findSubjects writes a configuration for each proxy that is installed. Each
// gets the same four upstreams, least connections, keep-alive on both sides,
// one thread, and no access log.
func findSubjects(ctx context.Context, o options, dir string, upstreams []string) ([]subject, error) {
	if _, err := exec.LookPath("wrk"); err != nil {
		return nil, fmt.Errorf("%w: apt-get install wrk nginx haproxy", err)
	}
	all := []struct {
		name, program, flag string
		write               func(dir, address string, upstreams []string) (string, []string)
	}{
		{"stoker", o.stoker, "--version", stokerConfig},
		{"nginx", "nginx", "-v", nginxConfig},
		{"HAProxy", "haproxy", "-v", haproxyConfig},
	}
	var found []subject
	for _, c := range all {
		path, err := exec.LookPath(c.program)
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s is not installed and will be missing from the report\n", c.name)
			continue
		}
		address, err := freeAddress(ctx)
		if err != nil {
			return nil, err
		}
		file := filepath.Join(dir, c.name+".conf")
		text, args := c.write(dir, address, upstreams)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return nil, fmt.Errorf("write configuration: %w", err)
		}
		fmt.Fprintf(os.Stderr, "%s: %s\n", c.name, version(ctx, path, c.flag))
		found = append(found, subject{c.name, address, append(append([]string{path}, args...), file)})
	}
	if len(found) == 0 || found[0].name != "stoker" {
		return nil, fmt.Errorf("%s: no such program; make build makes it", o.stoker)
	}
	return found, nil
}

func stokerConfig(dir, address string, upstreams []string) (text string, args []string) {
	text = fmt.Sprintf("listen = [%q]\nrun_dir = %q\naccess_log = \"off\"\n[[pools]]\nname = \"bench\"\nhealth.path = \"/small\"\n", address, filepath.Join(dir, "run"))
	for _, u := range upstreams {
		text += fmt.Sprintf("[[pools.servers]]\naddress = %q\n", u)
	}
	return text, []string{"run", "-c"}
}

func nginxConfig(dir, address string, upstreams []string) (text string, args []string) {
	text = "daemon off;\nworker_processes 1;\nerror_log stderr error;\npid " + filepath.Join(dir, "nginx.pid") + ";\nevents { worker_connections 8192; }\nhttp {\n  access_log off;\n  keepalive_requests 100000000;\n  upstream engines {\n    least_conn;\n    keepalive 512;\n    keepalive_requests 100000000;\n"
	for _, u := range upstreams {
		text += "    server " + u + ";\n"
	}
	text += "  }\n  server {\n    listen " + address + ";\n    location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n" +
		"    location /stream { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }\n  }\n}\n"
	return text, []string{"-e", "stderr", "-p", dir, "-c"}
}

func haproxyConfig(_, address string, upstreams []string) (text string, args []string) {
	text = "global\n  nbthread 1\n  maxconn 8192\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n  option http-no-delay\nlisten engines\n  bind " + address + "\n  balance leastconn\n"
	for i, u := range upstreams {
		text += fmt.Sprintf("  server engine%d %s\n", i, u)
	}
	return text, []string{"-db", "-f"}
}

// pinned is a process with its children, on one core.
type pinned struct {
	cmd    *exec.Cmd
	output bytes.Buffer
}

func startPinned(ctx context.Context, core string, command ...string) (*pinned, error) {
	p := &pinned{cmd: exec.CommandContext(ctx, "taskset", append([]string{"-c", core}, command...)...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	// If the bench is killed, nothing stays behind.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", command[0], err)
	}
	return p, nil
}

// stop asks the process to end, and insists after five seconds.
func (p *pinned) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_ = p.cmd.Wait()
}

// cpu is what all threads of the process and of its children have used.
func (p *pinned) cpu() time.Duration {
	var sum time.Duration
	proc := os.DirFS("/proc")
	for _, pid := range append([]string{strconv.Itoa(p.cmd.Process.Pid)}, children(p.cmd.Process.Pid)...) {
		threads, _ := fs.Glob(proc, pid+"/task/*/schedstat")
		for _, thread := range threads {
			text, _ := fs.ReadFile(proc, thread)
			used, _, _ := strings.Cut(string(text), " ")
			nanoseconds, err := strconv.ParseInt(used, 10, 64)
			if err == nil {
				sum += time.Duration(nanoseconds)
			}
		}
	}
	return sum
}

func children(parent int) []string {
	proc := os.DirFS("/proc")
	lists, _ := fs.Glob(proc, fmt.Sprintf("%d/task/*/children", parent))
	var pids []string
	for _, list := range lists {
		text, _ := fs.ReadFile(proc, list)
		pids = append(pids, strings.Fields(string(text))...)
	}
	return pids
}
