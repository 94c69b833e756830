package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// subject is one proxy that is measured.
type subject struct {
	name string
	ours bool
	// moves: its streams may change their worker.
	moves bool
	// command writes a configuration and returns how to start it; nil for none:
	// the load goes to an engine.
	command func(setup) ([]string, error)
	version string
}

// setup is what a subject is to do, with its files in dir.
type setup struct {
	dir, address string
	upstreams    []string
	tls          *pair // nil: plain
}

// findSubjects lists what is installed. Each gets the same upstreams, least
// connections, keep-alive on both sides, one thread, and no access log.
func findSubjects(ctx context.Context, o options) ([]subject, error) {
	wanted, err := regexp.Compile(o.subjects)
	if err != nil {
		return nil, fmt.Errorf("-subjects: %w", err)
	}
	stoker, err := filepath.Abs(o.stoker)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", o.stoker, err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find myself: %w", err)
	}
	all := []struct {
		name, program, flag string
		write               func(setup) (text string, command []string)
	}{
		{stokerName, stoker, "--version", stokerConfig("")},
		{"stoker, recorder off", stoker, "--version", stokerConfig("recorder.enabled = false\n")},
		{migrateName, stoker, "--version", stokerPool("migrate = \"replay\"\n")},
		{"nginx", "nginx", "-v", nginxConfig},
		{"HAProxy", "haproxy", "-v", haproxyConfig},
		{"Caddy", "caddy", "version", caddyConfig},
		{"ReverseProxy", self, "-h", reverseProxyConfig},
	}
	found := []subject{{name: "none"}}
	for _, c := range all {
		ours := strings.HasPrefix(c.name, stokerName)
		if !wanted.MatchString(c.name) && c.name != stokerName {
			continue
		}
		path, err := exec.LookPath(c.program)
		if err != nil {
			if ours {
				return nil, fmt.Errorf("%s: no such program; make build makes it", o.stoker)
			}
			fmt.Fprintf(os.Stderr, "%s is not installed and will be missing from the report\n", c.name)
			continue
		}
		s := subject{name: c.name, ours: ours, moves: c.name == migrateName, version: version(ctx, path, c.flag)}
		if c.name == "ReverseProxy" {
			s.version = "net/http/httputil, tuned: scripts/bench/reverseproxy.go"
		}
		s.command = func(o setup) ([]string, error) {
			text, args := c.write(o)
			file := filepath.Join(o.dir, "subject.conf")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				return nil, fmt.Errorf("write configuration: %w", err)
			}
			return append(append([]string{path}, args...), file), nil
		}
		found = append(found, s)
	}
	return found, nil
}

// version is the first line of what a program says of itself.
func version(ctx context.Context, program, flag string) string {
	out, err := exec.CommandContext(ctx, program, flag).CombinedOutput()
	if err != nil {
		return "?"
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

const (
	stokerName  = "stoker"
	migrateName = "stoker, migrate = replay"
)

// isUnix: a transport is told by its address.
func isUnix(upstream string) bool { return strings.HasPrefix(upstream, "/") }

func stokerConfig(more string) func(setup) (text string, args []string) { return stokerBoth(more, "") }

func stokerPool(more string) func(setup) (text string, args []string) { return stokerBoth("", more) }

// stokerBoth is a configuration with more of it, for all and for its pool.
func stokerBoth(more, pool string) func(setup) (text string, args []string) {
	return func(o setup) (text string, args []string) {
		listen := fmt.Sprintf("listen = [%q]\n", o.address)
		if o.tls != nil {
			listen = fmt.Sprintf("listen_tls = [%q]\ntls.certificates = [{cert = %q, key = %q}]\n", o.address, o.tls.cert, o.tls.key)
		}
		text = listen + fmt.Sprintf("run_dir = %q\naccess_log = \"off\"\n%s[[pools]]\nname = \"bench\"\n%s", filepath.Join(o.dir, "run"), more, pool)
		for _, u := range o.upstreams {
			if isUnix(u) {
				u = "unix:" + u
			}
			text += fmt.Sprintf("[[pools.servers]]\naddress = %q\n", u)
		}
		return text, []string{"run", "-c"}
	}
}

func nginxConfig(o setup) (text string, args []string) {
	// As root it would go on as another user, who may not connect to the engines' sockets.
	text = "daemon off;\nuser root;\nworker_processes 1;\nerror_log stderr error;\npid " + filepath.Join(o.dir, "nginx.pid") + ";\nevents { worker_connections 19900; }\n" +
		"http {\n  access_log off;\n  client_max_body_size 0;\n  keepalive_requests 100000000;\n  upstream engines {\n    least_conn;\n    keepalive 512;\n    keepalive_requests 100000000;\n"
	for _, u := range o.upstreams {
		if isUnix(u) {
			u = "unix:" + u
		}
		text += "    server " + u + ";\n"
	}
	secure := ""
	if o.tls != nil {
		secure = " ssl http2; ssl_protocols TLSv1.3; ssl_certificate " + o.tls.cert + "; ssl_certificate_key " + o.tls.key
	}
	text += "  }\n  server {\n    listen " + o.address + " backlog=4096" + secure + ";\n    location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_max_temp_file_size 0; }\n" +
		"    location /stream { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }\n  }\n}\n"
	return text, []string{"-e", "stderr", "-p", o.dir, "-c"}
}

func haproxyConfig(o setup) (text string, args []string) {
	secure := ""
	if o.tls != nil {
		secure = " ssl crt " + o.tls.both + " alpn h2,http/1.1 ssl-min-ver TLSv1.3"
	}
	text = "global\n  nbthread 1\n  maxconn 9800\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  http-reuse always\n  option http-no-delay\nlisten engines\n  bind " + o.address + " backlog 4096" + secure + "\n  balance leastconn\n"
	for i, u := range o.upstreams {
		if isUnix(u) {
			u = "unix@" + u
		}
		text += fmt.Sprintf("  server engine%d %s\n", i, u)
	}
	return text, []string{"-db", "-f"}
}

func caddyConfig(o setup) (text string, args []string) {
	var to []string
	for _, u := range o.upstreams {
		if isUnix(u) {
			u = "unix/" + u
		}
		to = append(to, u)
	}
	host, port, _ := strings.Cut(o.address, ":") // whatever host a request names
	scheme, secure := "http", ""
	if o.tls != nil {
		scheme, secure = "https", "  tls "+o.tls.cert+" "+o.tls.key+" {\n    protocols tls1.3\n  }\n"
	}
	text = "{\n  admin off\n  auto_https off\n  log {\n    output discard\n  }\n}\n" + scheme + "://:" + port + " {\n  bind " + host + "\n" + secure + "  reverse_proxy " + strings.Join(to, " ") +
		" {\n    lb_policy least_conn\n    flush_interval -1\n    transport http {\n      keepalive_idle_conns_per_host 512\n    }\n  }\n}\n"
	return text, []string{"run", "--adapter", "caddyfile", "--config"}
}

func reverseProxyConfig(o setup) (text string, args []string) {
	p := proxied{Listen: o.address, Upstreams: o.upstreams}
	if o.tls != nil {
		p.Cert, p.Key = o.tls.cert, o.tls.key
	}
	content, _ := json.Marshal(p) // strings cannot fail
	return string(content), []string{"reverseproxy"}
}
