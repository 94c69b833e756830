//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestBadInput: whatever is wrong before the first request is told on stderr
// in a sentence that names the thing, with the right exit code, and leaves
// nothing behind.
func TestBadInput(t *testing.T) {
	pool := "[[pools]]\nname = \"p\"\nworkers = 1\ncommand = " + list(engine("--socket", "{socket}")...) + "\n"
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// Not deferred: the parallel parts run on after this function.
	t.Cleanup(func() { taken.Close() })
	for _, c := range []struct {
		name string
		// config is the file's text; listen and run_dir are put before it unless
		// it begins with listen. In it and in args {dir}, {config} and {listen}
		// are replaced.
		config string
		args   []string
		code   int
		says   []string
	}{
		{name: "malformed", config: pool + "workers = = 3\n", code: 2, says: []string{"stoker.toml:7"}},
		{name: "unknown key", config: strings.Replace(pool, "workers", "wrokers", 1), code: 2, says: []string{"wrokers", "stoker.toml:5", `"workers"`}},
		{name: "all mistakes at once", config: strings.Replace(pool, "workers = 1", "workers = \"many\"\nstart_timeout = 5", 1), code: 2, says: []string{"workers", "start_timeout"}},
		{name: "wrong duration", config: pool + "start_timeout = \"fast\"\n", code: 2, says: []string{"start_timeout", "fast"}},
		{name: "two pools of one name", config: pool + pool, code: 2, says: []string{`"p"`}},
		{name: "no pool", config: "", code: 2, says: []string{"pool"}},
		{name: "missing binary", config: strings.Replace(pool, self, "/nowhere/to/be/found", 1), code: 2, says: []string{"/nowhere/to/be/found"}},
		{name: "route to an unknown pool", config: pool + "[[routes]]\npath = \"/v1\"\npool = \"q\"\n", code: 2, says: []string{`"q"`}},
		{name: "weights of zero", config: pool + "[[routes]]\n[[routes.split]]\npool = \"p\"\nweight = 0\n", code: 2, says: []string{"stoker.toml:10: routes[0].split[0].weight", "weight"}},
		{name: "a network that is none", config: "trusted_proxies = [\"10.0.0.0/33\"]\n" + pool, code: 2, says: []string{"stoker.toml:3: trusted_proxies[0]", "10.0.0.0/33"}},
		{name: "a network that means another", config: pool + "[access]\ndeny = [\"10.0.0.1/8\"]\n", code: 2, says: []string{"stoker.toml:8: access.deny[0]", `did you mean "10.0.0.0/8"`}},
		{name: "networks of proxies", config: pool + "[proxy_protocol]\nfrom = [\"lb\"]\n", code: 2, says: []string{"stoker.toml:8: proxy_protocol.from[0]", "is not a network"}},
		{name: "unreadable key", config: "listen_tls = [\"127.0.0.1:0\"]\n" + pool + "[[tls.certificates]]\ncert = \"{certs}/a.pem\"\nkey = \"{certs}/none.key\"\n", code: 2, says: []string{"stoker.toml:8: tls.certificates[0].key", "none.key does not exist"}},
		{name: "mismatched pair", config: "listen_tls = [\"127.0.0.1:0\"]\n" + pool + "[[tls.certificates]]\ncert = \"{certs}/a.pem\"\nkey = \"{certs}/b.key\"\n", code: 2, says: []string{"stoker.toml:8: tls.certificates[0].key", "is not that of the certificate in"}},
		{name: "cert and key swapped", config: "listen_tls = [\"127.0.0.1:0\"]\n" + pool + "[[tls.certificates]]\ncert = \"{certs}/a.key\"\nkey = \"{certs}/a.pem\"\n", code: 2, says: []string{"stoker.toml:7: tls.certificates[0].cert", "swapped"}},
		{name: "two certificates for a host", config: "listen_tls = [\"127.0.0.1:0\"]\n" + pool + "[[tls.certificates]]\ncert = \"{certs}/a.pem\"\nkey = \"{certs}/a.key\"\n[[tls.certificates]]\ncert = \"{certs}/b.pem\"\nkey = \"{certs}/b.key\"\n", code: 2, says: []string{"stoker.toml:10: tls.certificates[1].cert", "is for localhost", "(line 7)"}},
		{name: "two routes for a host", config: pool + "[[routes]]\nhost = \"a.test\"\npool = \"p\"\n[[routes]]\nhost = \"A.test.\"\npool = \"p\"\n", code: 2, says: []string{"stoker.toml:10: routes[1]", "is never reached", "(line 7)"}},
		{name: "ACME without a door", config: pool + "[tls.acme]\ndomains = [\"a.test\"]\nagree_terms = true\n", code: 2, says: []string{"stoker.toml:8: tls.acme.domains", "nothing listens with TLS"}},
		{name: "a wildcard by ACME", config: "listen_tls = [\"127.0.0.1:0\"]\n" + pool + "[tls.acme]\ndomains = [\"*.test\"]\nagree_terms = true\n", code: 2, says: []string{"stoker.toml:7: tls.acme.domains[0]", "DNS"}},
		{name: "port in use", config: "listen = [\"" + taken.Addr().String() + "\"]\nrun_dir = \"{dir}/run\"\n" + pool, args: []string{"run", "-c", "{config}"}, code: 1, says: []string{taken.Addr().String(), "in use"}},
		{name: "admin port in use", config: pool, args: []string{"run", "-c", "{config}", "--admin", taken.Addr().String()}, code: 1, says: []string{"admin listener", taken.Addr().String(), "in use", "listens there"}},
		{name: "socket path too long", config: "listen = [\"{listen}\"]\nrun_dir = \"{dir}/" + strings.Repeat("long/", 20) + "\"\n" + pool, args: []string{"run", "-c", "{config}"}, code: 2, says: []string{"run_dir", "10"}},
		{name: "no such address", config: "listen = [\"192.0.2.1:80\"]\nrun_dir = \"{dir}/new/run\"\n" + pool, args: []string{"run", "-c", "{config}"}, code: 1, says: []string{"192.0.2.1:80"}},
		{name: "no such file", args: []string{"run", "-c", "{dir}/none.toml"}, code: 2, says: []string{"none.toml"}},
		{name: "check finds the same", config: strings.Replace(pool, "workers", "wrokers", 1), args: []string{"check", "-c", "{config}"}, code: 2, says: []string{"wrokers", "stoker.toml:5"}},
		{name: "nothing to run", args: []string{"run"}, code: 2, says: []string{"-- COMMAND"}},
		{name: "missing binary on the command line", args: []string{"run", "--listen", "{listen}", "--run-dir", "{dir}/run", "--", "no-such-program"}, code: 2, says: []string{"no-such-program"}},
		{name: "unknown flag", args: []string{"run", "--wrokers", "3", "--", "true"}, code: 2, says: []string{"wrokers"}},
		{name: "unknown command", args: []string{"rnu"}, code: 2, says: []string{"rnu"}},
		{name: "unknown placeholder", config: strings.Replace(pool, "{socket}", "{sokcet}", 1), code: 2, says: []string{"{sokcet}"}},
		{name: "status without a master", args: []string{"status", "--run-dir", "{dir}/run"}, code: 1, says: []string{"no master"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			waits(t)
			dir := shortDir(t)
			replace := strings.NewReplacer("{dir}", dir, "{certs}", certificates(t, c.config), "{config}", filepath.Join(dir, "stoker.toml"), "{listen}", freeAddress(t))
			args, config := c.args, c.config
			if args == nil {
				args = []string{"run", "-c", "{config}"}
			}
			if !strings.HasPrefix(config, "listen") {
				config = "listen = [\"{listen}\"]\nrun_dir = \"{dir}/run\"\n" + config
			}
			if err := os.WriteFile(filepath.Join(dir, "stoker.toml"), []byte(replace.Replace(config)), 0o600); err != nil {
				t.Fatal(err)
			}
			for i := range args {
				args[i] = replace.Replace(args[i])
			}
			refuse(t, dir, nil, args, c.code, c.says)
			if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
				t.Errorf("left behind beside the configuration: %v (%v)", left, err)
			}
		})
	}
}

