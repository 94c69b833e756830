//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"stoker/internal/resolve/dnstest"
)

// stage is an example with what the test machine has in the place of what it
// names: addresses, certificates, engines.
type stage struct {
	t    *testing.T
	dir  string // with the example's files
	s    *secure
	m    *master
	text string // of stoker.toml
	note string // from staging to checking
}

// put replaces text of the configuration that must be there.
func (e *stage) put(old, now string) {
	e.t.Helper()
	if !strings.Contains(e.text, old) {
		e.t.Fatalf("the example has no %s", old)
	}
	e.text = strings.ReplaceAll(e.text, old, now)
}

// certify puts a certificate for a name in the place of files.
func (e *stage) certify(cert, key, name string) {
	e.t.Helper()
	dir := e.t.TempDir()
	s := &secure{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), names: []string{name}}
	s.renew(e.t, 1)
	e.put(cert, s.cert)
	e.put(key, s.key)
}

// engines are programs by the names that examples use, each the built-in engine or,
// for gRPC, this test's.
func engines(t *testing.T) (path string) {
	t.Helper()
	bin := t.TempDir()
	script := fmt.Sprintf(`#!/bin/sh
name=$(basename "$0") model=
while [ $# -gt 0 ]; do
	case $1 in
	--served-model-name) model=$2 ;;
	--uds) socket=$2 ;;
	--port|--grpc-port) port=$2 ;;
	esac
	shift
done
if [ "$name" = tritonserver ]; then exec %q engine --grpc --port "$port"; fi
if [ -n "$socket" ]; then set -- --socket "$socket"; else set -- --port "$port"; fi
exec %q engine --name "$STOKER_NAME" --model "${model:-demo}" --load-time 0s --decode-rate 0 --prefill-rate 0 "$@"
`, self, binary)
	names := []string{"vllm", "llama-server", "python3", "tritonserver"}
	if _, err := exec.LookPath("uvicorn"); err != nil {
		missing(t, "uvicorn", "apt-get install uvicorn python3-fastapi")
	}
	for _, name := range names {
		if err := writeProgram(filepath.Join(bin, name), []byte(script)); err != nil {
			t.Fatal(err)
		}
	}
	return bin + ":" + os.Getenv("PATH")
}

// chatted checks that a chat is answered, and returns by which engine.
func (e *stage) chatted(w way, model string, a ask) string {
	e.t.Helper()
	a.path, a.body, a.length = "/v1/chat/completions", chatBody(model, 10), true
	got := w.ask(e.t, a)
	got.expect(200)
	engine, _, _ := strings.Cut(got.Header.Get("X-Engine"), "/")
	return engine
}

// exampleRun is how an example is staged and what it must then do, in cleartext
// and over TLS where it has both.
type exampleRun struct {
	stage func(e *stage)
	check func(e *stage, plain, tls way)
}

