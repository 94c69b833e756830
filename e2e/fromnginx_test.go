//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// move is a setting of docs/from-nginx.md as it runs here: whoever it names is a
// server of this test, which tells in its answers what it was asked.
type move struct {
	t     *testing.T
	s     *secure
	m     *master
	w     way    // in which is asked
	tls   way    // by TLS, where the setting is about that
	dir   string // of the configuration
	note  string // from staging to checking
	text  string
	first string // address of the first server, and of the second
	other string
}

// engines asks n times, and returns how often each has answered.
func (v *move) engines(n int, a ask) map[string]int {
	v.t.Helper()
	seen := map[string]int{}
	for range n {
		got := v.w.ask(v.t, a)
		got.expect(200)
		seen[got.seen.Engine]++
	}
	return seen
}

// moves say what each setting must do, by the beginning of its title; stage is for
// what needs more than other addresses.
var moves = []struct {
	title string
	stage func(v *move)
	check func(v *move)
}{
	{"Servers with weights", nil, func(v *move) {
		if seen := v.engines(40, ask{path: "/"}); seen["a"] != 30 || seen["b"] != 10 {
			v.t.Errorf("%v", seen)
		}
	}},
	{"A backup", nil, func(v *move) {
		if seen := v.engines(4, ask{path: "/"}); seen["b"] != 4 {
			v.t.Errorf("%v", seen)
		}
	}},
	{"Health checks", nil, func(v *move) { v.engines(2, ask{path: "/"}) }},
	{"Sessions that stick", nil, func(v *move) {
		for i := range 4 {
			if seen := v.engines(6, ask{path: "/", fields: fmt.Sprint("X-Session: ", i)}); len(seen) != 1 {
				v.t.Errorf("session %d: %v", i, seen)
			}
		}
	}},
	{"Names, and paths", nil, func(v *move) {
		for _, host := range []string{"api.example.com", "x.example.org"} {
			if got := v.w.ask(v.t, ask{host: host, path: "/api/models?x=1"}); got.seen.Target != "/v1/models?x=1" {
				v.t.Errorf("%s: %d %s", host, got.StatusCode, got.body)
			}
		}
		v.w.ask(v.t, ask{host: "api.example.com", path: "/other"}).expect(404)
		v.w.ask(v.t, ask{host: "example.org", path: "/api"}).expect(404)
	}},
	{"HTTPS", func(v *move) {
		v.text = strings.NewReplacer("/etc/ssl/example.pem", v.s.cert, "/etc/ssl/example.key", v.s.key).Replace(v.text)
	}, func(v *move) {
		v.w.ask(v.t, ask{host: "example.com", path: "/a?b=c"}).expect(308, "Location: https://example.com"+v.s.address[strings.LastIndexByte(v.s.address, ':'):]+"/a?b=c")
		v.tls.ask(v.t, ask{path: "/"}).expect(200, "Strict-Transport-Security: max-age=2592000")
	}},
	{"Header fields", nil, func(v *move) {
		got := v.w.ask(v.t, ask{path: "/", fields: "Cookie: a=b\nX-Tenant: other"})
		got.expect(200, "Server:", "X-Frame-Options: DENY")
		if h := got.seen.Header; h.Get("X-Tenant") != "acme" || h.Get("Cookie") != "" {
			v.t.Errorf("%v", h)
		}
	}},
	{"The largest body", nil, func(v *move) {
		v.w.ask(v.t, ask{path: "/", body: strings.Repeat("x", 1<<20), length: true}).expect(200)
		v.w.ask(v.t, ask{path: "/", body: strings.Repeat("x", 1<<20+1), length: true}).expect(413)
	}},
	{"Limits", nil, func(v *move) {
		v.engines(3, ask{path: "/"})
		got := v.w.ask(v.t, ask{path: "/"})
		got.expect(429)
		if got.Header.Get("Retry-After") == "" {
			v.t.Errorf("%v", got.Header)
		}
	}},
	{"Who may ask", nil, func(v *move) { v.w.ask(v.t, ask{path: "/"}).expect(403) }},
	{"Keys", func(v *move) {
		key, err := exec.Command(binary, "key", "add", "alice", "--file", filepath.Join(v.dir, "keys")).Output()
		if err != nil {
			v.t.Fatal(err)
		}
		v.note = strings.TrimSpace(string(key))
	}, func(v *move) {
		v.w.ask(v.t, ask{path: "/"}).expect(401)
		v.w.ask(v.t, ask{path: "/", fields: "Authorization: Bearer " + v.note}).expect(200)
	}},
	{"Compression", nil, func(v *move) {
		got := v.w.ask(v.t, ask{path: "/bulk", fields: "Accept-Encoding: gzip"})
		got.expect(200, "Content-Encoding: gzip", "Vary: Accept-Encoding")
		if got.unpacked() != bulk {
			v.t.Error("another body")
		}
	}},
	{"A canary", nil, func(v *move) {
		if seen := v.engines(100, ask{path: "/"}); seen["b"] == 0 || seen["b"] > 20 {
			v.t.Errorf("%v", seen)
		}
	}},
	{"Redirects and fixed answers", nil, func(v *move) {
		if got := v.w.ask(v.t, ask{path: "/ping"}); got.StatusCode != http.StatusOK || got.body != "pong\n" {
			v.t.Errorf("%d %q", got.StatusCode, got.body)
		}
		v.w.ask(v.t, ask{path: "/old/x?y"}).expect(301, "Location: /new/old/x?y")
		v.engines(1, ask{path: "/pings"})
	}},
	{"Whose word", nil, func(v *move) {
		if got := v.w.ask(v.t, ask{path: "/", fields: "X-Forwarded-For: 192.0.2.9"}).seen.Header.Get("X-Forwarded-For"); got != "192.0.2.9, 127.0.0.1" {
			v.t.Errorf("%q", got)
		}
		v.m.eventually("the client in the log", func() bool {
			text, _ := os.ReadFile(v.m.stdout)
			return strings.Contains(string(text), `"client":"192.0.2.9"`)
		})
	}},
	{"The access log", func(v *move) {
		v.text = strings.Replace(v.text, "/var/log/stoker/access.log", filepath.Join(v.dir, "access.log"), 1)
	}, func(v *move) {
		v.w.ask(v.t, ask{path: "/logged?key=secret", fields: "Referer: http://a.test/b\nUser-Agent: \"quoted\\\" agent"}).expect(200)
		line := regexp.MustCompile(`^127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /logged HTTP/1\.1" 200 \d+ "http://a\.test/b" "\\"quoted\\\\\\" agent"\n$`)
		v.m.eventually("a line as Apache writes it", func() bool {
			text, _ := os.ReadFile(filepath.Join(v.dir, "access.log"))
			return line.Match(text)
		})
	}},
	{"Time-outs", nil, func(v *move) { v.engines(1, ask{path: "/"}) }},
	{"gunicorn", func(v *move) {
		python(v.t)
		if err := os.CopyFS(v.dir, os.DirFS("../examples/uvicorn")); err != nil {
			v.t.Fatal(err)
		}
		v.text = strings.Replace(v.text, `name = "app"`, fmt.Sprintf("name = \"app\"\ndir = %q", v.dir), 1)
	}, func(v *move) {
		got := v.w.ask(v.t, ask{path: "/"})
		got.expect(200)
		if n := len(v.m.workers()); n != 4 || !strings.Contains(got.body, `"app-`) {
			v.t.Errorf("%d workers, %s", n, got.body)
		}
	}},
}