// certificates makes those that a configuration names, a and b, with keys of
// their own, for localhost both, and returns where they are.
func certificates(t *testing.T, config string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"a", "b"} {
		if strings.Contains(config, name+".pem") || strings.Contains(config, name+".key") {
			(&secure{cert: filepath.Join(dir, name+".pem"), key: filepath.Join(dir, name+".key")}).renew(t, 1)
		}
	}
	return dir
}

// TestDoubts: what is wrong and hurts nobody but its clients is said, with its
// line, and does not keep stoker from starting.
func TestDoubts(t *testing.T) {
	s := newSecure(t)
	s.until = time.Now().Add(-24 * time.Hour)
	s.renew(t, 7)
	file := filepath.Join(t.TempDir(), "stoker.toml")
	text := fmt.Sprintf("run_dir = %q\n", filepath.Join(shortDir(t), "run")) + s.config + fakePool(1) +
		"[[pools]]\nname = \"far\"\nqueue.timeout = \"100ms\"\nservers = [{address = \"nobody.invalid:80\"}]\n[[routes]]\npath = \"/far\"\npool = \"far\"\n[[routes]]\npool = \"p\"\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(binary, "check", "-c", file).CombinedOutput()
	if err != nil || !strings.Contains(string(out), file+":4: tls.certificates[0].cert: "+s.cert+" expired on ") {
		t.Errorf("check: %v\n%s", err, out)
	}
	m := start(t, strings.SplitN(text, "\n", 2)[1])
	m.eventually("it serves", func() bool { return (&caller{address: m.address}).get("/work").status == 200 })
	if got := s.serial(t); got != 7 {
		t.Errorf("certificate %d is shown", got)
	}
	m.eventually("both are said", func() bool {
		text := m.logText()
		return strings.Contains(text, "certificate expired on") && strings.Contains(text, "nobody.invalid") && strings.Contains(text, "cannot be resolved")
	})
	if a := (&caller{address: m.address}).get("/far"); a.status != 503 {
		t.Errorf("a pool without a server: %v", a)
	}
	m.stop()
}