// exampleRuns has every example that has a configuration.
var exampleRuns = map[string]exampleRun{
	"api-keys": {
		stage: func(e *stage) {
			key, err := exec.Command(binary, "key", "add", "alice", "--file", filepath.Join(e.dir, "keys")).Output()
			if err != nil {
				e.t.Fatal(err)
			}
			e.note = strings.TrimSpace(string(key))
		},
		check: func(e *stage, plain, _ way) {
			plain.ask(e.t, ask{path: "/v1/models"}).expect(401)
			plain.ask(e.t, ask{path: "/stoker/health"}).expect(200)
			key := "Authorization: Bearer " + e.note
			plain.ask(e.t, ask{path: "/v1/models", fields: key + "\nOrigin: https://chat.example.com"}).expect(200, "Access-Control-Allow-Origin: https://chat.example.com", "RateLimit-Limit: 50")
			plain.ask(e.t, ask{method: "OPTIONS", path: "/v1/models", fields: "Origin: https://elsewhere.example.com\nAccess-Control-Request-Method: POST"}).expect(403)
			if by := e.chatted(plain, "demo", ask{fields: key}); !strings.HasPrefix(by, "chat-") {
				e.t.Errorf("answered by %q", by)
			}
		},
	},
	"canary": {check: func(e *stage, plain, _ way) {
		if by := e.chatted(plain, "chat", ask{fields: "X-Canary: 1"}); by != "canary-0" {
			e.t.Errorf("the canary's tester was answered by %q", by)
		}
		e.chatted(plain, "chat", ask{})
	}},
	"llama-server": {check: func(e *stage, plain, _ way) {
		if by := e.chatted(plain, "demo", ask{}); !strings.HasPrefix(by, "llama-") {
			e.t.Errorf("answered by %q", by)
		}
	}},
	"remote-servers": {
		stage: func(e *stage) {
			port, servers := startFar(e.t, "127.0.0.1", "127.0.0.2")
			names := dnstest.Start(e.t)
			names.Set("engines.internal", dns.TypeA, "engines.internal. 0 IN A 127.0.0.1")
			names.Set("two.internal", dns.TypeA, "two.internal. 0 IN A 127.0.0.2")
			names.Set("_llm._tcp.engines.internal", dns.TypeSRV, fmt.Sprintf("_llm._tcp.engines.internal. 0 IN SRV 0 1000 %s two.internal.", port))
			names.Set("api.example.com", dns.TypeA, "api.example.com. 0 IN A 127.0.0.3") // where nobody listens
			e.put("engines.internal:8000", "engines.internal:"+port)
			e.text += fmt.Sprintf("[resolver]\naddress = %q\n", names.Address)
			e.note = servers[0].address + " " + servers[1].address
		},
		check: func(e *stage, plain, _ way) {
			for i, address := range strings.Fields(e.note) {
				name := []string{"engines.internal/", "two.internal/"}[i] + address
				e.m.eventually(name+" ready", func() bool { return e.m.serverState(name) == "ready" })
			}
			plain.ask(e.t, ask{path: "/x"}).expect(200)
		},
	},
	"sglang": {
		stage: func(e *stage) {
			_, servers := startFar(e.t, "127.0.0.1")
			e.put("10.0.0.12:30000", servers[0].address)
		},
		check: func(e *stage, plain, _ way) {
			if by := e.chatted(plain, "demo", ask{}); !strings.HasPrefix(by, "sglang-") {
				e.t.Errorf("answered by %q", by)
			}
			e.m.eventually("the servers of the other pool answer", func() bool {
				return plain.ask(e.t, ask{host: "overflow.example.com", path: "/x"}).StatusCode == http.StatusOK
			})
		},
	},
	"site": {
		stage: func(e *stage) {
			_, servers := startFar(e.t, "127.0.0.1")
			e.put("127.0.0.1:3000", servers[0].address)
			e.put("/var/log/stoker/access.log", filepath.Join(e.dir, "access.log"))
			for _, name := range []string{"example.com", "api.example.com"} {
				e.certify("/etc/letsencrypt/live/"+name+"/fullchain.pem", "/etc/letsencrypt/live/"+name+"/privkey.pem", name)
			}
		},
		check: checkSite,
	},
	"tls": {
		stage: func(e *stage) {
			for dir, name := range map[string]string{"api.example.com": "api.example.com", "wildcard.example.org": "*.example.org"} {
				e.certify("/etc/stoker/tls/"+dir+"/fullchain.pem", "/etc/stoker/tls/"+dir+"/privkey.pem", name)
			}
		},
		check: func(e *stage, plain, tls way) {
			plain.ask(e.t, ask{host: "api.example.com", path: "/v1/models"}).expect(308)
			tls.ask(e.t, ask{path: "/v1/models"}).expect(200, "Strict-Transport-Security: max-age=2592000")
			e.chatted(tls, "demo", ask{})
		},
	},
	"triton-grpc": {
		stage: func(e *stage) {
			e.certify("/etc/stoker/triton.pem", "/etc/stoker/triton.key", "localhost")
		},
		check: func(e *stage, plain, tls way) {
			for _, w := range []way{plain, tls} {
				c := dialGRPC(e.t, strings.SplitAfter(w.base, "//")[1], w.name == tls.name)
				answer, err := healthpb.NewHealthClient(c).Check(within(e.t), &healthpb.HealthCheckRequest{})
				if err != nil || answer.Status != healthpb.HealthCheckResponse_SERVING {
					e.t.Errorf("%s: %v, %v", w.name, answer, err)
				}
			}
		},
	},
	"two-models": {check: func(e *stage, plain, _ way) {
		for model, pool := range map[string]string{"qwen3": "qwen-0", "gpt-4o": "qwen-0", "llama-3.1": "llama-0"} {
			if by := e.chatted(plain, model, ask{}); by != pool {
				e.t.Errorf("%s answered by %q", model, by)
			}
		}
		list := plain.ask(e.t, ask{path: "/v1/models"})
		list.expect(200)
		for _, model := range []string{"qwen3", "llama-3.1", "gpt-4o"} {
			if !strings.Contains(list.body, `"`+model+`"`) {
				e.t.Errorf("%s is not in %s", model, list.body)
			}
		}
		plain.ask(e.t, ask{path: "/v1/chat/completions", body: chatBody("unknown", 1)}).expect(404)
	}},
	"uvicorn": {check: func(e *stage, plain, _ way) {
		a := plain.ask(e.t, ask{path: "/"})
		a.expect(200)
		if !strings.Contains(a.body, `"app-`) {
			e.t.Errorf("%s", a.body)
		}
		if a := plain.ask(e.t, ask{path: "/clock?ticks=1"}); !strings.HasSuffix(a.body, "data: [DONE]\n\n") {
			e.t.Errorf("%q", a.body)
		}
	}},
	"vllm": {check: func(e *stage, plain, _ way) {
		if by := e.chatted(plain, "llama-3.3-70b", ask{}); !strings.HasPrefix(by, "llm-") {
			e.t.Errorf("answered by %q", by)
		}
	}},
}