// TestFromNginx runs each setting of docs/from-nginx.md.
func TestFromNginx(t *testing.T) {
	page, err := os.ReadFile("../docs/from-nginx.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := strings.Split(string(page), "\n## ")[1:]
	if len(sections) != len(moves) || len(moves) < 15 {
		t.Fatalf("%d settings on the page, %d tested", len(sections), len(moves))
	}
	snippet := regexp.MustCompile("(?s)```(?:nginx|sh)\n.+?```\n+```toml\n(.+?)```")
	for i, section := range sections {
		title, _, _ := strings.Cut(section, "\n")
		t.Run(title, func(t *testing.T) {
			found := snippet.FindAllStringSubmatch(section, -1)
			if len(found) != 1 || !strings.HasPrefix(title, fmt.Sprintf("%d. %s", i+1, moves[i].title)) {
				t.Fatalf("%d pairs of configurations; tested is %q", len(found), moves[i].title)
			}
			v := &move{t: t, s: newSecure(t), dir: t.TempDir(), text: found[0][1], first: startEverywhere(t, "a"), other: startEverywhere(t, "b")}
			v.text = strings.NewReplacer("10.0.0.1:8000", v.first, "10.0.0.2:8000", v.other, `[":443"]`, fmt.Sprintf("[%q]", v.s.address)).Replace(v.text)
			if moves[i].stage != nil {
				moves[i].stage(v)
			}
			file := filepath.Join(v.dir, "stoker.toml")
			if err := os.WriteFile(file, []byte(v.text), 0o644); err != nil {
				t.Fatal(err)
			}
			v.m = startAs(t, "", setup{args: []string{"run", "-c", file, "--listen", "{listen}", "--run-dir", "{run_dir}", "--log-format", "json"}}).ready()
			v.m.eventually("everybody ready who shall be", func() bool {
				code, body, err := v.m.admin("/readyz")
				return err == nil && code == 200 && strings.Contains(body, `"healthy"`)
			})
			all := ways(t, v.m, v.s)
			v.w, v.tls = all[0], all[3]
			moves[i].check(v)
		})
	}
}