// TestRunDirHeld: a second master is told who holds the run directory, and
// the first one does not notice.
func TestRunDirHeld(t *testing.T) {
	m := start(t, "[[pools]]\nname = \"p\"\nworkers = 1\ncommand = "+list(engine("--socket", "{socket}")...)+"\n").ready()
	dir := shortDir(t)
	args := append([]string{"run", "--listen", freeAddress(t), "--run-dir", m.runDir, "--"}, engine("--socket", "{socket}")...)
	refuse(t, dir, nil, args, 1, []string{m.runDir, "held by another"})
	if a := (&caller{address: m.address}).get("/work"); a.outcome != complete || a.status != 200 {
		t.Errorf("the first master after the second's attempt: %v", a)
	}
	m.stop()
}

// TestNoPermission runs as nobody where it may not write, and where it may
// not read its file.
func TestNoPermission(t *testing.T) {
	var user *syscall.Credential
	if os.Getuid() == 0 {
		user = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	dir := shortDir(t)
	locked, file := filepath.Join(dir, "locked"), filepath.Join(dir, "secret.toml")
	if err := os.WriteFile(file, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(locked, 0o555); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	refuse(t, dir, user, []string{"run", "--listen", freeAddress(t), "--run-dir", locked + "/run", "--", "/bin/sleep", "100"}, 1, []string{locked, "permission denied"})
	refuse(t, dir, user, []string{"run", "-c", file}, 2, []string{file, "permission denied"})

	pair := &secure{cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	pair.renew(t, 1)
	text := fmt.Sprintf("listen_tls = [\"127.0.0.1:0\"]\n[[tls.certificates]]\ncert = %q\nkey = %q\n", pair.cert, pair.key) + fakePool(1)
	secured := filepath.Join(dir, "tls.toml")
	if err := errors.Join(os.Chmod(pair.cert, 0o644), os.Chmod(pair.key, 0), os.WriteFile(secured, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
	refuse(t, dir, user, []string{"run", "-c", secured}, 2, []string{secured + ":4: tls.certificates[0].key: " + pair.key, "permission denied for user"})
}

// refuse runs stoker with something wrong, and checks that it says so.
func refuse(t *testing.T, dir string, user *syscall.Credential, args []string, code int, says []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	mark := "STOKER_E2E_MARK=" + filepath.Base(dir)
	cmd.Env = append(os.Environ(), mark)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	// An engine that should not be there holds the pipe: do not wait for it.
	cmd.WaitDelay = time.Second
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatalf("stoker %s: %v", strings.Join(args, " "), err)
	}
	t.Logf("%d: %s", cmd.ProcessState.ExitCode(), strings.TrimSpace(stderr.String()))
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Errorf("stoker %s: exit code %d, want %d", strings.Join(args, " "), got, code)
	}
	for _, words := range says {
		if !strings.Contains(stderr.String(), words) {
			t.Errorf("stderr does not say %q", words)
		}
	}
	if strings.Contains(stderr.String(), "goroutine ") || strings.Count(stderr.String(), "\n") > 8 {
		t.Errorf("stderr is no clear sentence")
	}
	for _, p := range descendantsOf(mark, dir+"/", cmd.Process.Pid) {
		t.Errorf("left behind: %v", p)
		_ = syscall.Kill(p.pid, syscall.SIGKILL)
	}
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type()&os.ModeSocket != 0 {
			t.Errorf("left behind: socket %s", path)
		}
		return nil
	})
}

// shortDir is a temporary directory with room for a socket's name below it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "stk") //nolint:usetesting // t.TempDir has the test's name in it: too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}