// checkSite is what examples/site promises.
func checkSite(e *stage, plain, tls way) {
	plain.ask(e.t, ask{host: "example.com", path: "/a?b=c"}).expect(308, "Location: https://example.com"+tlsPort(e)+"/a?b=c")
	e.m.eventually("the web application answers", func() bool {
		return tls.ask(e.t, ask{host: "example.com", path: "/"}).StatusCode == http.StatusOK
	})
	tls.ask(e.t, ask{host: "www.example.com", path: "/x"}).expect(301, "Location: https://example.com/x")
	tls.ask(e.t, ask{host: "api.example.com", path: "/ping"}).expect(200, "Content-Type: text/plain; charset=utf-8")
	for _, engine := range []string{"stable", "canary"} {
		fields := ""
		if engine == "canary" {
			fields = "X-Canary: yes"
		}
		if by := e.chatted(tls, "chat", ask{host: "api.example.com", fields: fields}); engine == "canary" && by != "canary-0" {
			e.t.Errorf("%s answered by %q", engine, by)
		}
	}
	tls.ask(e.t, ask{host: "api.example.com", path: "/v1/models"}).expect(200, "Strict-Transport-Security: max-age=2592000", "X-Content-Type-Options: nosniff", "Server:")
	tls.ask(e.t, ask{host: "unknown.example.net", path: "/"}).expect(404)
	e.m.eventually("the access log", func() bool {
		text, _ := os.ReadFile(filepath.Join(e.dir, "access.log"))
		return strings.Contains(string(text), `] "GET /ping HTTP/2.0" 200 `)
	})
}

// tlsPort is what a redirect has behind the host.
func tlsPort(e *stage) string { return e.s.address[strings.LastIndexByte(e.s.address, ':'):] }

// TestEveryExampleRuns runs every example, as it is but for addresses, certificates
// and engines that are not here.
func TestEveryExampleRuns(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../examples/*/stoker.toml")
	if err != nil {
		t.Fatal(err)
	}
	path := engines(t)
	left := len(exampleRuns)
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		t.Run(name, func(t *testing.T) {
			waits(t)
			run, known := exampleRuns[name]
			if !known {
				t.Fatal("no test runs it")
			}
			runExample(t, file, path, run)
		})
		left--
	}
	if left != 0 {
		t.Errorf("%d examples that are tested do not exist", left)
	}
}

func runExample(t *testing.T, file, path string, run exampleRun) {
	t.Helper()
	e := &stage{t: t, dir: t.TempDir(), s: newSecure(t)}
	if err := os.CopyFS(e.dir, os.DirFS(filepath.Dir(file))); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	e.text = string(text)
	if run.stage != nil {
		run.stage(e)
	}
	for _, listen := range []string{":443", ":8443"} {
		e.text = strings.Replace(e.text, fmt.Sprintf("listen_tls = [%q]", listen), fmt.Sprintf("listen_tls = [%q]", e.s.address), 1)
	}
	e.text = strings.Replace(e.text, `admin = "127.0.0.1:9900"`, fmt.Sprintf("admin = %q", freeAddress(t)), 1)
	staged := filepath.Join(e.dir, "stoker.toml")
	if err := os.WriteFile(staged, []byte(e.text), 0o644); err != nil {
		t.Fatal(err)
	}
	e.m = startAs(t, "", setup{
		args: []string{"run", "-c", staged, "--listen", "{listen}", "--run-dir", "{run_dir}", "--log-format", "json"},
		env:  []string{"PATH=" + path, "CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7"},
	})
	e.m.eventually("the admin socket", func() bool { return !e.m.running() || e.m.answersAdmin() })
	e.m.ready()
	all := ways(t, e.m, e.s)
	run.check(e, all[0], all[3])
	e.m.signal(15)
	if code := e.m.exit(patience); code != 0 {
		t.Errorf("exit code %d after TERM", code)
	}
}
