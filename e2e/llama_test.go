//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// chatClients are the official ones, each with a script that prints the same of
// the same stream.
var chatClients = []struct {
	name   string
	client func(*testing.T) *exec.Cmd
}{
	{"Node", func(t *testing.T) *exec.Cmd {
		t.Helper()
		modules := nodeModules(t)
		cmd := exec.Command("node", "testdata/chat.cjs")
		cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
		return cmd
	}},
	{"Python", func(t *testing.T) *exec.Cmd {
		t.Helper()
		python := pythonOpenAI(t)
		script, err := os.ReadFile("testdata/chat.py")
		if err != nil {
			t.Fatal(err)
		}
		// The Python may live in another root: the script goes as text.
		cmd := exec.Command(python[0], append(python[1:], "-c", string(script))...)
		cmd.Env = os.Environ()
		return cmd
	}},
}

// chat streams one completion from base, with what is added to the client's environment.
func chat(t *testing.T, client func(*testing.T) *exec.Cmd, base string, env ...string) string {
	t.Helper()
	cmd := client(t)
	// Some Pythons are reached through a chroot, with the environment kept.
	cmd.Args = append(cmd.Args, base)
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", base, err, stderr.String())
	}
	return string(out)
}

// TestLlamaServer puts two real llama-servers behind stoker and real openai
// clients before it: each must get through stoker exactly what it gets from
// an engine directly.
func TestLlamaServer(t *testing.T) {
	works(t)
	command := append(llama(t), "--host", "127.0.0.1", "--port", "{port}", "-c", "2048", "-np", "2", "--threads", "1")
	m := start(t, "[[pools]]\nname = \"llama\"\nworkers = 2\nhealth.path = \"/health\"\ncommand = "+list(command...)+"\n").allReady()
	for _, c := range chatClients {
		t.Run(c.name, func(t *testing.T) {
			ask := func(base string) string { return chat(t, c.client, base) }
			direct := ask("http://" + m.workers()[0].Address + "/v1")
			if strings.Count(direct, "\n") < 10 {
				t.Fatalf("directly, the answer is only:\n%s", direct)
			}
			for range m.workers() { // each has its turn
				if through := ask(m.url("/v1")); through != direct {
					t.Errorf("through stoker:\n%s\ndirectly:\n%s", through, direct)
				}
			}
		})
	}
	for _, w := range m.workers() {
		if n := m.metric("stoker_requests_total", `worker="`+w.Name+`"`); n == 0 {
			t.Errorf("%s had no request", w.Name)
		}
	}
	m.stop()
}
