//go:build e2e

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"testing"
)

// TestModelsByOpenAIClients: the official clients see one list of the models of
// both pools, and take a model that nobody has for what they know it as.
func TestModelsByOpenAIClients(t *testing.T) {
	waits(t)
	m := example(t, "two-models")
	for name, client := range map[string]func(*testing.T) *exec.Cmd{
		"Node": func(t *testing.T) *exec.Cmd {
			t.Helper()
			cmd := exec.Command("node", "testdata/models.cjs", m.url("/v1"))
			cmd.Env = append(os.Environ(), "NODE_PATH="+nodeModules(t))
			return cmd
		},
		"Python": func(t *testing.T) *exec.Cmd {
			t.Helper()
			python := pythonOpenAI(t)
			script, err := os.ReadFile("testdata/models.py")
			if err != nil {
				t.Fatal(err)
			}
			return exec.Command(python[0], append(python[1:], "-c", string(script), m.url("/v1"))...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := client(t)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			want := "gpt-4o llama-3.1 qwen3\ntrue 404 invalid_request_error model model_not_found The model `gpt-9` does not exist\n"
			if err != nil || string(out) != want {
				t.Errorf("%v, got:\n%swant:\n%s%s", err, out, want, stderr.String())
			}
		})
	}
	m.stop()
}
